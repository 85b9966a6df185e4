//! A command in a function's container, over a connection that was upgraded to frames.
//!
//! A frame is a channel (one byte), a length (four bytes, big endian) and so many bytes. The client sends `stdin`, an
//! empty frame for its end, and `resize` (columns and rows, two bytes each); the server sends `stdout`, `stderr` and
//! in the end `exit` (the code, four bytes) or `error` (text).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::description::Changes;
use super::error::chain;
use super::extract::Path;
use super::{Api, ApiError};
use crate::function::FunctionName;
use crate::replica::{self, Exec, ExecRequest};

/// The protocol's name in `Upgrade`.
pub const EXEC_PROTOCOL: &str = "fnbuild-exec/1";
/// No frame is longer: a length is never taken at its word.
const LARGEST_FRAME: u32 = 64 << 10;
/// How long a function without a replica may take to start one for the command.
const START: Duration = Duration::from_secs(120);

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Exit = 3,
    Error = 4,
    Resize = 5,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub channel: Channel,
    pub bytes: Bytes,
}

/// The next frame; `None` where the other side has closed between two.
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let channel = match from.read_u8().await {
        Ok(channel) => channel,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let channels =
        [Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::Exit, Channel::Error, Channel::Resize];
    let channel =
        channels.get(usize::from(channel)).ok_or_else(|| invalid("a frame of an unknown channel"))?;
    let length = from.read_u32().await?;
    if length > LARGEST_FRAME {
        return Err(invalid("a frame longer than 64 KiB"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes).await?;
    Ok(Some(Frame { channel: *channel, bytes: bytes.into() }))
}

/// Writes bytes as one frame, or several where they are many.
pub async fn write_frame(
    to: &mut (impl AsyncWrite + Unpin),
    channel: Channel,
    bytes: &[u8],
) -> io::Result<()> {
    let mut rest = bytes;
    loop {
        let (piece, after) = rest.split_at(rest.len().min(LARGEST_FRAME as usize));
        to.write_u8(channel as u8).await?;
        to.write_u32(u32::try_from(piece.len()).unwrap_or(LARGEST_FRAME)).await?;
        to.write_all(piece).await?;
        rest = after;
        if rest.is_empty() {
            return to.flush().await;
        }
    }
}

/// The query, as the description has it.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
struct Command {
    /// The command and its arguments, one each.
    arg: Vec<String>,
    /// Where there are several.
    replica: Option<String>,
    /// Of a terminal, where there is to be one.
    columns: Option<u32>,
    rows: Option<u32>,
}

/// Runs a command in a replica, over a connection that is upgraded to `fnbuild-exec/1`.
#[utoipa::path(
    post, path = "/v1/functions/{name}/exec", params(FunctionName, Command),
    responses((status = 101, description = "the connection carries frames from here on"), Changes)
)]
pub async fn exec(
    State(api): State<Arc<Api>>,
    Path(name): Path<FunctionName>,
    RawQuery(query): RawQuery,
    mut request: Request,
) -> Result<Response, ApiError> {
    let (command, replica) = command(&query.unwrap_or_default())?;
    let asks = request.headers().get(header::UPGRADE).is_some_and(|to| to == EXEC_PROTOCOL);
    if !asks {
        return Err(ApiError::Request {
            what: format!("a command needs a connection upgraded to {EXEC_PROTOCOL}"),
        });
    }
    api.changes.get(&name).await?;
    // Held while the command runs, so that its container is not taken for idle.
    let lease = match replica {
        Some(_) => None,
        None => Some(api.replicas.acquire(&name, None, Instant::now() + START).await?),
    };
    let replica = replica.or_else(|| lease.as_ref().map(|lease| lease.replica().id.clone()));
    let running = match api.replicas.exec(&name, replica.as_deref(), &command).await {
        Ok(running) => Ok(running),
        Err(error) => Err(not_started(&error).ok_or(error)?),
    };
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _lease = lease;
        match client.await {
            Ok(client) => match running {
                Ok(running) => converse(TokioIo::new(client), running).await,
                Err(refused) => tell(TokioIo::new(client), refused).await,
            },
            Err(error) => tracing::debug!(%error, "a command's connection was not upgraded"),
        }
    });
    let upgrade = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(EXEC_PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, upgrade).into_response())
}

/// A program that cannot be run, as a shell puts it: a line on stderr, and a code.
struct NotStarted {
    code: u32,
    text: String,
}

/// `None` where it is not the program's fault.
fn not_started(error: &replica::Error) -> Option<NotStarted> {
    let code = match error {
        replica::Error::NoProgram { .. } => 127,
        replica::Error::NotExecutable { .. } => 126,
        _ => return None,
    };
    Some(NotStarted { code, text: format!("{error}\n") })
}

async fn tell(mut client: impl AsyncWrite + Unpin, NotStarted { code, text }: NotStarted) {
    let told = async {
        write_frame(&mut client, Channel::Stderr, text.as_bytes()).await?;
        write_frame(&mut client, Channel::Exit, &code.to_be_bytes()).await?;
        client.shutdown().await
    };
    if let Err(error) = told.await {
        tracing::debug!(%error, "whoever ran a command has gone away");
    }
}

