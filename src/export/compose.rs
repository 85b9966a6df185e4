//! A compose file for one machine: each function on a port of its own on 127.0.0.1, in the order of their names.

use serde_json::{Map, Value, json};

use super::{Exported, HEALTH, PORT, USER, secrets};

pub fn file(functions: &[Exported]) -> Value {
    let service = |(function, port)| (function_name(function), service(function, port));
    let services: Map<String, Value> = functions.iter().zip(PORT..).map(service).collect();
    let mut file = json!({ "version": "2.4", "services": services });
    let file_of = |name: &str| (name.to_owned(), json!({ "file": format!("./secrets/{name}") }));
    let secrets: Map<String, Value> = secrets(functions).into_iter().map(file_of).collect();
    if !secrets.is_empty() {
        file["secrets"] = Value::Object(secrets);
    }
    file
}

fn function_name(function: &Exported) -> String {
    function.name.as_str().to_owned()
}

fn service(function: &Exported, port: u16) -> Value {
    let settings = &function.settings;
    let env: Map<String, Value> =
        settings.env.iter().map(|(name, value)| (name.clone(), escaped(value).into())).collect();
    // The container's own Python asks: a base has no curl.
    let ask = format!("import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}{HEALTH}', timeout=2)");
    let mut service = json!({
        "image": escaped(&function.image),
        "environment": env,
        "ports": [format!("127.0.0.1:{port}:{PORT}")],
        "user": format!("{USER}:{USER}"),
        "read_only": true,
        "tmpfs": ["/tmp:size=64m,mode=1777,noexec,nosuid,nodev"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "mem_limit": settings.memory.0,
        "memswap_limit": settings.memory.0,
        "cpus": f64::from(settings.cpu_millis) / 1000.0,
        "pids_limit": settings.pids,
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", ask],
            "interval": "10s",
            "timeout": "5s",
            "start_period": "60s",
        },
    });
    if !settings.secrets.is_empty() {
        service["secrets"] = json!(settings.secrets);
    }
    service
}

/// Compose replaces `$NAME` everywhere.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}
