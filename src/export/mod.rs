//! Functions as manifests for the engines that people already run: Kubernetes, Knative, compose.
//!
//! Images are named by digest, so what runs elsewhere is what ran here. Secrets are references: no manifest holds a
//! value. What a container may do is what it may do here: no root, no capabilities, a read-only root, the engine's
//! default seccomp profile, a small `/tmp` in memory.

mod compose;
mod knative;
mod kubernetes;
mod pod;
mod yaml;

use serde_json::Value;

use crate::function::{FunctionName, Settings};

/// Where manifests can go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    Kubernetes,
    Knative,
    Compose,
}

/// A version of a function, as an engine has to know it.
#[derive(Clone, PartialEq, Debug)]
pub struct Exported {
    pub name: FunctionName,
    /// Registry, repository and digest, as the engine's nodes reach it.
    pub image: String,
    pub settings: Settings,
}

/// The port that a function's container listens on, and where it says that it is well.
const PORT: u16 = 8081;
const HEALTH: &str = "/_/health";
/// The function's user in every base.
const USER: u32 = 65532;
/// `/tmp` is memory, and counts as the function's.
const TMP_SIZE: &str = "64Mi";

/// All functions as one YAML text: a document for each object, or one compose file.
pub fn manifests(functions: &[Exported], engine: Engine) -> String {
    let documents: Vec<Value> = match engine {
        Engine::Kubernetes => functions.iter().flat_map(kubernetes::objects).collect(),
        Engine::Knative => functions.iter().map(knative::service).collect(),
        Engine::Compose => vec![compose::file(functions)],
    };
    let documents: Vec<String> = documents.iter().map(yaml::document).collect();
    notes(functions, engine) + &documents.join("---\n")
}

/// Comments at the top: what has to be there before these can run.
fn notes(functions: &[Exported], engine: Engine) -> String {
    let secrets = secrets(functions);
    if secrets.is_empty() {
        return String::new();
    }
    let mut text = String::from("# These secrets are referred to and have to be there first:\n");
    for name in secrets {
        text += &match engine {
            Engine::Compose => {
                format!("#   secrets/{name}, a file beside this one that user {USER} may read\n")
            }
            _ => format!("#   kubectl create secret generic {name} --from-file={name}=FILE\n"),
        };
    }
    text
}

fn secrets(functions: &[Exported]) -> std::collections::BTreeSet<&str> {
    functions.iter().flat_map(|function| &function.settings.secrets).map(String::as_str).collect()
}
