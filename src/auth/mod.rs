//! Who may do what: tokens, their roles, and what is written down of it.
//!
//! - The store holds hashes only: a token is shown once, to whoever makes it, and is in nobody's list afterwards.
//! - A token is compared in constant time, whether there is one of its name or not.
//! - Every check reads the store (on each node its own copy), so that a revoked token is refused from then on.
//! - Whoever guesses waits: failures of one address are counted, and too many are answered without a look.

mod admin;
mod audit;
mod credentials;
mod door;
mod error;
mod failures;
mod role;
mod token;
mod tokens;

pub use admin::{AdminToken, ensure_admin};
pub use audit::{Audit, Entry};
pub use credentials::{Credentials, is_platform_token};
pub use door::{Caller, Door, Refused};
pub use error::AuthError;
pub use role::{InvalidRole, Need, Role};
pub use token::{InvalidTokenName, Token, TokenName};
pub use tokens::{TokenInfo, Tokens};
