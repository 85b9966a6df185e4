//! OCI's nouns as plain data: digest, reference, descriptor, manifest, index, config.
//!
//! Nothing here reads a file, opens a socket or looks at the clock. Every map is a `BTreeMap` and every field has a
//! fixed place, so that the same value always serialises to the same bytes: a digest may be taken of them. (That is
//! why these are our own types and not `oci-spec`'s, whose maps have no order; a test reads ours back with its.)

mod config;
mod descriptor;
mod digest;
mod manifest;
pub mod media_type;
mod reference;

pub use config::{ContainerConfig, Empty, History, ImageConfig, Platform, RootFs};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, Hasher, InvalidDigest};
pub use manifest::{ImageIndex, ImageManifest};
pub use reference::{InvalidReference, Reference, Repository, Tag};

/// Keys and values that travel with an image: labels, annotations. Sorted, so that they serialise always alike.
pub type Annotations = std::collections::BTreeMap<String, String>;
