//! What a pod is under Kubernetes and Knative alike: the container, its limits, its walls, its files.

use serde_json::{Map, Value, json};

use super::{Exported, HEALTH, PORT, TMP_SIZE, USER};

/// Labels that an object and its pods are found by.
pub fn labels(function: &Exported) -> Value {
    let mut labels = Map::new();
    labels.insert("app.kubernetes.io/name".into(), function.name.as_str().into());
    labels.insert("app.kubernetes.io/managed-by".into(), "fnbuild".into());
    Value::Object(labels)
}

pub fn metadata(function: &Exported) -> Value {
    json!({ "name": function.name.as_str(), "labels": labels(function) })
}

/// The container, without what Knative sets itself.
pub fn container(function: &Exported) -> Value {
    let settings = &function.settings;
    let env: Vec<Value> =
        settings.env.iter().map(|(name, value)| json!({ "name": name, "value": escaped(value) })).collect();
    let mut mounts = vec![json!({ "name": "tmp", "mountPath": "/tmp" })];
    if !settings.secrets.is_empty() {
        mounts.push(json!({ "name": "secrets", "mountPath": "/run/secrets", "readOnly": true }));
    }
    json!({
        "name": "function",
        "image": function.image,
        "env": env,
        "ports": [{ "name": "http1", "containerPort": PORT }],
        "resources": {
            "limits": { "cpu": cpu(settings.cpu_millis), "memory": settings.memory.to_string() },
            // What a function is sure to get: all of its memory, which cannot be taken back, and a tenth of its CPU.
            "requests": { "cpu": cpu((settings.cpu_millis / 10).max(10)), "memory": settings.memory.to_string() },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "runAsUser": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "readinessProbe": probe(1, 3),
        "livenessProbe": probe(10, 3),
        "volumeMounts": mounts,
    })
}

/// The files that a container mounts.
pub fn volumes(function: &Exported) -> Vec<Value> {
    let mut volumes =
        vec![json!({ "name": "tmp", "emptyDir": { "medium": "Memory", "sizeLimit": TMP_SIZE } })];
    let source =
        |name: &String| json!({ "secret": { "name": name, "items": [{ "key": name, "path": name }] } });
    let sources: Vec<Value> = function.settings.secrets.iter().map(source).collect();
    if !sources.is_empty() {
        volumes.push(json!({ "name": "secrets", "projected": { "sources": sources } }));
    }
    volumes
}

/// Thousandths of a CPU as Kubernetes writes them.
pub fn cpu(millis: u32) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

pub fn seconds(millis: u64) -> u64 {
    millis.div_ceil(1000).max(1)
}

fn probe(every: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": HEALTH, "port": PORT },
        "periodSeconds": every,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    })
}

/// Kubernetes replaces `$(NAME)` in values; a function is given what was set.
fn escaped(value: &str) -> String {
    value.replace("$(", "$$(")
}
