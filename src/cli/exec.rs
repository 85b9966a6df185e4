//! `fnbuild exec NAME -- CMD`: runs a command in a function's container; its exit code becomes ours.

use anyhow::{Context, bail};
use http::{Method, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::api::{Channel, EXEC_PROTOCOL, read_frame, write_frame};
use crate::function::FunctionName;

use super::server::{Server, ServerArguments, whole};
use super::{Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild exec add -- python3 --version")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    /// In this replica instead of any
    #[arg(long, value_name = "ID")]
    replica: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(converse(arguments, printer));
    // A read of the terminal cannot be taken back: waiting for it would wait for a key.
    runtime.shutdown_background();
    outcome
}

async fn converse(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = Server::new(&arguments.server)?;
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut query: Vec<String> =
        arguments.command.iter().map(|arg| format!("arg={}", encoded(arg))).collect();
    query.extend(arguments.replica.iter().map(|id| format!("replica={}", encoded(id))));
    let path = format!("/v1/functions/{}/exec?{}", arguments.name, query.join("&"));
    let request = server
        .request(Method::POST, &path)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, EXEC_PROTOCOL)
        .body(whole(""))?;
    let response = server.send_ok(request).await?;
    let connection =
        hyper::upgrade::on(response).await.context("the server did not switch to the command")?;
    let (mut reader, writer) = tokio::io::split(TokioIo::new(connection));
    tokio::spawn(send_stdin(writer));
    while let Some(frame) = read_frame(&mut reader).await.context("the connection to the command broke")? {
        match frame.channel {
            Channel::Stdout => printer.bytes(&frame.bytes)?,
            Channel::Stderr => printer.error_bytes(&frame.bytes)?,
            Channel::Exit => {
                let code = frame.bytes.first_chunk().map_or(1, |code| u32::from_be_bytes(*code));
                return Ok(Outcome::Code(u8::try_from(code).unwrap_or(u8::MAX)));
            }
            Channel::Error => bail!("{}", String::from_utf8_lossy(&frame.bytes)),
            Channel::Stdin | Channel::Resize => {}
        }
    }
    bail!("the connection ended before the command did")
}

async fn send_stdin(mut writer: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let length = stdin.read(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default();
        write_frame(&mut writer, Channel::Stdin, bytes).await?;
        if length == 0 {
            // Kept open: closing it would say that we have gone away.
            std::future::pending::<()>().await;
        }
    }
}
