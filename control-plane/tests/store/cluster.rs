//! A real etcd of one or more members on loopback, in a directory of its own; it ends with the value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use trunkline_control_plane::store::{Etcd, EtcdOptions, Store};

/// The members.
pub struct Cluster {
    directory: TempDir,
    members: Vec<Member>,
}

/// Certificates of a member that wants one of its clients too, in PEM.
pub struct Certificates {
    /// Who signs those of clients.
    pub roots: String,
    /// Its own, and its key.
    pub identity: (String, String),
}

struct Member {
    name: String,
    data: PathBuf,
    client_url: String,
    peer_url: String,
    tls: Vec<String>,
    process: Option<Child>,
}

impl Certificates {
    /// Puts them where etcd reads them, and gives its arguments.
    fn write(&self, directory: &Path) -> Vec<String> {
        let mut arguments = vec!["--client-cert-auth".to_owned()];
        let (certificate, key) = &self.identity;
        for (option, pem) in [("trusted-ca-file", &self.roots), ("cert-file", certificate), ("key-file", key)]
        {
            let path = directory.join(option);
            std::fs::write(&path, pem).unwrap();
            arguments.push(format!("--{option}={}", path.display()));
        }
        arguments
    }
}

impl Cluster {
    /// Starts an etcd and waits until it takes writes; none where there is no etcd, which counts as a failure where
    /// nothing may be skipped.
    pub async fn start(members: usize) -> Option<Self> {
        let cluster = Self::run_all(members, None)?;
        cluster.wait(&cluster.store("").await).await;
        Some(cluster)
    }

    /// One member that is reached by TLS; nobody waits until it answers.
    pub fn start_with(certificates: &Certificates) -> Option<Self> {
        Self::run_all(1, Some(certificates))
    }

    fn run_all(members: usize, certificates: Option<&Certificates>) -> Option<Self> {
        if !Path::new(ETCD).exists() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{ETCD} is missing");
            println!("skipped: {ETCD} is missing");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut ports = free_ports(2 * members).into_iter();
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let tls = certificates.map(|certificates| certificates.write(directory.path())).unwrap_or_default();
        let mut url = |scheme: &str| format!("{scheme}://127.0.0.1:{}", ports.next().unwrap());
        let members = (0..members)
            .map(|number| Member {
                name: format!("member{number}"),
                data: directory.path().join(format!("member{number}")),
                client_url: url(scheme),
                peer_url: url("http"),
                tls: tls.clone(),
                process: None,
            })
            .collect();
        let mut cluster = Self { directory, members };
        for member in 0..cluster.members.len() {
            cluster.run(member);
        }
        Some(cluster)
    }

    /// A store over all members.
    pub async fn store(&self, prefix: &str) -> Etcd {
        let (endpoints, prefix) = (self.endpoints(), prefix.to_owned());
        Etcd::connect(&EtcdOptions { endpoints, prefix, tls: None }).await.unwrap()
    }

    /// Where clients reach the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    /// Which member leads.
    pub async fn leader(&self) -> usize {
        loop {
            let statuses = self.store("").await.members().await;
            if let Some(leader) = statuses.iter().position(|member| member.is_leader) {
                return leader;
            }
        }
    }

    /// Waits until every member takes part.
    pub async fn whole(&self) {
        let store = self.store("").await;
        while !store.members().await.iter().all(|member| member.is_healthy) {
            tokio::task::yield_now().await;
        }
    }

    /// Runs a member on what it has on its disk.
    pub fn run(&mut self, member: usize) {
        let all: Vec<_> =
            self.members.iter().map(|member| format!("{}={}", member.name, member.peer_url)).collect();
        self.members[member].run(&all.join(","));
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// The process id of a member.
    pub fn process_id(&self, member: usize) -> u32 {
        self.members[member].process.as_ref().unwrap().id()
    }

    /// Runs `etcdctl` against the first member and demands that it succeeds.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(ETCDCTL);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.members[0].client_url]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Saves a snapshot of the first member.
    pub fn save(&self) -> PathBuf {
        let snapshot = self.directory.path().join("snapshot");
        self.etcdctl(&["snapshot", "save", &snapshot.display().to_string()]);
        snapshot
    }

    /// Starts a cluster of one member again from a snapshot, as after the loss of its disk.
    pub async fn restore(&mut self, snapshot: &Path) {
        let member = &mut self.members[0];
        member.kill();
        member.data = self.directory.path().join("restored");
        let cluster = format!("{}={}", member.name, member.peer_url);
        let status = Command::new(ETCDCTL)
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore", &snapshot.display().to_string()])
            .args(["--name", &member.name, "--data-dir", &member.data.display().to_string()])
            .args(["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &member.peer_url])
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        self.run(0);
        self.wait(&self.store("").await).await;
    }

    /// Waits until etcd answers.
    pub async fn wait(&self, store: &Etcd) {
        let mut answer = store.get("ready").await;
        for _ in 0..START_ATTEMPTS {
            if answer.is_ok() {
                return;
            }
            answer = store.get("ready").await;
        }
        panic!("etcd does not start: {:?}", answer.err());
    }
}

impl Member {
    fn run(&mut self, all: &str) {
        let process = Command::new(ETCD)
            .args(["--name", &self.name, "--data-dir", &self.data.display().to_string()])
            .args(["--listen-client-urls", &self.client_url, "--advertise-client-urls", &self.client_url])
            .args(["--listen-peer-urls", &self.peer_url, "--initial-advertise-peer-urls", &self.peer_url])
            .args(["--initial-cluster", all, "--initial-cluster-token", "trunkline-test"])
            // As recommended for members in one network: half of etcd's defaults.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.tls)
            .args(["--logger", "zap", "--log-level", "fatal"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that nobody has at this moment: all are held until the last is known.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

const ETCD: &str = "/usr/bin/etcd";
const ETCDCTL: &str = "/usr/bin/etcdctl";
/// Each lasts as long as a call's deadline.
const START_ATTEMPTS: u32 = 10;
