//! Tar headers: POSIX ustar, with a pax header only where ustar cannot say it.
//!
//! By hand, because a digest depends on every byte: owner 0, no names, a fixed time, and no pax record that is not needed.

/// Everything in a tar comes in blocks of this size.
const BLOCK: usize = 512;
/// Two empty blocks end an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The largest number that eleven octal digits hold: 8 GiB.
const MAX_OCTAL: u64 = 0o77_777_777_777;

/// What an entry is. Folders and links have no content.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    Folder,
    File { size: u64 },
    Link { target: &'a str },
}

/// One entry without its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    /// Relative, with `/` between its parts and none at either end.
    pub(super) path: &'a str,
    pub(super) kind: Kind<'a>,
    /// Permission bits only.
    pub(super) mode: u32,
    /// Seconds since 1970.
    pub(super) mtime: u64,
}

impl Header<'_> {
    /// Appends the entry's header blocks.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (size, flag, target) = match self.kind {
            Kind::Folder => (0, b'5', ""),
            Kind::File { size } => (size, b'0', ""),
            Kind::Link { target } => (0, b'2', target),
        };
        let slash = if flag == b'5' { "/" } else { "" };
        let length = self.path.len() + slash.len();
        let split = split(self.path, length);
        let mut records = Vec::new();
        if split.is_none() || !self.path.is_ascii() {
            record(&mut records, "path", &[self.path, slash].concat());
        }
        if target.len() > 100 || !target.is_ascii() {
            record(&mut records, "linkpath", target);
        }
        if size > MAX_OCTAL {
            record(&mut records, "size", &size.to_string());
        }
        if !records.is_empty() {
            let length = records.len();
            block(
                out,
                Fields { name: b"pax", mode: 0o644, size: length as u64, flag: b'x', ..Fields::default() },
            );
            out.extend_from_slice(&records);
            out.resize(out.len() + padding(length as u64), 0);
        }
        // Where pax carries the path, the old field holds as much of it as there is room for.
        let (prefix, name) = split.unwrap_or(("", self.path));
        let mut name = name.as_bytes()[..name.len().min(100 - slash.len())].to_vec();
        name.extend_from_slice(slash.as_bytes());
        let fields = Fields {
            name: &name,
            prefix: prefix.as_bytes(),
            target: &target.as_bytes()[..target.len().min(100)],
            mode: self.mode,
            size: if size > MAX_OCTAL { 0 } else { size },
            mtime: self.mtime,
            flag,
        };
        block(out, fields);
    }
}

/// How many zeros follow content of this size.
pub(super) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// `(prefix, name)`: a path of up to 100 bytes as it is, a longer one cut at a slash, if there is one in the right place.
fn split(path: &str, length: usize) -> Option<(&str, &str)> {
    if length <= 100 {
        return Some(("", path));
    }
    // The first slash that leaves a name short enough also leaves the shortest prefix.
    let at = path.bytes().enumerate().position(|(i, b)| b == b'/' && length - i - 1 <= 100)?;
    (1..=155).contains(&at).then(|| (&path[..at], &path[at + 1..]))
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
}

#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    prefix: &'a [u8],
    target: &'a [u8],
    mode: u32,
    size: u64,
    mtime: u64,
    flag: u8,
}

fn block(out: &mut Vec<u8>, fields: Fields<'_>) {
    let mut block = [0; BLOCK];
    let mut text = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    text(0, fields.name);
    text(100, &octal::<7>(fields.mode.into()));
    text(108, &octal::<7>(0));
    text(116, &octal::<7>(0));
    text(124, &octal::<11>(fields.size));
    text(136, &octal::<11>(fields.mtime.min(MAX_OCTAL)));
    text(148, b"        ");
    text(156, &[fields.flag]);
    text(157, fields.target);
    text(257, b"ustar\x0000");
    text(345, fields.prefix);
    // The checksum counts its own field as spaces.
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    block[148..154].copy_from_slice(&octal::<6>(sum));
    block[154] = 0;
    out.extend_from_slice(&block);
}

/// The lowest `N` octal digits.
fn octal<const N: usize>(mut value: u64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    digits
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn read_back(header: Header<'_>) -> (String, u64, u32, Option<String>, ::tar::EntryType) {
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        assert_eq!(bytes.len() % BLOCK, 0);
        bytes.extend_from_slice(&END);
        let mut archive = ::tar::Archive::new(&bytes[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        let link = entry.link_name().unwrap().map(|p| p.to_str().unwrap().to_string());
        let path = entry.path().unwrap().to_str().unwrap().to_string();
        (path, entry.size(), entry.header().mode().unwrap(), link, entry.header().entry_type())
    }

    #[test]
    fn names_of_every_length_come_back() {
        for length in (1..300).chain([1000, 3072]) {
            for every in [7, 99, 150, 5000] {
                let path: String = (0..length)
                    .map(|i| if i % every == every - 1 && i + 1 < length { '/' } else { 'a' })
                    .collect();
                let header = Header { path: &path, kind: Kind::File { size: 0 }, mode: 0o755, mtime: 0 };
                assert_eq!(read_back(header).0, path);
                let header = Header { kind: Kind::Folder, ..header };
                assert_eq!(read_back(header).0.trim_end_matches('/'), path);
            }
        }
    }

    #[test]
    fn what_ustar_cannot_say_goes_into_pax() {
        let long = "é/".repeat(80) + "x";
        let header = Header { path: &long, kind: Kind::Link { target: &long }, mode: 0o777, mtime: 0 };
        let (path, _, mode, link, kind) = read_back(header);
        assert_eq!((path.as_str(), link.as_deref(), mode), (long.as_str(), Some(long.as_str()), 0o777));
        assert!(kind.is_symlink());
        let mut bytes = Vec::new();
        Header { path: "a", kind: Kind::File { size: 1 << 40 }, mode: 0o644, mtime: 0 }.write(&mut bytes);
        let mut text = String::new();
        bytes[BLOCK..].take(22).read_to_string(&mut text).unwrap();
        assert!(text.starts_with("22 size=1099511627776"), "{text}");
    }

    #[test]
    fn ascii_that_fits_needs_one_block() {
        let mut bytes = Vec::new();
        Header { path: "function/func.py", kind: Kind::File { size: 5 }, mode: 0o644, mtime: 0 }
            .write(&mut bytes);
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(padding(5), 507);
        assert_eq!(padding(512), 0);
        assert_eq!(padding(0), 0);
    }
}
