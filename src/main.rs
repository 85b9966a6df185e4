//! Starts the product: parse, run, map to an exit code. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fnbuild::cli::main()
}