fn command(query: &str) -> Result<(ExecRequest, Option<String>), ApiError> {
    let (mut args, mut replica, mut columns, mut rows) = (Vec::new(), None, None, None);
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let number = || {
            let refused = |_| ApiError::Request { what: format!("{key}={value} is no number") };
            value.parse::<u32>().map_err(refused)
        };
        match &*key {
            "arg" => args.push(value.into_owned()),
            "replica" => replica = Some(value.into_owned()),
            "columns" => columns = Some(number()?),
            "rows" => rows = Some(number()?),
            _ => return Err(ApiError::Request { what: format!("{key:?} is no parameter of exec") }),
        }
    }
    if args.is_empty() {
        return Err(ApiError::Request { what: "there is no command to run".into() });
    }
    Ok((ExecRequest { args, terminal: columns.zip(rows) }, replica))
}

/// What the client says besides input.
enum Asked {
    EndOfInput,
    Resize(u32, u32),
}

/// Until the command ends or the client goes away, which ends the command too.
async fn converse(client: impl AsyncRead + AsyncWrite + Send + 'static, mut running: Exec) {
    let (reader, mut writer) = tokio::io::split(client);
    let (sender, asked) = mpsc::channel(16);
    // Input has a task of its own: a command that does not read must not keep its output waiting.
    let input = tokio::spawn(take_input(reader, running.stdin.take(), sender));
    let told = match output(&mut running, &mut writer, asked).await {
        Ok(true) => match running.wait().await {
            Ok(exit) => write_frame(&mut writer, Channel::Exit, &exit.status.to_be_bytes()).await,
            Err(error) => write_frame(&mut writer, Channel::Error, chain(&error).as_bytes()).await,
        },
        Ok(false) => Ok(()),
        Err(error) => write_frame(&mut writer, Channel::Error, error.to_string().as_bytes()).await,
    };
    if let Err(error) = told {
        tracing::debug!(%error, "whoever ran a command has gone away");
    }
    let _ = writer.shutdown().await;
    input.abort();
}

async fn take_input(
    mut reader: impl AsyncRead + Unpin,
    mut stdin: Option<impl AsyncWrite + Unpin>,
    asked: mpsc::Sender<Asked>,
) {
    while let Ok(Some(frame)) = read_frame(&mut reader).await {
        let ask = match (frame.channel, &*frame.bytes) {
            (Channel::Stdin, []) => Asked::EndOfInput,
            (Channel::Stdin, bytes) => {
                // A command may well end, or close its input, before it has read all of it.
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(bytes).await.is_err()
                {
                    stdin = None;
                }
                continue;
            }
            (Channel::Resize, [c1, c0, r1, r0]) => {
                Asked::Resize(u16::from_be_bytes([*c1, *c0]).into(), u16::from_be_bytes([*r1, *r0]).into())
            }
            _ => return,
        };
        if matches!(ask, Asked::EndOfInput) {
            stdin = None;
        }
        if asked.send(ask).await.is_err() {
            return;
        }
    }
}

/// Passes on what the command writes until it has closed both its outputs; `false` if the client went away first.
async fn output(
    running: &mut Exec,
    writer: &mut (impl AsyncWrite + Unpin),
    mut asked: mpsc::Receiver<Asked>,
) -> io::Result<bool> {
    let (mut out, mut err) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    let (mut out_open, mut err_open) = (true, running.stderr.is_some());
    while out_open || err_open {
        let stderr = &mut running.stderr;
        let read_stderr = async {
            match stderr {
                Some(pipe) => pipe.read(&mut err).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = running.stdout.read(&mut out), if out_open => match read? {
                0 => out_open = false,
                length => write_frame(writer, Channel::Stdout, &out[..length]).await?,
            },
            read = read_stderr, if err_open => match read? {
                0 => err_open = false,
                length => write_frame(writer, Channel::Stderr, &err[..length]).await?,
            },
            ask = asked.recv() => match ask {
                Some(Asked::EndOfInput) => running.close_stdin().await.map_err(io::Error::other)?,
                Some(Asked::Resize(columns, rows)) => {
                    running.resize(columns, rows).await.map_err(io::Error::other)?;
                }
                None => return Ok(false),
            },
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went_and_long_ones_in_pieces() {
        let mut wire = Vec::new();
        write_frame(&mut wire, Channel::Stdout, &[7; 100_000]).await.unwrap();
        write_frame(&mut wire, Channel::Stdin, &[]).await.unwrap();
        let mut wire = wire.as_slice();
        let mut lengths = Vec::new();
        while let Some(frame) = read_frame(&mut wire).await.unwrap() {
            lengths.push((frame.channel, frame.bytes.len()));
        }
        assert_eq!(lengths, [(Channel::Stdout, 65_536), (Channel::Stdout, 34_464), (Channel::Stdin, 0)]);
    }

    #[tokio::test]
    async fn frames_that_lie_are_refused() {
        for wire in [&b"\x09\0\0\0\0"[..], b"\x00\xff\xff\xff\xff", b"\x01\0\0\0\x05abc", b"\x01\0"] {
            assert!(read_frame(&mut &wire[..]).await.is_err(), "{wire:?}");
        }
    }

    #[test]
    fn a_command_is_read_from_the_query() {
        let (request, replica) = command("arg=ls&arg=-l+%26&columns=80&rows=24").unwrap();
        assert_eq!((request.args, request.terminal), (vec!["ls".into(), "-l &".into()], Some((80, 24))));
        assert_eq!(replica, None);
        for query in ["", "replica=x", "arg=ls&columns=x", "arg=ls&other=1"] {
            assert!(command(query).is_err(), "{query}");
        }
    }
}
