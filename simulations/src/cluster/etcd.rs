//! Real etcd processes in a namespace.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::netns::Namespace;
use crate::process::Running;

/// One member's process.
pub struct Member {
    /// The process; `None` while it is stopped.
    pub running: Option<Running>,
    name: String,
    data: PathBuf,
    client_port: u16,
    peer_port: u16,
}

/// A store of one or more members.
pub struct Etcd {
    /// Its members.
    pub members: Vec<Member>,
    space: Arc<Namespace>,
}

impl Etcd {
    /// Starts `count` members with empty directories below `directory` and waits until they serve.
    pub fn start(space: Arc<Namespace>, directory: &Path, count: usize) -> Result<Self, String> {
        let member = |number: usize| {
            let offset = u16::try_from(number).unwrap_or(0) * 10;
            let name = format!("e{number}");
            let data = directory.join(&name);
            Member { running: None, name, data, client_port: 2379 + offset, peer_port: 2380 + offset }
        };
        let mut etcd = Self { members: (0..count).map(member).collect(), space };
        etcd.start_all()?;
        Ok(etcd)
    }

    /// Starts every member that does not run.
    pub fn start_all(&mut self) -> Result<(), String> {
        let all = self
            .members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer_port));
        let all = all.collect::<Vec<_>>().join(",");
        for member in self.members.iter_mut().filter(|member| member.running.is_none()) {
            let url = |port: u16| format!("http://127.0.0.1:{port}");
            let mut command = self.space.command("etcd");
            command.arg("--name").arg(&member.name).arg("--data-dir").arg(&member.data);
            command.args(["--listen-client-urls", &url(member.client_port)]);
            command.args(["--advertise-client-urls", &url(member.client_port)]);
            command.args(["--listen-peer-urls", &url(member.peer_port)]);
            command.args(["--initial-advertise-peer-urls", &url(member.peer_port)]);
            command.args([
                "--initial-cluster",
                &all,
                "--heartbeat-interval",
                "50",
                "--election-timeout",
                "500",
            ]);
            command.args(["--unsafe-no-fsync=false", "--log-level", "error", "--logger", "zap"]);
            let running = Running::start(&member.name, &mut command).map_err(|error| error.to_string())?;
            member.running = Some(running);
        }
        self.wait_until_healthy()
    }

    fn wait_until_healthy(&self) -> Result<(), String> {
        super::wait_until("etcd is healthy", Duration::from_secs(20), || {
            Ok(self.etcdctl(&["endpoint", "health"]).is_ok())
        })
        .map(|_| ())
    }

    /// Where clients reach it.
    pub fn endpoints(&self) -> String {
        let urls = self.members.iter().map(|member| format!("http://127.0.0.1:{}", member.client_port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// Runs etcdctl: its standard output.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<Vec<u8>, String> {
        let mut command = self.space.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoints()]).args(arguments);
        let output = command.output().map_err(|error| format!("etcdctl: {error}"))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(format!("etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// The member that leads.
    pub fn leader(&self) -> Result<usize, String> {
        let text = self.etcdctl(&["endpoint", "status"])?;
        let text = String::from_utf8_lossy(&text).into_owned();
        // "http://127.0.0.1:2379, 8e9e05c52164694d, 3.4.23, 20 kB, true, false, 2, 4, 4, "
        let is_leader = |line: &str| line.split(", ").nth(4) == Some("true");
        let line = text.lines().find(|line| is_leader(line)).ok_or("no etcd member leads")?;
        let of_line =
            |member: &Member| line.starts_with(&format!("http://127.0.0.1:{},", member.client_port));
        self.members.iter().position(of_line).ok_or_else(|| format!("odd leader {line}"))
    }

    /// Kills one member's process (SIGKILL).
    pub fn kill(&mut self, member: usize) {
        self.members[member].running = None;
    }

    /// Kills every member.
    pub fn kill_all(&mut self) {
        self.members.iter_mut().for_each(|member| member.running = None);
    }

    /// Saves a snapshot of a store with one member.
    pub fn snapshot(&self, to: &Path) -> Result<(), String> {
        self.etcdctl(&["snapshot", "save", &to.to_string_lossy()]).map(|_| ())
    }

    /// Puts a store with one member back to a snapshot: the process is killed, its data replaced, and it serves again.
    pub fn restore(&mut self, from: &Path) -> Result<(), String> {
        self.kill_all();
        for member in &self.members {
            std::fs::remove_dir_all(&member.data).map_err(|error| error.to_string())?;
            let peer = format!("http://127.0.0.1:{}", member.peer_port);
            let status = std::process::Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore", &from.to_string_lossy(), "--name", &member.name])
                .args(["--initial-cluster", &format!("{}={peer}", member.name)])
                .args(["--initial-advertise-peer-urls", &peer, "--data-dir", &member.data.to_string_lossy()])
                .stderr(std::process::Stdio::null())
                .status()
                .map_err(|error| format!("etcdctl: {error}"))?;
            if !status.success() {
                return Err(format!("etcdctl snapshot restore ended with {status}"));
            }
        }
        self.start_all()
    }

    /// Every key and value, as bytes and with binary values as they are.
    pub fn dump(&self) -> Result<Vec<u8>, String> {
        self.etcdctl(&["get", "", "--prefix"])
    }

    /// Keys and values as JSON (both in Base64) without what changes by itself: reports, leases, events.
    pub fn configuration_dump(&self) -> Result<String, String> {
        let parts =
            ["epoch", "node/", "table/", "slices/", "turn-key/", "settings/", "rollout", "fleet-key/"];
        let mut all = String::new();
        for part in parts {
            let prefix = format!("trunkline/{part}");
            let json = self.etcdctl(&["get", &prefix, "--prefix", "--write-out", "json"])?;
            let json: serde_json::Value = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
            all.push_str(&format!("{part} {}\n", json["kvs"]));
        }
        Ok(all)
    }
}
