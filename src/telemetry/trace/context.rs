//! Where something stands in a trace, and how that is told from one process to the next: W3C Trace Context.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u8 = 1;
/// Of an ID whose lower bytes are random, by the specification's second level; passed on as it came.
const RANDOM: u8 = 2;

/// A span, as others know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Neither is zero.
    pub trace: u128,
    pub span: u64,
    flags: u8,
}

impl Context {
    /// What a caller says of itself; `None` where it says nothing, or nothing that can be understood.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let (Some(only), None) = (all.next(), all.next()) else { return None };
        Self::parse(only.to_str().ok()?.trim())
    }

    /// `VERSION-TRACE-SPAN-FLAGS`; what a later version than 00 puts behind it is not looked at.
    fn parse(text: &str) -> Option<Self> {
        let lower = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let hex = |part: Option<&str>, length: usize| {
            let part = part.filter(|part| part.len() == length && lower(part))?;
            u128::from_str_radix(part, 16).ok()
        };
        let mut parts = text.split('-');
        let version = hex(parts.next(), 2).filter(|version| *version != 0xff)?;
        let trace = hex(parts.next(), 32).filter(|id| *id != 0)?;
        let span = u64::try_from(hex(parts.next(), 16)?).ok().filter(|id| *id != 0)?;
        let flags = u8::try_from(hex(parts.next(), 2)?).ok()?;
        if version == 0 && parts.next().is_some() {
            return None;
        }
        Some(Self { trace, span, flags: flags & (SAMPLED | RANDOM) })
    }

    /// The first of a trace. Of all of them this share is sampled; the same one everywhere, as the trace's ID decides.
    pub fn root(share: f64) -> Self {
        let mut random = [0; 16];
        // Without randomness IDs repeat and traces run into each other: a pity, and no danger.
        let _ = getrandom::fill(&mut random);
        let trace = u128::from_be_bytes(random).max(1);
        // The lower 56 bits are those that are random by the specification.
        let place = (trace & ((1 << 56) - 1)) as f64 / (1u64 << 56) as f64;
        Self { trace, span: new_span(), flags: RANDOM | if place < share { SAMPLED } else { 0 } }
    }

    /// Another span of the same trace.
    pub fn child(&self) -> Self {
        Self { span: new_span(), ..*self }
    }

    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// As `traceparent` has it.
    pub fn header(&self) -> HeaderValue {
        let Self { trace, span, flags } = self;
        let text = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// What the systems that a trace went through keep with it.
pub fn state_of(headers: &HeaderMap) -> String {
    let all: Vec<&str> = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    all.join(",")
}

fn new_span() -> u64 {
    getrandom::u64().unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read() {
        let context = Context::parse(GOOD).unwrap();
        assert_eq!(context.header(), GOOD);
        assert_eq!((context.span, context.is_sampled()), (0xb7ad_6b71_6920_3331, true));
        let child = context.child();
        assert!(child.trace == context.trace && child.span != context.span && child.is_sampled());
        assert!(Context::parse(&format!("01{}-more", &GOOD[2..])).is_some(), "a later version says more");
    }

    #[test]
    fn nothing_else_is_understood() {
        let swap = |from: &str, to: &str| GOOD.replace(from, to);
        for wrong in [
            String::new(),
            "00-1-2-01".into(),
            format!("{GOOD}-more"),
            format!("ff{}", &GOOD[2..]),
            swap("0af7", "0AF7"),
            swap("0af7", "+af7"),
            swap("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            swap("b7ad6b7169203331", &"0".repeat(16)),
            swap("-01", "-1"),
        ] {
            assert_eq!(Context::parse(&wrong), None, "{wrong}");
        }
        let twice = [GOOD, GOOD].map(|value| (TRACEPARENT, HeaderValue::from_static(value)));
        assert_eq!(Context::of(&twice.into_iter().collect()), None);
    }

    #[test]
    fn a_share_of_the_traces_is_sampled() {
        let sampled = |share| (0..2000).filter(|_| Context::root(share).is_sampled()).count();
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 2000));
        assert!((700..1300).contains(&sampled(0.5)));
    }
}
