//! Byte ranges of requests: RFC 9110, section 14, one range at a time, and the chunk ranges of the distribution-spec.

/// What a `Range` header asks of a body of known length.
#[derive(PartialEq, Eq, Debug)]
pub enum Wanted {
    /// No range, one of another unit, or several: the whole body answers those.
    All,
    /// `offset` and `length`, within the body.
    Part { offset: u64, length: u64 },
    /// No byte of the body.
    Nothing,
}

pub fn wanted(header: &str, size: u64) -> Wanted {
    let Some(range) = header.trim().strip_prefix("bytes=").filter(|range| !range.contains(',')) else {
        return Wanted::All;
    };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::All };
    let number = |text: &str| text.parse::<u64>().ok();
    let (first, last) = match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(0) => return Wanted::Nothing,
            Some(suffix) => (size.saturating_sub(suffix), size.saturating_sub(1)),
            None => return Wanted::All,
        },
        (first, "") => match number(first) {
            Some(first) => (first, size.saturating_sub(1)),
            None => return Wanted::All,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) => (first, last.min(size.saturating_sub(1))),
            _ => return Wanted::All,
        },
    };
    if first >= size || first > last {
        return Wanted::Nothing;
    }
    Wanted::Part { offset: first, length: last - first + 1 }
}

/// The `Content-Range` of a chunk: `FIRST-LAST`, both inclusive; `bytes FIRST-LAST/SIZE` is read too, as some send it.
pub fn chunk(header: &str) -> Option<(u64, u64)> {
    let range = header.trim();
    let range = range.strip_prefix("bytes ").or_else(|| range.strip_prefix("bytes=")).unwrap_or(range);
    let (first, last) = range.split('/').next()?.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (first, last) = (digits(first) && digits(last)).then_some((first, last))?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// `Range: 0-N` of an upload. Nothing yet is written `0-0`, as every registry does: clients read a number there.
pub fn received(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        let part = |offset, length| Wanted::Part { offset, length };
        for (header, expected) in [
            ("bytes=500-1499", part(500, 1000)),
            ("bytes=500-", part(500, 1548)),
            ("bytes=-500", part(1548, 500)),
            ("bytes=-5000", part(0, 2048)),
            ("bytes=2000-5000", part(2000, 48)),
            ("bytes=500-0", Wanted::Nothing),
            ("bytes=2048-", Wanted::Nothing),
            ("bytes=5000-10000", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=0-1,5-6", Wanted::All),
            ("lines=1-2", Wanted::All),
            ("bytes=a-b", Wanted::All),
        ] {
            assert_eq!(wanted(header, 2048), expected, "{header}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn chunks_are_inclusive_and_in_order() {
        assert_eq!(chunk("0-9"), Some((0, 9)));
        assert_eq!(chunk("bytes 10-19/20"), Some((10, 19)));
        for text in ["", "9-0", "-9", "0-", "a-b", "+1-2"] {
            assert_eq!(chunk(text), None, "{text}");
        }
        assert_eq!((received(0), received(10)), ("0-0".into(), "0-9".into()));
    }
}
