//! Recipes, locks, Debian packages and wheels → a base image.
//!
//! [`Recipe`] is what people write, [`Lock`] what it resolved to, [`build()`] makes the image: `debian` unpacks packages,
//! `rootfs` makes a root file system of them, `wheels` adds Flask, `compile` the bytecode. The image goes into an OCI
//! layout, under a tag. Nothing here talks to a registry.

mod build;
mod compile;
mod debian;
mod error;
mod lock;
mod platform;
mod recipe;
mod rootfs;
mod sources;
mod tool;
mod wheels;

pub use build::{Built, Request, Strictness, build};
pub use error::BaseError;
pub use lock::{Drift, Lock, Locked, Package, Wheel};
pub use recipe::Recipe;
pub use tool::Stop;

/// The base that a function stands on unless another is named.
pub const DEFAULT: &str = "python3.11-flask2.3";
