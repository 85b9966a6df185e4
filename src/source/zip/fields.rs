//! Little-endian numbers at given places of a record.

/// A record of a fixed size within the file, or `None` where the file ends before it does.
pub(super) fn record<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// Numbers of a record whose size is known: offsets are constants within it.
pub(super) struct Fields<'a, const N: usize>(pub(super) &'a [u8; N]);

impl<const N: usize> Fields<'_, N> {
    pub(super) fn u16<const AT: usize>(&self) -> u16 {
        const { assert!(AT + 2 <= N) };
        u16::from_le_bytes([self.0[AT], self.0[AT + 1]])
    }

    pub(super) fn u32<const AT: usize>(&self) -> u32 {
        const { assert!(AT + 4 <= N) };
        u32::from_le_bytes([self.0[AT], self.0[AT + 1], self.0[AT + 2], self.0[AT + 3]])
    }

    pub(super) fn u64<const AT: usize>(&self) -> u64 {
        const { assert!(AT + 8 <= N) };
        u64::from(self.u32::<AT>()) | u64::from(self.u32_at(AT + 4)) << 32
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

/// An extra field's records: APPNOTE 4.5. `Err` if they do not fill it exactly.
pub(super) fn extras(mut field: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), ()>> {
    std::iter::from_fn(move || {
        if field.is_empty() {
            return None;
        }
        let parse = || {
            let (head, rest) = field.split_first_chunk::<4>()?;
            let head = Fields(head);
            Some((head.u16::<0>(), rest.split_at_checked(head.u16::<2>().into())?))
        };
        Some(match parse() {
            Some((id, (data, rest))) => {
                field = rest;
                Ok((id, data))
            }
            None => {
                field = &[];
                Err(())
            }
        })
    })
}

/// The extra record that carries 64-bit numbers.
pub(super) const ZIP64: u16 = 0x0001;
/// The extra record that carries the name once more, in UTF-8.
pub(super) const UNICODE_PATH: u16 = 0x7075;
/// The value that says: look into the extra record.
pub(super) const IN_ZIP64: u32 = u32::MAX;

/// Reads 64-bit numbers off the front of a zip64 record, one for each field that says that it is there.
pub(super) struct Zip64<'a>(pub(super) &'a [u8]);

impl Zip64<'_> {
    /// The number itself, or the next one of the record; `None` if that has no more.
    pub(super) fn widen(&mut self, field: u32) -> Option<u64> {
        if field != IN_ZIP64 {
            return Some(field.into());
        }
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }
}
