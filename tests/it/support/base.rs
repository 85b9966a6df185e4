//! The base, built once for all tests and kept from run to run, as it takes a minute.
//!
//! It lies below `target/test-base/`, or in `FNBUILD_TEST_DATA_DIR`; a change of recipe, lock or runtime makes a new one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use fnbuild::oci::Hasher;

use super::{fnbuild, run};

/// The recipe that the tests build.
pub fn recipe() -> PathBuf {
    root().join("base-layers/python3.11-flask2.3")
}

/// A data folder with the default base in it, shared by everybody: build and push from it, but run no server on it.
pub fn base() -> PathBuf {
    let folder = std::env::var_os("FNBUILD_TEST_DATA_DIR")
        .map_or_else(|| root().join("target/test-base"), PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    // One builds, the others wait for it.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let data = folder.join(made_from());
    if !data.join("complete").exists() {
        run(base_build(&data).arg(recipe()));
        fs::write(data.join("complete"), "").unwrap();
    }
    data
}

/// A data folder with the default base for this machine and for linux/arm64, shared as that of [`base`].
pub fn bases_of_two_platforms() -> PathBuf {
    let one = base();
    let two = one.with_extension("two");
    let lock = File::create(two.with_extension("two-lock")).unwrap();
    lock.lock().unwrap();
    if !two.join("complete").exists() {
        fs::create_dir_all(&two).unwrap();
        run(Command::new("cp").arg("-rT").arg(one.join("bases")).arg(two.join("bases")));
        run(base_build(&two).args(["--platform", "linux/arm64"]).arg(recipe()));
        fs::write(two.join("complete"), "").unwrap();
    }
    two
}

/// A new data folder with the default base in it, for one test's server.
pub fn data_dir() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(base().join("bases"), folder.path().join("bases")).unwrap();
    folder
}

/// `fnbuild base build` into a data folder. The recipe is still to be named.
pub fn base_build(data: &Path) -> Command {
    let mut command = fnbuild();
    command.args(["base", "build", "--data-dir"]).arg(data);
    // Where scripts/setup puts it; otherwise the one on the PATH.
    let uv = root().join("target/tools/bin/uv");
    if let Some(uv) = std::env::var_os("FNBUILD_UV").or_else(|| uv.exists().then(|| uv.into())) {
        command.env("FNBUILD_UV", uv);
    }
    command
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A name for everything that a base is made from, the program apart.
fn made_from() -> String {
    let mut hasher = Hasher::sha256();
    let mut files = Vec::new();
    for folder in [recipe(), root().join("runtime/fnbuild_runtime"), root().join("src/base")] {
        files.extend(
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()),
        );
    }
    files.sort();
    for file in files {
        hasher.update(file.to_string_lossy().as_bytes());
        hasher.update(&fs::read(file).unwrap());
    }
    hasher.finish().short().to_string()
}
