//! `index.json`: every tag, as an OCI image layout has it, so that other tools can read the folder as it lies.
//!
//! The journal is the truth; this is written from it now and then (at a stop, after a collection), and never read back.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use super::index::Index;
use super::record::{ManifestRecord, Record};
use crate::oci::{Descriptor, media_type};

/// Where a reference of a layout stands: image-spec, "Pre-Defined Annotation Keys".
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Repositories copied from the index at once.
const STEP: usize = 64;

/// Writes `index.json`: one entry for each tag, named `REPOSITORY:TAG`.
pub fn write(root: &Path, index: &RwLock<Index>) -> io::Result<()> {
    let unfinished = root.join("index.json.tmp");
    let mut out = BufWriter::new(File::create(&unfinished)?);
    write!(out, r#"{{"schemaVersion":2,"mediaType":"{}","manifests":["#, media_type::INDEX)?;
    let (mut last, mut separator) = (String::new(), "");
    loop {
        let step = index.read().unwrap_or_else(PoisonError::into_inner).records_behind(&last, STEP);
        let Some((records, name)) = step else { break };
        for record in &records {
            let Record::Manifest(manifest) = record else { continue };
            for descriptor in descriptors(manifest) {
                out.write_all(separator.as_bytes())?;
                serde_json::to_writer(&mut out, &descriptor)?;
                separator = ",";
            }
        }
        last = name;
    }
    out.write_all(b"]}")?;
    out.flush()?;
    fs::rename(&unfinished, root.join("index.json"))
}

fn descriptors(manifest: &ManifestRecord) -> impl Iterator<Item = Descriptor> {
    manifest.tags.iter().map(|tag| {
        let digest = manifest.digest.clone();
        let mut descriptor = Descriptor::new(manifest.media_type.as_str(), digest, manifest.size);
        let name = format!("{}:{}", manifest.repository, tag);
        descriptor.annotations.insert(REF_NAME.into(), name);
        descriptor
    })
}
