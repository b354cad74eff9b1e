//! One plain HTTP request to a node: whether a page answers 200.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The start of the answer that is read: the status line begins it.
const START_BYTES: usize = 12;
/// How long the node may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The status code of `GET path`.
///
/// # Errors
/// What the connection says; [`io::ErrorKind::TimedOut`] when the node is silent, and
/// [`io::ErrorKind::InvalidData`] when it answers something else than HTTP.
pub(super) async fn status(endpoint: &str, path: &str) -> io::Result<u16> {
    let answer = tokio::time::timeout(LIMIT, start_of_answer(endpoint, path)).await;
    let start = answer.map_err(|_| io::ErrorKind::TimedOut)??;
    // `HTTP/1.1 200`
    let code = start.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..)?).ok());
    code.and_then(|code| code.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

async fn start_of_answer(endpoint: &str, path: &str) -> io::Result<[u8; START_BYTES]> {
    let mut stream = TcpStream::connect(endpoint).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; START_BYTES];
    stream.read_exact(&mut start).await?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(answer: &'static [u8]) -> io::Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = listener.local_addr()?.to_string();
        let serve = async {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 64];
            let _ = stream.read(&mut request).await?;
            stream.write_all(answer).await
        };
        let (status, served) = tokio::join!(status(&endpoint, "/readyz"), serve);
        served?;
        status
    }

    #[tokio::test]
    async fn the_status_is_that_of_the_first_line() {
        let status = answered(b"HTTP/1.1 503 Service Unavailable\r\n\r\nno leader is known\n").await;
        assert_eq!(status.expect("an answer"), 503);
    }

    #[tokio::test]
    async fn what_is_not_http_is_an_error() {
        let error = answered(b"SSH-2.0-OpenSSH_9\r\n").await.expect_err("no HTTP");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
