//! What a function takes: its parameters as they stand in its source, for people to read.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One parameter of `run`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parameter {
    pub name: String,
    pub kind: ParameterKind,
    /// As source text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// As source text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
}

/// `inspect.Parameter.kind`, by its own names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ParameterKind {
    PositionalOnly,
    PositionalOrKeyword,
    /// `*args`
    VarPositional,
    KeywordOnly,
    /// `**kwargs`
    VarKeyword,
}

/// As Python writes it: `x: int = 3`, `*args`.
impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stars = match self.kind {
            ParameterKind::VarPositional => "*",
            ParameterKind::VarKeyword => "**",
            _ => "",
        };
        write!(f, "{stars}{}", self.name)?;
        match (&self.annotation, &self.default) {
            (Some(annotation), Some(default)) => write!(f, ": {annotation} = {default}"),
            (Some(annotation), None) => write!(f, ": {annotation}"),
            (None, Some(default)) => write!(f, "={default}"),
            (None, None) => Ok(()),
        }
    }
}

/// A whole list as Python writes it between the parentheses, on one line.
pub fn signature(parameters: &[Parameter]) -> String {
    use ParameterKind::{KeywordOnly, PositionalOnly, VarPositional};
    let mut words: Vec<String> = Vec::new();
    let mut before = None;
    for parameter in parameters {
        if before == Some(PositionalOnly) && parameter.kind != PositionalOnly {
            words.push("/".into());
        }
        if parameter.kind == KeywordOnly && !matches!(before, Some(KeywordOnly | VarPositional)) {
            words.push("*".into());
        }
        words.push(parameter.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
        before = Some(parameter.kind);
    }
    if before == Some(PositionalOnly) {
        words.push("/".into());
    }
    words.join(", ")
}
