//! Gzip members, made by hand: RFC 1952 around RFC 1951.
//!
//! A gzip file is any number of members, one after the other; a reader sees one stream. Two kinds are made here: an
//! envelope (`HEADER` and `trailer`) round somebody else's deflate stream, and a [`Member`] that is written from scratch, for tar headers. These
//! are a few letters and long runs of zeros, so runs are all that it looks for: as small as a real compressor makes them
//! within a few bytes, at the speed of a copy, and the same on every processor.

use crc32fast::Hasher as Crc;

/// Deflate, no flags, no time, no name, unknown system: the same for everybody.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Deflate's stored blocks have a 16-bit length.
pub(super) const MAX_STORED: usize = 65_535;

/// What ends a member: the CRC-32 and the size of what it inflates to, modulo 2³².
pub(super) fn trailer(crc: u32, size: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes[4..].copy_from_slice(&(size as u32).to_le_bytes());
    bytes
}

/// A member under construction: blocks of runs and blocks of stored bytes, in any order.
#[derive(Default)]
pub(super) struct Member {
    bits: u64,
    /// How many of `bits` are not written yet; below 8 between calls.
    count: u32,
    crc: Crc,
    size: u64,
    open: bool,
}

impl Member {
    /// Adds bytes as a block of literals and runs, in deflate's fixed code.
    pub(super) fn runs(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.start(bytes, out);
        self.put(0b010, 3, out);
        let mut rest = bytes;
        while let [first, after @ ..] = rest {
            let (code, width) = LITERALS[usize::from(*first)];
            self.put(code, width, out);
            rest = after;
            // A match at distance 1 repeats the byte just written; deflate's matches are 3 to 258 long.
            loop {
                let run = rest.iter().take(258).take_while(|b| *b == first).count();
                if run < 3 {
                    break;
                }
                let (code, width) = RUNS[run];
                self.put(code, width, out);
                rest = &rest[run..];
            }
        }
        self.put(END_OF_BLOCK.0, END_OF_BLOCK.1, out);
    }

    /// Adds bytes as they are.
    pub(super) fn stored(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for block in bytes.chunks(MAX_STORED) {
            self.start(block, out);
            self.put(0b000, 3, out);
            self.align(out);
            let length = block.len() as u16;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(block);
        }
    }

    /// Ends the member with an empty last block. Does nothing if none was begun.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.open {
            self.put(0b011, 3, out);
            self.put(END_OF_BLOCK.0, END_OF_BLOCK.1, out);
            self.align(out);
            out.extend_from_slice(&trailer(self.crc.clone().finalize(), self.size));
            *self = Self::default();
        }
    }

    fn start(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if !self.open {
            out.extend_from_slice(&HEADER);
            self.open = true;
        }
        self.crc.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// Deflate fills bytes from the lowest bit up. `width` is at most 32.
    fn put(&mut self, code: u32, width: u32, out: &mut Vec<u8>) {
        self.bits |= u64::from(code) << self.count;
        self.count += width;
        while self.count >= 8 {
            out.push(self.bits as u8);
            self.bits >>= 8;
            self.count -= 8;
        }
    }

    fn align(&mut self, out: &mut Vec<u8>) {
        if self.count > 0 {
            out.push(self.bits as u8);
        }
        (self.bits, self.count) = (0, 0);
    }
}

/// Code and width, ready to be written from the lowest bit up.
type Code = (u32, u32);

const END_OF_BLOCK: Code = symbol(256);

const LITERALS: [Code; 256] = {
    let mut table = [(0, 0); 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = symbol(byte as u32);
        byte += 1;
    }
    table
};

/// For each length from 3 to 258 the whole match: length symbol, extra bits, and the five zero bits of distance 1.
const RUNS: [Code; 259] = {
    let mut table = [(0, 0); 259];
    let mut length = 3;
    while length <= 258 {
        let (symbol_of, extra, extra_width) = length_symbol(length as u32);
        let (code, width) = symbol(symbol_of);
        table[length] = (code | extra << width, width + extra_width + 5);
        length += 1;
    }
    table
};

/// RFC 1951, 3.2.6: the fixed code.
const fn symbol(symbol: u32) -> Code {
    let (code, width) = match symbol {
        0..=143 => (0b0011_0000 + symbol, 8),
        144..=255 => (0b1_1001_0000 + symbol - 144, 9),
        256..=279 => (symbol - 256, 7),
        _ => (0b1100_0000 + symbol - 280, 8),
    };
    // Huffman codes alone are packed from their highest bit.
    (code.reverse_bits() >> (32 - width), width)
}

/// RFC 1951, 3.2.5: symbol, extra bits, and how many of them.
const fn length_symbol(length: u32) -> (u32, u32, u32) {
    match length {
        3..=10 => (254 + length, 0, 0),
        258 => (285, 0, 0),
        _ => {
            // Four symbols share each width of extra bits; the widths double the step.
            let offset = length - 3;
            let extra = (offset.ilog2()) - 2;
            (257 + 4 * extra + (offset >> extra), offset & ((1 << extra) - 1), extra)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn inflate(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn runs_of_every_length_come_back() {
        for length in 0..1200 {
            for byte in [0, b'0', 143, 144, 255] {
                let mut text = vec![7];
                text.resize(length + 1, byte);
                text.push(8);
                let (mut member, mut out) = (Member::default(), Vec::new());
                member.runs(&text, &mut out);
                member.finish(&mut out);
                assert_eq!(inflate(&out), text, "{length} times {byte}");
            }
        }
    }

    #[test]
    fn a_tar_header_takes_little() {
        let mut header = Vec::new();
        let kind = super::super::tar::Kind::File { size: 12_345 };
        super::super::tar::Header { path: "function/package/module.py", kind, mode: 0o644, mtime: 0 }
            .write(&mut header);
        let (mut member, mut out) = (Member::default(), Vec::new());
        member.runs(&header, &mut out);
        member.finish(&mut out);
        assert!(out.len() < 120, "{}", out.len());
    }

    #[test]
    fn nothing_makes_no_member() {
        let (mut member, mut out) = (Member::default(), Vec::new());
        member.runs(b"", &mut out);
        member.stored(b"", &mut out);
        member.finish(&mut out);
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn blocks_in_any_order_come_back(
            blocks in proptest::collection::vec((any::<bool>(), proptest::collection::vec(0u8..3, 0..2000)), 0..12),
            last in any::<u8>(),
        ) {
            let (mut member, mut out) = (Member::default(), Vec::new());
            let mut text = Vec::new();
            for (stored, block) in &blocks {
                if *stored { member.stored(block, &mut out) } else { member.runs(block, &mut out) }
                text.extend_from_slice(block);
            }
            member.stored(&[last], &mut out);
            text.push(last);
            member.finish(&mut out);
            prop_assert_eq!(inflate(&out), text);
        }
    }
}
