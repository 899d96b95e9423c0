//! A way to etcd that can lose one direction: what was asked arrives and the answer does not, or the reverse.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;

/// Forwards connections to one address.
pub struct Proxy {
    address: String,
    requests: watch::Sender<bool>,
    answers: watch::Sender<bool>,
}

impl Proxy {
    /// Forwards to an endpoint such as `http://127.0.0.1:2379`.
    pub async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (requests, answers) = (watch::Sender::new(true), watch::Sender::new(true));
        let (open_requests, open_answers) = (requests.subscribe(), answers.subscribe());
        let to = to.trim_start_matches("http://").to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&to).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(forward(from_client, to_server, open_requests.clone()));
                tokio::spawn(forward(from_server, to_client, open_answers.clone()));
            }
        });
        Self { address, requests, answers }
    }

    /// The endpoint to use instead.
    pub fn endpoint(&self) -> String {
        self.address.clone()
    }

    /// Whether requests get through; those that did not wait.
    pub fn let_requests_through(&self, open: bool) {
        self.requests.send_replace(open);
    }

    /// Whether answers get through; those that did not wait.
    pub fn let_answers_through(&self, open: bool) {
        self.answers.send_replace(open);
    }
}

async fn forward(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
