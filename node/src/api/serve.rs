//! Accepts connections and serves HTTP/1.1 on them, within bounds that a hostile client cannot pass.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut is_failing = false;
    loop {
        // Beyond the bound, connections wait in the kernel's backlog.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                is_failing = false;
                drop(tokio::spawn(connection(stream, router.clone(), place)));
            }
            Err(error) if is_over_already(&error) => {}
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "cannot accept HTTP connections; trying again until it works");
                }
                is_failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, _place: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A peer that reads no answers must not keep its place either.
    match timeout(CONNECTION_TIME_MAX, serving).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection ended"),
    }
}

/// The connection is gone, and that is all. Anything else (out of descriptors, of memory) lasts a while, and trying
/// again at once would only burn the processor.
fn is_over_already(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Connections at once.
const CONNECTIONS_MAX: usize = 512;
/// From the first byte (or the end of the last answer) to the end of the header.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest header.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// A client opens another connection after this.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn started() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Router::new().route("/", get(|| async { "hello" }))));
        address
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut bytes = vec![];
        stream.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn a_request_is_answered() {
        let mut stream = TcpStream::connect(started().await).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    }

    #[tokio::test]
    async fn a_header_that_is_too_large_is_refused() {
        let mut stream = TcpStream::connect(started().await).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(2 * HEADER_BYTES_MAX));
        let _ = stream.write_all(head.as_bytes()).await;
        let mut first = [0; 12];
        let read = stream.read(&mut first).await.unwrap_or(0);
        assert!(read == 0 || first.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&first));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_no_header_is_cut_off() {
        let mut stream = TcpStream::connect(started().await).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let outcome = timeout(HEADER_TIME_MAX * 3, answer(&mut stream)).await;
        assert!(outcome.is_ok(), "the connection is still open");
    }
}
