//! A running `trunkline up` on loopback, ended with the value.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The built binary.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.stdin(Stdio::null());
    command
}

/// Ports that nobody listens on.
pub struct Ports {
    pub turn: u16,
    pub tls: u16,
    pub http: u16,
}

impl Ports {
    /// Below the relay ports, and others for every call of every test process.
    pub fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let base = u16::try_from(std::process::id() % 50).unwrap() * 100 + 4_000;
        let mut free =
            std::iter::repeat_with(|| base + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000).filter(|port| {
                TcpListener::bind(("127.0.0.1", *port)).is_ok()
                    && UdpSocket::bind(("127.0.0.1", *port)).is_ok()
            });
        let mut next = || free.next().unwrap();
        Self { turn: next(), tls: next(), http: next() }
    }

    /// Arguments of a node with these ports and a user.
    pub fn arguments(&self, data: &Path) -> Vec<String> {
        let (turn, tls, http) =
            (self.turn.to_string(), self.tls.to_string(), format!("127.0.0.1:{}", self.http));
        let data = data.to_str().unwrap();
        let arguments = [
            "up",
            "--log",
            "error",
            "--address",
            "127.0.0.1",
            "--threads",
            "2",
            "--user",
            "alice:secret",
            "--data-dir",
            data,
            "--turn-port",
            &turn,
            "--tls-port",
            &tls,
            "--http",
            &http,
        ];
        arguments.map(str::to_owned).to_vec()
    }
}

/// A node that serves.
pub struct Node {
    child: Child,
    said: String,
    _out: BufReader<ChildStdout>,
    pub ports: Ports,
    pub quickstart: serde_json::Value,
}

/// What the HTTP API answered.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Node {
    /// With `--json`.
    pub fn start(data: &Path, more: &[&str]) -> Self {
        let arguments: Vec<&str> = std::iter::once("--json").chain(more.iter().copied()).collect();
        let mut node = Self::start_with(data, &arguments);
        let line = node.said.lines().next().unwrap();
        node.quickstart = serde_json::from_str(line).unwrap();
        node
    }

    pub fn start_for_a_person(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    fn start_with(data: &Path, more: &[&str]) -> Self {
        let ports = Ports::free();
        let mut child =
            command().args(ports.arguments(data)).args(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        // Ends with the process at the latest.
        while !said.ends_with("ready\n") {
            assert!(out.read_line(&mut said).unwrap() > 0, "it ended before it was ready:\n{said}");
        }
        Self { child, said, _out: out, ports, quickstart: serde_json::Value::Null }
    }

    /// Standard output up to `ready`.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Id and secret of the quickstart key.
    pub fn key(&self) -> (String, String) {
        let text = |name: &str| self.quickstart["turnKey"][name].as_str().unwrap().to_owned();
        (text("id"), text("secret"))
    }

    /// Live allocations.
    pub fn allocations(&self) -> u64 {
        let answer = self.http("GET", "/v1/allocations", self.quickstart["adminToken"].as_str().unwrap(), "");
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()["total"].as_u64().unwrap()
    }

    pub fn http(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.http)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, body: body.to_owned() }
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits for the end, not for ever.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and waits.
    pub fn stop(mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
