//! Wheels from PyPI by uv: from the recipe's requirements to a lock, and from a lock to a folder.
//!
//! Nothing is ever built from source: what would need a compiler is refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::BaseError;
use super::lock::Wheel;
use super::platform::Architecture;
use super::recipe::Recipe;
use super::tool::{Stop, Tool};

/// The part of a `pylock.toml` (PEP 751) that is needed.
#[derive(Deserialize)]
struct PyLock {
    #[serde(default)]
    packages: Vec<PyPackage>,
}

#[derive(Deserialize)]
struct PyPackage {
    name: String,
    version: String,
    #[serde(default)]
    wheels: Vec<PyWheel>,
}

#[derive(Deserialize)]
struct PyWheel {
    name: Option<String>,
    url: Option<String>,
    hashes: BTreeMap<String, String>,
}

/// Resolves the requirements to the newest versions that fit.
pub(super) fn resolve(
    recipe: &Recipe,
    architecture: &Architecture,
    work: &Path,
    stop: &Stop,
) -> Result<Vec<Wheel>, BaseError> {
    const STEP: &str = "resolve the Python packages";
    let requirements = work.join("requirements.in");
    std::fs::write(&requirements, recipe.python.requirements.join("\n"))
        .map_err(BaseError::io("write", &requirements))?;
    let text = uv(STEP, stop)
        .args([
            "pip",
            "compile",
            "--format",
            "pylock.toml",
            "--only-binary",
            ":all:",
            "--no-header",
            "--quiet",
        ])
        .args(["--no-annotate", "--upgrade"])
        .args(platform(recipe, architecture))
        .arg(&requirements)
        .run()?;
    let lock: PyLock = toml::from_str(&text).map_err(|e| BaseError::Output {
        tool: "uv",
        step: STEP,
        reason: e.to_string(),
    })?;
    lock.packages.into_iter().map(|package| fitting(package, recipe, architecture)).collect()
}

/// Keeps the files of a package that the base's Python can load.
fn fitting(package: PyPackage, recipe: &Recipe, architecture: &Architecture) -> Result<Wheel, BaseError> {
    let python = format!("cp{}", recipe.python.version.replace('.', ""));
    let sha256: BTreeMap<String, String> = package
        .wheels
        .into_iter()
        .filter_map(|wheel| {
            let url = wheel.url.as_deref().unwrap_or_default();
            let name = wheel.name.unwrap_or_else(|| url.rsplit('/').next().unwrap_or_default().to_string());
            let hash = wheel.hashes.get("sha256")?.clone();
            suits(&name, &python, architecture.machine).then_some((name, hash))
        })
        .collect();
    if sha256.is_empty() {
        let architecture = architecture.debian.into();
        return Err(BaseError::NoWheel { name: package.name, version: package.version, architecture });
    }
    Ok(Wheel { name: package.name, version: package.version, sha256 })
}

/// `NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl`, by the platform compatibility tags.
fn suits(file: &str, python: &str, machine: &str) -> bool {
    let Some(stem) = file.strip_suffix(".whl") else { return false };
    let tags: Vec<&str> = stem.rsplitn(4, '-').collect();
    let [platforms, abi, pythons, _] = tags[..] else { return false };
    let any = |set: &str, wanted: &dyn Fn(&str) -> bool| set.split('.').any(wanted);
    any(pythons, &|tag| tag == python || tag == "py3" || abi == "abi3")
        && any(abi, &|tag| tag == python || matches!(tag, "none" | "abi3"))
        && any(platforms, &|tag| tag == "any" || tag.starts_with("manylinux") && tag.ends_with(machine))
}

/// Unpacks exactly the locked wheels into `target`.
pub(super) fn install(
    wheels: &[Wheel],
    recipe: &Recipe,
    architecture: &Architecture,
    target: &Path,
    stop: &Stop,
) -> Result<(), BaseError> {
    let line = |wheel: &Wheel| {
        let hashes: String = wheel.sha256.values().map(|hash| format!(" --hash=sha256:{hash}")).collect();
        format!("{}=={}{hashes}\n", wheel.name, wheel.version)
    };
    let requirements = target.with_extension("requirements.txt");
    std::fs::write(&requirements, wheels.iter().map(line).collect::<String>())
        .map_err(BaseError::io("write", &requirements))?;
    uv("install the Python packages", stop)
        .args(["pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--quiet"])
        .args(["--link-mode", "copy", "--target"])
        .arg(target)
        .args(platform(recipe, architecture))
        .arg("--requirements")
        .arg(&requirements)
        .run()?;
    Ok(())
}

fn uv<'a>(step: &'static str, stop: &'a Stop) -> Tool<'a> {
    let program = std::env::var_os("FNBUILD_UV").unwrap_or_else(|| "uv".into());
    Tool::at(program, "uv", step, stop).arg("--no-progress").env("UV_PYTHON_DOWNLOADS", "never")
}

fn platform(recipe: &Recipe, architecture: &Architecture) -> [String; 4] {
    [
        "--python-version".into(),
        recipe.python.version.clone(),
        "--python-platform".into(),
        format!("{}-manylinux_2_36", architecture.machine),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_for_another_python_or_machine_do_not_suit() {
        for (file, fits) in [
            ("flask-2.3.2-py3-none-any.whl", true),
            ("six-1.16.0-py2.py3-none-any.whl", true),
            ("granian-2.8.7-cp311-cp311-manylinux_2_28_x86_64.whl", true),
            (
                "MarkupSafe-3.0.3-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
                true,
            ),
            ("x-1-cp38-abi3-manylinux_2_17_x86_64.whl", true),
            ("granian-2.8.7-cp311-cp311-manylinux_2_28_aarch64.whl", false),
            ("granian-2.8.7-cp312-cp312-manylinux_2_28_x86_64.whl", false),
            ("granian-2.8.7-cp311-cp311-musllinux_1_1_x86_64.whl", false),
            ("granian-2.8.7-cp313-cp313t-manylinux_2_28_x86_64.whl", false),
            ("granian-2.8.7-pp311-pypy311_pp73-manylinux_2_28_x86_64.whl", false),
            ("granian-2.8.7.tar.gz", false),
        ] {
            assert_eq!(suits(file, "cp311", "x86_64"), fits, "{file}");
        }
    }
}
