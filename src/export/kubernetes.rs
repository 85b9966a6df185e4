//! A Deployment, a Service, and a HorizontalPodAutoscaler.

use serde_json::{Value, json};

use super::{Exported, HEALTH, PORT, pod};

/// How busy replicas are before there are more of them: a share of their CPU, in percent.
const BUSY: u64 = 70;

pub fn objects(function: &Exported) -> Vec<Value> {
    vec![deployment(function), service(function), autoscaler(function)]
}

fn deployment(function: &Exported) -> Value {
    let mut container = pod::container(function);
    // Until it has answered once: an import may take its time, and only then does liveness count.
    container["startupProbe"] = json!({
        "httpGet": { "path": HEALTH, "port": PORT },
        "periodSeconds": 1,
        "timeoutSeconds": 2,
        "failureThreshold": pod::seconds(function.settings.timeout_ms).max(60),
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": pod::metadata(function),
        // No number of replicas: that is the autoscaler's, and a second `kubectl apply` must not reset it.
        "spec": {
            "selector": { "matchLabels": { "app.kubernetes.io/name": function.name.as_str() } },
            "template": {
                "metadata": { "labels": pod::labels(function), "annotations": function.settings.annotations },
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "terminationGracePeriodSeconds": pod::seconds(function.settings.timeout_ms),
                    "containers": [container],
                    "volumes": pod::volumes(function),
                },
            },
        },
    })
}

fn service(function: &Exported) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": pod::metadata(function),
        "spec": {
            "selector": { "app.kubernetes.io/name": function.name.as_str() },
            "ports": [{ "name": "http", "port": 80, "targetPort": "http1" }],
        },
    })
}

fn autoscaler(function: &Exported) -> Value {
    let settings = &function.settings;
    // Kubernetes alone does not scale to zero.
    let least = settings.min_scale.max(1);
    let target = u32::try_from(u64::from(settings.cpu_millis) * BUSY / 100).unwrap_or(u32::MAX).max(1);
    json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": pod::metadata(function),
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": function.name.as_str() },
            "minReplicas": least,
            "maxReplicas": settings.max_scale.max(least),
            "metrics": [{
                "type": "Resource",
                "resource": {
                    "name": "cpu",
                    // Of the limit: a share would be one of what is requested.
                    "target": { "type": "AverageValue", "averageValue": pod::cpu(target) },
                },
            }],
        },
    })
}
