//! Layers, splice, build, OCI layout, docker archive. Synchronous, no network, no clock.
//!
//! Read it in this order:
//!
//! 1. [`Layer`]: digest, diff ID, size, and bytes when asked. Everything else makes one or takes one.
//! 2. `tar` and `gzip`: the two formats, written by hand so that the same tree always gives the same bytes.
//! 3. `splice`: a zip's own deflate streams, dressed as a gzipped tar. `inflate` reads the same tar back for its diff ID.
//! 4. [`LayerWriter`], and [`write_tree`] and `pack` on top of it: what is no zip, compressed at a fixed level.
//! 5. [`build`]: a base, a source, a config → an [`Image`]. [`Layout`] and [`write_docker_archive`] keep it in files.
//!
//! A caller that is in a hurry works in stages, each on a thread of its own:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let layout = fnbuild::image::Layout::open("bases")?;
//! # let base = fnbuild::image::Base::open(&layout, "python")?;
//! use fnbuild::{image, source};
//!
//! let source = Arc::new(source::Source::open("func.zip".as_ref(), &source::Options::default())?);
//! let code = image::code_layer(&source);
//! let image = std::thread::scope(|scope| {
//!     // One pass over the compressed bytes gives their digest, and then they can be sent …
//!     let upload = scope.spawn(|| code.descriptor().map(|descriptor| (descriptor, code.open())));
//!     // … while another inflates and checks every entry. Only then is there a config, and a manifest.
//!     let image = image::build(&base, &source, &code, &image::Options::default());
//!     upload.join().unwrap()?;
//!     image
//! })?;
//! println!("{}", image.descriptor().digest);
//! # Ok(()) }
//! ```

mod archive;
mod base;
mod blob;
mod build;
mod error;
mod gzip;
mod index;
mod inflate;
mod layer;
mod layout;
mod pack;
mod splice;
mod tar;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

pub use archive::write_docker_archive;
pub use base::Base;
pub use blob::BlobWriter;
pub use build::{Image, Options, build, code_layer};
pub use error::ImageError;
pub use index::Index;
pub use layer::{Chunks, Layer};
pub use layout::Layout;
pub use tree::write_tree;
pub use writer::{LayerWriter, Level, Written};

/// The folder in the image that holds all of the user's code, without a leading slash. Never `/` itself: a `lib/` of
/// the user's would replace the base's `/lib` link, and nothing would run any more.
const CODE_FOLDER: &str = "function";
