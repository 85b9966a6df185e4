//! A span: what took place from when to when, and what is known of it.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use super::Context;

/// As OpenTelemetry numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Consumer = 5,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Text(Cow<'static, str>),
    Number(i64),
    Truth(bool),
}

pub type Attributes = Vec<(&'static str, Value)>;

#[derive(Clone, Debug)]
pub struct Span {
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub context: Context,
    /// The span that it is a part of, and whether that is another process's.
    pub parent: Option<(u64, bool)>,
    /// As `tracestate` has it.
    pub state: String,
    pub start: SystemTime,
    pub end: SystemTime,
    pub attributes: Attributes,
    /// Set where it failed.
    pub error: Option<String>,
}

/// The clock of one trace's spans: read once, so that they fit into each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: Instant,
    wall: SystemTime,
}

impl Clock {
    pub fn start() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }

    pub fn at(&self, moment: Instant) -> SystemTime {
        match moment.checked_duration_since(self.now) {
            Some(after) => self.wall + after,
            None => self.wall.checked_sub(self.now.duration_since(moment)).unwrap_or(self.wall),
        }
    }
}

impl Span {
    /// A part of this one.
    pub fn part(&self, name: impl Into<Cow<'static, str>>, (start, end): (SystemTime, SystemTime)) -> Self {
        Self {
            name: name.into(),
            kind: Kind::Internal,
            context: self.context.child(),
            parent: Some((self.context.span, false)),
            state: self.state.clone(),
            start,
            end,
            attributes: Vec::new(),
            error: None,
        }
    }

    /// Parts that came one after the other from its beginning on.
    pub fn steps(&self, steps: impl IntoIterator<Item = (&'static str, Duration)>) -> Vec<Self> {
        let mut start = self.start;
        let mut part = |(name, took): (&'static str, Duration)| {
            let part = self.part(name, (start, start + took));
            start += took;
            part
        };
        steps.into_iter().filter(|(_, took)| !took.is_zero()).map(&mut part).collect()
    }

    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}
