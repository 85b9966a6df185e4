//! What this machine says: where uv and Python are, and where packages come from.
//!
//! uv runs in an environment that is empty but for what is listed here. An index and its credentials are passed by
//! variable or by configuration file, never as an argument, so that they show in no list of processes; and no file in
//! a source can add to them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::error::DependencyError;
use crate::oci::Digest;

/// Passed on to uv as they are, if they are set.
const PASSED: [&str; 27] = [
    // Where packages come from, and how to be let in.
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX_STRATEGY",
    "UV_KEYRING_PROVIDER",
    "UV_INSECURE_HOST",
    "UV_EXCLUDE_NEWER",
    "UV_PRERELEASE",
    "UV_OFFLINE",
    "NETRC",
    // How to reach them.
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];
/// pip's word for it, and uv's. Only where uv's own is not set.
const TRANSLATED: [(&str, &str, &str); 2] = [
    ("PIP_INDEX_URL", "index-url", "UV_INDEX_URL"),
    ("PIP_EXTRA_INDEX_URL", "extra-index-url", "UV_EXTRA_INDEX_URL"),
];
/// A Python that is found here is the distribution's own and needs no environment to start.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Read once, at the start, from the process that fnbuild is.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    variables: Vec<(OsString, OsString)>,
    /// uv's own configuration file.
    config: Option<PathBuf>,
    /// `FNBUILD_UV` and `FNBUILD_PYTHON`.
    uv: Option<PathBuf>,
    python: Option<PathBuf>,
    path: Vec<PathBuf>,
    /// Where else uv may be: beside fnbuild, in the data folder.
    beside: Vec<PathBuf>,
}

