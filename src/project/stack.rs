//! OpenFaaS's `stack.yml`: what it says of a function that has a meaning here. What would change a function and has none
//! is refused by name; what changes nothing is let be, with a warning where somebody might count on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::native::{checked, set};
use super::text::{self, Text};
use super::{Planned, Project, ProjectError};
use crate::function::{FunctionName, Memory, SettingsPatch, labelled_scale};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stack {
    #[serde(rename = "version")]
    _version: Option<Text>,
    #[serde(rename = "provider")]
    _provider: Option<Provider>,
    /// Where templates come from.
    #[serde(rename = "configuration")]
    _configuration: Option<IgnoredAny>,
    #[serde(default)]
    functions: BTreeMap<FunctionName, Function>,
}

/// `--server` says where functions go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    #[serde(rename = "name")]
    _name: Option<Text>,
    #[serde(rename = "gateway")]
    _gateway: Option<Text>,
    #[serde(rename = "network")]
    _network: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    lang: Option<String>,
    handler: Option<PathBuf>,
    /// fnbuild names its images itself.
    #[serde(rename = "image")]
    _image: Option<Text>,
    #[serde(default)]
    environment: BTreeMap<String, Text>,
    #[serde(default)]
    environment_file: Vec<PathBuf>,
    #[serde(default)]
    secrets: BTreeSet<String>,
    #[serde(default)]
    labels: BTreeMap<String, Text>,
    #[serde(default)]
    annotations: BTreeMap<String, Text>,
    #[serde(default)]
    limits: Limits,
    requests: Option<IgnoredAny>,
    constraints: Option<IgnoredAny>,
    namespace: Option<IgnoredAny>,
    /// It always is.
    #[serde(rename = "readonly_root_filesystem")]
    _readonly_root_filesystem: Option<bool>,
    fprocess: Option<IgnoredAny>,
    build_args: Option<IgnoredAny>,
    build_options: Option<IgnoredAny>,
    #[serde(default)]
    skip_build: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(default, deserialize_with = "text::memory")]
    memory: Option<Memory>,
    #[serde(default, deserialize_with = "text::cpu")]
    cpu: Option<u32>,
}

/// What `environment_file` names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Environment {
    #[serde(default)]
    environment: BTreeMap<String, Text>,
}

pub(super) fn read(text: &str, path: &Path, folder: &Path) -> Result<Project, ProjectError> {
    let stack: Stack = yaml(text, path)?;
    let mut project = Project { functions: Vec::new(), warnings: Vec::new() };
    for (name, function) in stack.functions {
        for (field, given) in [
            ("requests", function.requests.is_some()),
            ("constraints", function.constraints.is_some()),
            ("namespace", function.namespace.is_some()),
        ] {
            if given {
                project.warnings.push(format!("{name}: {field} changes nothing here"));
            }
        }
        project.functions.push(function.planned(name, folder)?);
    }
    Ok(project)
}

fn yaml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ProjectError> {
    serde_saphyr::from_str(text)
        .map_err(|error| ProjectError::Yaml { path: path.into(), what: told(text, &error) })
}

/// An error with the line that it is in, in the form that TOML's errors have. The crate's own form has the message twice.
fn told(text: &str, error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let place = error.location().map(|at| (at.line() as usize, at.column() as usize));
    let Some((line, column)) = place.filter(|(line, _)| *line > 0) else { return message };
    let place = format!("line {line}, column {column}");
    let message = message.strip_suffix(&format!(" at {place}")).unwrap_or(&message);
    let margin = " ".repeat(line.to_string().len());
    let shown = text.lines().nth(line - 1).unwrap_or_default();
    format!("YAML error at {place}\n{margin} |\n{line} | {shown}\n{margin} | {:>column$}\n{message}", '^')
}

