//! The one way from a source to a pushed image, for the command line and the server alike.

mod published;

pub use crate::registry::Error as RegistryError;
pub use published::Published;
