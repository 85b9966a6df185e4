//! When a replica can take its first call.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long between two attempts: short at first, when most listen, longer for what takes seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// Ends when the replica listens, and if it has fnbuild's runtime, when that answers its health check. Never gives up
/// by itself.
pub(super) async fn ready(address: SocketAddr, has_health: bool) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Ok(stream) = TcpStream::connect(address).await
            && (!has_health || healthy(stream, address).await.unwrap_or(false))
        {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause + pause / 4).min(LAST_PAUSE);
    }
}

/// Ends when a runtime that listens has answered anything, or has not.
pub(super) async fn answers(address: SocketAddr) {
    if let Ok(stream) = TcpStream::connect(address).await {
        let _ = status(stream, address, "/_/health").await;
    }
}

/// fnbuild's runtime listens first and imports then. Its answer to `?wait` comes when the function is loaded; one of
/// before that was known says 503 until then. A function that cannot be loaded is 500, and answers every call with the
/// reason.
async fn healthy(stream: TcpStream, address: SocketAddr) -> std::io::Result<bool> {
    Ok(status(stream, address, "/_/health?wait").await? != *b" 503")
}

async fn status(mut stream: TcpStream, address: SocketAddr, path: &str) -> std::io::Result<[u8; 4]> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // The version may be 1.0.
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, status @ ..] => Ok(status),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}
