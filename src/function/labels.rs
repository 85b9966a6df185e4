//! The labels by which OpenFaaS's users say how a function scales.

use std::collections::BTreeMap;

use super::{InvalidSetting, Settings};

const SCALE_MIN: &str = "com.openfaas.scale.min";
const SCALE_MAX: &str = "com.openfaas.scale.max";
const SCALE_ZERO: &str = "com.openfaas.scale.zero";
const SCALE_TARGET: &str = "com.openfaas.scale.target";
const SCALE_TYPE: &str = "com.openfaas.scale.type";

/// What they come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LabelledScale {
    pub min: u32,
    pub max: u32,
    /// Calls at once for each replica, where that is what is said.
    pub concurrency: Option<u32>,
}

impl LabelledScale {
    /// One replica stays up, as OpenFaaS has it, unless a label says another number, or that none need.
    pub fn of(labels: &BTreeMap<String, String>) -> Result<Self, InvalidSetting> {
        let label = |key: &str| labels.get(key).map(String::as_str);
        let number = |key| label(key).map(|text| number(key, text)).transpose();
        let usual = u32::from(label(SCALE_ZERO) != Some("true"));
        let min = number(SCALE_MIN)?.unwrap_or(usual);
        let max = number(SCALE_MAX)?.unwrap_or_else(|| Settings::default().max_scale.max(min));
        let capacity = label(SCALE_TYPE).is_none_or(|kind| kind == "capacity");
        let concurrency = number(SCALE_TARGET)?.filter(|_| capacity);
        Ok(Self { min, max, concurrency })
    }
}

fn number(label: &'static str, text: &str) -> Result<u32, InvalidSetting> {
    let expected = match label {
        SCALE_TARGET => "a number of calls at once, for example 8",
        _ => "a number of replicas, for example 2",
    };
    text.parse().map_err(|_| InvalidSetting::Label { label, text: text.chars().take(80).collect(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_cannot_be_read_is_named() {
        let labels = BTreeMap::from([(SCALE_MIN.to_string(), "x".to_string())]);
        let told = LabelledScale::of(&labels).unwrap_err().to_string();
        assert_eq!(
            told,
            "the label com.openfaas.scale.min is \"x\": it must be a number of replicas, for example 2"
        );
    }
}
