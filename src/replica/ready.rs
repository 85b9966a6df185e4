//! When a replica can take its first call.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long between two attempts: short at first, when most are ready, longer for what takes seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
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

async fn healthy(mut stream: TcpStream, address: SocketAddr) -> std::io::Result<bool> {
    let request = format!("GET /_/health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    // 503 until the function is loaded. One that cannot be loaded is 500, and answers every call with the reason. The
    // status line's version may be 1.0.
    Ok(line.starts_with(b"HTTP/1.") && !line.ends_with(b" 503"))
}
