//! Bytecode ahead of time: it halves what an import takes, and a read-only root could not keep any later.
//!
//! The `.pyc` files are of the unchecked-hash kind (PEP 552): the interpreter does not even look whether the source has
//! changed, and in a layer it cannot. Their bytes depend on source and interpreter only.

use std::path::Path;

use super::BaseError;
use super::platform::Architecture;
use super::recipe::Recipe;
use super::tool::{Stop, Tool};

const STEP: &str = "compile the Python modules";
const OPTIONS: [&str; 8] =
    ["-P", "-s", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"];

/// Compiles everything below `folder`, which is relative to `root`.
///
/// The base's own interpreter does it, where this machine can run it; otherwise one of this machine's of the same minor
/// version, whose bytecode has the same format.
pub(super) fn compile(
    recipe: &Recipe,
    architecture: &Architecture,
    root: &Path,
    folder: &Path,
    stop: &Stop,
) -> Result<(), BaseError> {
    let python = format!("python{}", recipe.python.version);
    let tool = if architecture.is_native() {
        let tool = Tool::new("chroot", STEP, stop).arg(root).arg(format!("/usr/bin/{python}"));
        tool.args(OPTIONS).arg(Path::new("/").join(folder))
    } else {
        let tool = Tool::at(&python, "python", STEP, stop).args(OPTIONS);
        tool.arg("-s").arg(root).args(["-p", "/"]).arg(root.join(folder))
    };
    // The seed decides the order of sets, in bytecode too; of the caller's own PYTHON variables none may count.
    match tool.only_env(&[("PYTHONHASHSEED", "0")]).run() {
        Ok(_) => Ok(()),
        Err(BaseError::NoTool { tool: "python" }) => Err(BaseError::NoInterpreter {
            version: recipe.python.version.clone(),
            architecture: architecture.debian.into(),
        }),
        Err(error) => Err(error),
    }
}
