//! A Knative Service: it scales by calls in flight or in a second, and to zero, as fnbuild does.

use serde_json::{Map, Value, json};

use super::{Exported, pod};

pub fn service(function: &Exported) -> Value {
    let settings = &function.settings;
    let mut annotations: Map<String, Value> =
        settings.annotations.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    let (metric, target) = match settings.target_rps {
        0 => ("concurrency", settings.concurrency),
        rate => ("rps", rate),
    };
    for (key, value) in [
        ("metric", metric.into()),
        ("target", target.to_string()),
        ("min-scale", settings.min_scale.to_string()),
        ("max-scale", settings.max_scale.to_string()),
    ] {
        annotations.insert(format!("autoscaling.knative.dev/{key}"), value.into());
    }
    json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": pod::metadata(function),
        "spec": {
            "template": {
                "metadata": { "labels": pod::labels(function), "annotations": annotations },
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "timeoutSeconds": pod::seconds(settings.timeout_ms),
                    "containers": [pod::container(function)],
                    "volumes": pod::volumes(function),
                },
            },
        },
    })
}