impl Machine {
    /// From the environment of this process, and from uv's and pip's configuration files of its user. `data` is the data
    /// folder.
    pub fn of_this_process(data: &Path) -> Self {
        let get = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let file = |name: &str| get(name).map(PathBuf::from);
        let home = file("HOME");
        let settings = file("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let below = |folder: &Option<PathBuf>, rest: &str| folder.as_ref().map(|folder| folder.join(rest));

        let mut variables: Vec<(OsString, OsString)> =
            PASSED.iter().filter_map(|name| Some(((*name).into(), get(name)?))).collect();
        // `UV_INDEX_NAME_USERNAME` and `…_PASSWORD` belong to a named index.
        variables.extend(std::env::vars_os().filter(|(name, _)| is_index_credential(name)));
        let pip = [file("PIP_CONFIG_FILE"), below(&settings, "pip/pip.conf"), below(&home, ".pip/pip.conf")];
        let pip: Vec<String> = pip
            .into_iter()
            .flatten()
            .chain(["/etc/pip.conf".into()])
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .collect();
        let index_is_set = ["UV_INDEX_URL", "UV_DEFAULT_INDEX"].iter().any(|name| get(name).is_some());
        for (variable, key, uv) in TRANSLATED {
            let pips = || pip.iter().find_map(|text| pip_setting(text, key)).map(OsString::from);
            if get(uv).is_none() && !index_is_set {
                variables.extend(get(variable).or_else(pips).map(|value| (uv.into(), value)));
            }
        }
        variables.sort();
        let config = [file("UV_CONFIG_FILE"), below(&settings, "uv/uv.toml"), Some("/etc/uv/uv.toml".into())];
        let exe = std::env::current_exe().ok();
        Self {
            variables,
            config: config.into_iter().flatten().find(|path| path.is_file()),
            uv: file("FNBUILD_UV"),
            python: file("FNBUILD_PYTHON"),
            path: get("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
            beside: exe
                .iter()
                .filter_map(|exe| exe.parent())
                .map(Path::to_path_buf)
                .chain([data.join("bin")])
                .collect(),
        }
    }

    /// With this uv and no other.
    pub fn with_uv(self, uv: PathBuf) -> Self {
        Self { uv: Some(uv), ..self }
    }

    pub(super) fn variables(&self) -> &[(OsString, OsString)] {
        &self.variables
    }

    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Changes when packages may come from somewhere else: what was resolved then counts no more.
    pub(super) fn digest(&self) -> Digest {
        let config = self.config.as_ref().and_then(|path| std::fs::read(path).ok());
        Digest::of(format!("{:?} {config:?}", self.variables))
    }

    /// The uv to run: the one that is named, else on `PATH`, else beside fnbuild or in the data folder.
    pub(super) fn uv(&self) -> Result<PathBuf, DependencyError> {
        let candidates = match &self.uv {
            Some(uv) => vec![uv.clone()],
            None => self.path.iter().chain(&self.beside).map(|folder| folder.join("uv")).collect(),
        };
        let looked =
            || self.uv.iter().cloned().chain(self.beside.iter().map(|folder| folder.join("uv"))).collect();
        first_executable(candidates).ok_or_else(|| DependencyError::NoUv { looked: looked() })
    }

    /// A Python of this version: any CPython `major.minor` compiles to the same format.
    pub(super) fn python(&self, major: u32, minor: u32) -> Result<PathBuf, DependencyError> {
        let name = format!("python{major}.{minor}");
        let system = SYSTEM_FOLDERS.iter().map(Path::new);
        let candidates = match &self.python {
            Some(python) => vec![python.clone()],
            None => system
                .chain(self.path.iter().map(PathBuf::as_path))
                .map(|folder| folder.join(&name))
                .collect(),
        };
        first_executable(candidates).ok_or(DependencyError::NoPython { major, minor })
    }
}

fn first_executable(candidates: Vec<PathBuf>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &PathBuf| {
        path.is_absolute()
            && path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    candidates.into_iter().filter_map(|path| std::path::absolute(path).ok()).find(executable)
}

fn is_index_credential(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    name.strip_prefix("UV_INDEX_")
        .is_some_and(|rest| rest.ends_with("_USERNAME") || rest.ends_with("_PASSWORD"))
}

/// A setting of `[global]` or `[install]` in pip's configuration. A value may go on in indented lines.
fn pip_setting(text: &str, key: &str) -> Option<String> {
    let mut counts = false;
    let mut found: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let (Some(value), true) = (&mut found, line.starts_with([' ', '\t'])) {
            value.push(' ');
            value.push_str(trimmed);
            continue;
        }
        if found.is_some() {
            break;
        }
        if let Some(section) = trimmed.strip_prefix('[') {
            counts = matches!(section.trim_end_matches(']'), "global" | "install");
        } else if let Some((name, value)) = trimmed.split_once('=')
            && counts
            && name.trim().replace('_', "-") == key
        {
            found = Some(value.trim().into());
        }
    }
    found.map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_configuration_is_read() {
        let text = "[list]\nindex-url = no\n[global]\n# index-url = no\ncert = x\nindex_url = https://one/simple\n\
                    [install]\nextra-index-url =\n  https://two\n  https://three\n";
        assert_eq!(pip_setting(text, "index-url").as_deref(), Some("https://one/simple"));
        assert_eq!(pip_setting(text, "extra-index-url").as_deref(), Some("https://two https://three"));
        assert_eq!(pip_setting(text, "find-links"), None);
    }

    #[test]
    fn a_missing_uv_is_an_error_that_says_how_to_get_it() {
        let machine = Machine { beside: vec!["/nonexistent/bin".into()], ..Machine::default() };
        let error = machine.uv().unwrap_err();
        let hint = error.hint().unwrap();
        assert!(hint.contains("pip install uv") && hint.contains("/nonexistent/bin/uv"), "{hint}");
        assert!(matches!(machine.python(3, 99), Err(DependencyError::NoPython { minor: 99, .. })));
    }

    #[test]
    fn credentials_of_a_named_index_are_told_apart() {
        assert!(is_index_credential("UV_INDEX_INTERNAL_PASSWORD".as_ref()));
        for name in ["UV_INDEX_URL", "UV_PUBLISH_PASSWORD", "AWS_SECRET_ACCESS_KEY"] {
            assert!(!is_index_credential(name.as_ref()), "{name}");
        }
    }
}
