//! Running the programs that a network is made with.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Error;

/// iptables waits for its lock that long too; beyond it something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs to the end with `input`; gives stdout. Anything but exit status 0 is an error with what was said.
pub(super) async fn run(mut command: Command, input: &[u8]) -> Result<Vec<u8>, Error> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let started = |source| Error::Start { program: program.clone(), source };
    let mut child = command.spawn().map_err(started)?;
    let mut stdin = child.stdin.take();
    let talk = async {
        if let Some(stdin) = &mut stdin {
            // A program that ends without reading says why by its exit status.
            let _ = stdin.write_all(input).await;
        }
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, talk)
        .await
        .map_err(|_| Error::Slow { program: program.clone(), seconds: PATIENCE.as_secs() })?
        .map_err(started)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(2000).collect::<String>();
    // CNI plugins report on stdout, everything else on stderr.
    let message = match (said(&output.stderr), said(&output.stdout)) {
        (stderr, stdout) if stderr.is_empty() => stdout,
        (stderr, stdout) if stdout.is_empty() => stderr,
        (stderr, stdout) => format!("{stderr} {stdout}"),
    };
    Err(Error::Command { program, message })
}

/// `program arg arg …` with nothing on its stdin.
pub(super) async fn simple(program: &str, args: &[&str]) -> Result<Vec<u8>, Error> {
    let mut command = Command::new(program);
    command.args(args);
    run(command, b"").await.map_err(|error| match error {
        Error::Command { program, message } => {
            Error::Command { program: format!("{program} {}", args.join(" ")), message }
        }
        other => other,
    })
}
