//! `fnbuild.toml`: a table for each function.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::text::{self, Text};
use super::{Planned, PlannedSchedule, Project, ProjectError};
use crate::function::{AsyncPatch, EntryPoint, FunctionName, Memory, Settings, SettingsPatch};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    functions: BTreeMap<FunctionName, Table>,
}

/// What `[functions.NAME]` may hold: the flags of `fnbuild push`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    /// Where it is not given: the function's name.
    source: Option<PathBuf>,
    #[serde(default, deserialize_with = "text::entry")]
    entry: Option<EntryPoint>,
    requirements: Option<PathBuf>,
    base: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, Text>,
    #[serde(default)]
    secrets: BTreeSet<String>,
    #[serde(default)]
    labels: BTreeMap<String, Text>,
    #[serde(default)]
    annotations: BTreeMap<String, Text>,
    #[serde(default, deserialize_with = "text::memory")]
    memory: Option<Memory>,
    #[serde(default, deserialize_with = "text::cpu")]
    cpu: Option<u32>,
    #[serde(default, deserialize_with = "text::time")]
    timeout: Option<u64>,
    concurrency: Option<u32>,
    min_scale: Option<u32>,
    max_scale: Option<u32>,
    target_rps: Option<u32>,
    async_concurrency: Option<u32>,
    async_queue: Option<u32>,
    async_attempts: Option<u32>,
    #[serde(default, deserialize_with = "text::time")]
    async_max_age: Option<u64>,
    /// Where it is not given: those that there are stay as they are.
    schedule: Option<Vec<Schedule>>,
}

/// The arguments of `fnbuild schedule`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Schedule {
    pattern: String,
    #[serde(default = "utc")]
    time_zone: String,
    #[serde(default)]
    data: serde_json::Map<String, serde_json::Value>,
}

fn utc() -> String {
    "UTC".into()
}

pub(super) fn read(text: &str, path: &Path, folder: &Path) -> Result<Project, ProjectError> {
    let file: File = toml::from_str(text).map_err(|error| ProjectError::Toml {
        path: path.into(),
        what: error.to_string().trim_end().into(),
    })?;
    let functions = file.functions.into_iter().map(|(name, table)| table.planned(name, folder));
    Ok(Project { functions: functions.collect::<Result<_, _>>()?, warnings: Vec::new() })
}

impl Table {
    fn planned(self, name: FunctionName, folder: &Path) -> Result<Planned, ProjectError> {
        let settings = SettingsPatch {
            reset: true,
            env: set(self.env),
            secrets: Some(self.secrets),
            memory: self.memory,
            cpu_millis: self.cpu,
            timeout_ms: self.timeout,
            concurrency: self.concurrency,
            min_scale: self.min_scale,
            max_scale: self.max_scale,
            target_rps: self.target_rps,
            labels: set(self.labels),
            annotations: set(self.annotations),
            asynchronous: AsyncPatch {
                concurrency: self.async_concurrency,
                queue: self.async_queue,
                attempts: self.async_attempts,
                max_age_ms: self.async_max_age,
            },
            ..SettingsPatch::default()
        };
        let source = folder.join(self.source.unwrap_or_else(|| name.as_str().into()));
        let requirements = self.requirements.map(|list| folder.join(list));
        let schedules = self.schedule.map(|all| all.into_iter().map(Schedule::planned).collect());
        checked(Planned {
            name,
            source,
            entry: self.entry,
            requirements,
            base: self.base,
            settings,
            schedules,
        })
    }
}

impl Schedule {
    fn planned(self) -> PlannedSchedule {
        let data = serde_json::Value::Object(self.data).to_string();
        PlannedSchedule { pattern: self.pattern, time_zone: self.time_zone, data }
    }
}

pub(super) fn set(map: BTreeMap<String, Text>) -> BTreeMap<String, Option<String>> {
    map.into_iter().map(|(key, Text(value))| (key, Some(value))).collect()
}

/// What the server would refuse is refused before anything is built.
pub(super) fn checked(planned: Planned) -> Result<Planned, ProjectError> {
    match planned.settings.apply(&Settings::default()) {
        Ok(_) => Ok(planned),
        Err(setting) => Err(ProjectError::Setting { name: planned.name, setting }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Project, ProjectError> {
        read(text, Path::new("fnbuild.toml"), Path::new("project"))
    }

    #[test]
    fn a_table_says_what_the_flags_say() {
        let project = of(r#"
            [functions.add]

            [functions.mail]
            source = "src/mail.zip"
            entry = "mail:send"
            requirements = "mail.txt"
            base = "python3.11-flask2.3"
            env = { HOST = "localhost", PORT_OUT = 25, TLS = true }
            secrets = ["smtp"]
            labels = { team = "web" }
            annotations = { note = "hello" }
            memory = "512Mi"
            cpu = 0.5
            timeout = "90s"
            concurrency = 2
            min-scale = 1
            max-scale = 3
            target-rps = 50
            async-attempts = 2
            async-max-age = "10m"

            [[functions.mail.schedule]]
            pattern = "@daily"

            [[functions.mail.schedule]]
            pattern = "0 9 * * MON-FRI"
            time-zone = "Europe/Berlin"
            data = { to = "me", copies = 2 }
        "#)
        .unwrap();
        let [add, mail] = project.functions.as_slice() else { panic!("{project:?}") };
        assert_eq!(add.source, Path::new("project/add"));
        assert_eq!(add.settings.apply(&Settings::default()).unwrap(), Settings::default());
        assert_eq!(
            (mail.source.as_path(), mail.base.as_deref()),
            (Path::new("project/src/mail.zip"), Some("python3.11-flask2.3"))
        );
        assert_eq!(mail.requirements.as_deref(), Some(Path::new("project/mail.txt")));
        let settings = mail.settings.apply(&Settings::default()).unwrap();
        assert_eq!(settings.env.values().collect::<Vec<_>>(), ["localhost", "25", "true"]);
        assert_eq!((settings.memory.0, settings.cpu_millis, settings.timeout_ms), (512 << 20, 500, 90_000));
        assert_eq!((settings.concurrency, settings.min_scale, settings.max_scale), (2, 1, 3));
        assert_eq!(settings.target_rps, 50);
        assert_eq!((settings.asynchronous.attempts, settings.asynchronous.max_age_ms), (2, 600_000));
        let schedule = |pattern: &str, time_zone: &str, data: &str| PlannedSchedule {
            pattern: pattern.into(),
            time_zone: time_zone.into(),
            data: data.into(),
        };
        let weekdays = schedule("0 9 * * MON-FRI", "Europe/Berlin", r#"{"copies":2,"to":"me"}"#);
        assert_eq!(mail.schedules, Some(vec![schedule("@daily", "UTC", "{}"), weekdays]));
        assert_eq!(add.schedules, None);
        assert_eq!((settings.labels["team"].as_str(), settings.secrets.len()), ("web", 1));
    }

    #[test]
    fn what_is_unknown_or_senseless_is_named() {
        for (text, named) in [
            ("[functions.add]\nmemroy = \"1Gi\"", "memroy"),
            ("[function.add]", "function"),
            ("[functions.Add]", "\"Add\""),
            ("[functions.add]\ncpu = \"much\"", "much"),
            ("[functions.add]\nmin-scale = 3\nmax-scale = 2", "add: "),
            ("[[functions.add.schedule]]\npattern = \"@daily\"\nzone = \"UTC\"", "zone"),
            ("[functions.add]\nenv = { A = [] }", "expected text or a number"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