impl Function {
    fn planned(self, name: FunctionName, folder: &Path) -> Result<Planned, ProjectError> {
        for (field, given) in [
            ("fprocess", self.fprocess.is_some()),
            ("build_args", self.build_args.is_some()),
            ("build_options", self.build_options.is_some()),
            ("skip_build", self.skip_build),
        ] {
            if given {
                return Err(ProjectError::Docker { name, field });
            }
        }
        if let Some(lang) = self.lang.filter(|lang| !lang.starts_with("python")) {
            return Err(ProjectError::Language { name, lang });
        }
        let Some(handler) = self.handler else { return Err(ProjectError::NoHandler { name }) };
        let env = environment(&name, self.environment, &self.environment_file, folder)?;
        let labels = set(self.labels);
        let plain = labels.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect();
        let refused = |setting| ProjectError::Setting { name: name.clone(), setting };
        let settings = SettingsPatch {
            reset: true,
            env,
            secrets: Some(self.secrets),
            memory: self.limits.memory,
            cpu_millis: self.limits.cpu,
            labels,
            annotations: set(self.annotations),
            ..labelled_scale(&plain).map_err(refused)?
        };
        let source = folder.join(handler);
        let (entry, requirements, base, schedules) = (None, None, None, None);
        checked(Planned { name, source, entry, requirements, base, settings, schedules })
    }
}

/// The function's own variables, then those of its files, the later of two winning.
fn environment(
    name: &FunctionName,
    own: BTreeMap<String, Text>,
    files: &[PathBuf],
    folder: &Path,
) -> Result<BTreeMap<String, Option<String>>, ProjectError> {
    let mut env = set(own);
    for file in files {
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| ProjectError::Read { path: path.clone(), source })?;
        env.extend(set(yaml::<Environment>(&text, &path)?.environment));
    }
    let replaced = |value: &Option<String>| value.as_ref().is_some_and(|value| value.contains("${"));
    match env.iter().find(|(_, value)| replaced(value)) {
        Some((key, _)) => Err(ProjectError::Substitution { name: name.clone(), key: key.clone() }),
        None => Ok(env),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::Settings;

    fn of(text: &str, folder: &Path) -> Result<Project, ProjectError> {
        read(text, Path::new("stack.yml"), folder)
    }

    #[test]
    fn a_stack_says_what_the_flags_say() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("env.yml"), "environment:\n  LEVEL: debug\n").unwrap();
        let text = r#"
version: 1.0
provider:
  name: openfaas
  gateway: http://127.0.0.1:8080
functions:
  add:
    lang: python3
    handler: ./add
    image: add:latest
    environment:
      VERSION: 1.10
      LEVEL: info
    environment_file: [env.yml]
    secrets: [db]
    labels:
      com.openfaas.scale.zero: true
      com.openfaas.scale.max: "7"
    annotations: {topic: cron}
    limits: {memory: 128Mi, cpu: 250m}
    requests: {memory: 64Mi}
    readonly_root_filesystem: true
"#;
        let project = of(text, folder.path()).unwrap();
        assert_eq!(project.warnings, ["add: requests changes nothing here"]);
        let [add] = project.functions.as_slice() else { panic!("{project:?}") };
        assert_eq!(add.source, folder.path().join("./add"));
        let settings = add.settings.apply(&Settings::default()).unwrap();
        assert_eq!((settings.env["VERSION"].as_str(), settings.env["LEVEL"].as_str()), ("1.10", "debug"));
        assert_eq!((settings.memory.0, settings.cpu_millis), (128 << 20, 250));
        assert_eq!((settings.min_scale, settings.max_scale), (0, 7));
        assert_eq!((settings.annotations["topic"].as_str(), settings.secrets.len()), ("cron", 1));
    }

    #[test]
    fn what_has_no_meaning_here_is_named() {
        for (fields, named) in [
            ("handler: ./a\n    memroy: 1", "memroy"),
            ("handler: ./a\n    fprocess: cat", "fprocess"),
            ("handler: ./a\n    skip_build: true", "skip_build"),
            ("handler: ./a\n    lang: node20", "node20"),
            ("lang: python3", "no handler"),
            ("handler: ./a\n    environment: {A: \"${HOME}\"}", "A holds"),
            ("handler: ./a\n    labels: {com.openfaas.scale.max: many}", "many"),
            ("handler: ./a\n    limits: {memory: much}", "much"),
            ("handler: ./a\n    environment_file: [none.yml]", "none.yml"),
        ] {
            let text = format!("functions:\n  add:\n    {fields}\n");
            let error = of(&text, Path::new("/nowhere")).unwrap_err().to_string();
            assert!(error.contains(named), "{fields}: {error}");
        }
    }
}
