//! Layers and configs as the registry's client wants them, and a meter on what has gone out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::image::Layer;
use crate::oci::{Descriptor, Digest};
use crate::registry::{Chunks, Content};

/// How much is to be sent, and how much has been. Read by whoever draws a progress bar.
#[derive(Default, Debug)]
pub struct Meter {
    total: AtomicU64,
    sent: AtomicU64,
}

impl Meter {
    /// `(sent, total)` in bytes. `total` grows when another blob turns out to be missing.
    pub fn read(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// A layer on its way up.
pub(super) struct LayerContent {
    layer: Layer,
    descriptor: Descriptor,
    meter: Arc<Meter>,
}

impl LayerContent {
    pub fn new(layer: Layer, descriptor: Descriptor, meter: &Arc<Meter>) -> Self {
        meter.total.fetch_add(descriptor.size, Ordering::Relaxed);
        Self { layer, descriptor, meter: meter.clone() }
    }
}

impl Content for LayerContent {
    fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    fn size(&self) -> u64 {
        self.descriptor.size
    }

    fn chunks(&self) -> io::Result<Chunks> {
        let chunks = self.layer.chunks().map_err(io::Error::other)?;
        let meter = self.meter.clone();
        Ok(Box::new(chunks.inspect(move |chunk| {
            let length = chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
            meter.sent.fetch_add(length, Ordering::Relaxed);
        })))
    }
}
