//! How much a source may be. Each has a flag.

/// The most that is taken. Real bytes count, whatever a header declares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes of the file handed in; of a folder, the sum of its files.
    pub source: u64,
    /// Bytes of all files together, once unpacked.
    pub unpacked: u64,
    /// Files, folders and links, the folders that are only implied by a path included.
    pub entries: usize,
    /// Once more than [`Bounds::RATIO_FROM`] bytes come out: how many may come out for one that goes in.
    pub ratio: u64,
}

impl Bounds {
    /// Below this, no ratio is suspicious.
    pub const RATIO_FROM: u64 = 32 << 20;
}

impl Default for Bounds {
    fn default() -> Self {
        Self { source: 50 << 20, unpacked: 250 << 20, entries: 100_000, ratio: 250 }
    }
}
