//! `fnbuild invoke NAME`: calls a function through the trigger and prints its answer.

use std::io::Read;

use anyhow::Context;
use http::{Method, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::function::Target;

use super::server::{Server, ServerArguments, block_on, whole};
use super::{Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild invoke add -d '{\"x\": 3, \"y\": 5}'\n\
    \x20 fnbuild invoke add@2 -d @body.json --timing\n\
    \x20 fnbuild invoke thumbnail -d - --content-type image/png < photo.png")]
pub struct Arguments {
    /// NAME, or NAME@VERSION for one version of it
    #[arg(value_name = "NAME")]
    target: Target,
    /// The body: text (JSON), @FILE, or - for stdin
    #[arg(short, long, default_value = "{}", hide_default_value = true)]
    data: String,
    /// The type of the body
    #[arg(long, default_value = "application/json")]
    content_type: String,
    /// Print where the time went, on stderr
    #[arg(long)]
    timing: bool,
    #[command(flatten)]
    server: ServerArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = Server::new(&arguments.server)?;
    let body = data(&arguments.data)?;
    let path = format!("/function/{}", arguments.target);
    let request = server
        .request(Method::POST, &path)
        .header(header::CONTENT_TYPE, &arguments.content_type)
        .body(whole(body))?;
    block_on(async {
        let response = server.send(request).await?;
        if response.headers().get("x-fnbuild-error").is_some_and(|whose| whose == "platform") {
            // Reading it as the API's error gives it words and a hint.
            return Err(server.error(response).await?.into());
        }
        if arguments.timing {
            timing(&response, printer);
        }
        let failed = response.status().is_client_error() || response.status().is_server_error();
        if failed {
            printer.status(format!("the function answered {}", response.status()));
        }
        print(response, printer).await?;
        Ok(if failed { Outcome::FunctionError } else { Outcome::Success })
    })
}

/// The file that `-d @FILE` names.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the body from {file}")]
pub struct Unreadable {
    file: String,
    source: std::io::Error,
}

impl Unreadable {
    /// The next step.
    pub fn hint(&self) -> Option<String> {
        Some("-d takes the body itself, @FILE with the file's path from here, or - for stdin".into())
    }
}

/// Text as it is, `@FILE`, or `-` for standard input.
pub fn data(text: &str) -> anyhow::Result<Vec<u8>> {
    if text == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read the body from stdin")?;
        return Ok(bytes);
    }
    match text.strip_prefix('@') {
        Some(file) => {
            let unreadable = |source| Unreadable { file: file.into(), source };
            std::fs::read(file).map_err(|source| unreadable(source).into())
        }
        None => Ok(text.into()),
    }
}

/// A line for each part of the call's time, in milliseconds. The function's own timings come first: it answered first.
fn timing(response: &Response<Incoming>, printer: &Printer) {
    let text = |value: &http::HeaderValue| value.to_str().map(str::to_string).unwrap_or_default();
    let timings = response.headers().get_all("server-timing").iter().map(text).collect::<Vec<_>>().join(",");
    for (name, millis) in timings.split(',').filter_map(|part| part.trim().split_once(";dur=")) {
        printer.status(format!("{name:>8} {millis:>10} ms"));
    }
    let total =
        response.headers().get("x-duration-seconds").map(text).and_then(|text| text.parse::<f64>().ok());
    if let Some(total) = total {
        printer.status(format!("{:>8} {:>10.3} ms", "in all", total * 1000.0));
    }
    if let Some(call) = response.headers().get("x-call-id").map(text) {
        printer.status(format!("    call {call}"));
    }
}

/// As it comes, so that a stream is seen while it runs.
async fn print(response: Response<Incoming>, printer: &Printer) -> anyhow::Result<()> {
    let mut body = response.into_body();
    let mut last = None;
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.context("the answer broke off")?.into_data() {
            last = bytes.last().copied().or(last);
            printer.bytes(&bytes)?;
        }
    }
    printer.end_line(last);
    Ok(())
}
