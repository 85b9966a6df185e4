//! What the command line promises the shell: exit codes, streams, hints.

use crate::support::{fnbuild, free_port, run_failing};

#[test]
fn wrong_usage_is_exit_code_2() {
    let stderr = run_failing(fnbuild().args(["invoke"]), 2);
    assert!(stderr.contains("Usage: fnbuild invoke"), "{stderr}");
    run_failing(fnbuild().args(["no-such-verb"]), 2);
}

#[test]
fn a_server_that_is_away_is_one_clear_error_with_a_next_step() {
    let server = format!("http://127.0.0.1:{}", free_port());
    let stderr = run_failing(fnbuild().args(["list", "--server", &server]), 1);
    assert!(stderr.starts_with("error: ") && stderr.contains(&server), "{stderr}");
    assert!(stderr.contains("hint: ") && stderr.contains("fnbuild serve"), "{stderr}");
}
