//! One replica and very many servers: how soon the last of them has an epoch, and how many bytes that takes.
//!
//! etcd, the replica and the operator's command are the real programs. The servers are streams of one process: each has
//! a certificate and a TLS connection of its own, reports every 2 seconds and acknowledges what it is told, but
//! puts nothing in force.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use trunkline_control_plane::connector::{self, Endpoint, Trust};
use trunkline_control_plane::identity::Name;
use trunkline_control_plane::pki::Issuer;
use trunkline_control_plane::pki::files::Files;
use trunkline_control_plane::records::{self, parse_node};
use trunkline_control_plane::store::{self, EtcdOptions, Store, Transaction};
use trunkline_proto::fleet::v1::{Configuration, Epoch, NodeId};
use trunkline_proto::node::v1::node_service_client::NodeServiceClient;
use trunkline_proto::node::v1::{
    Acknowledgement, Hello, NodeMessage, Report, control_message, node_message::Message,
};
use trunkline_proto::store::v1::NodeRecord;

use crate::cluster::Cluster;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Sites of the fleet.
    pub sites: u16,
    /// Servers of each.
    pub servers: u16,
    /// Changes of one server's weight, one after the other.
    pub rounds: u32,
}

/// One change, seen by every server.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// From the operator's call until the last server has the epoch of its answer.
    pub last: Duration,
    /// Bytes that the server was told most of, over every epoch that followed from the change.
    pub most_bytes: usize,
    /// Of the server in the middle.
    pub median_bytes: usize,
    /// Epochs that followed from the change: both phases, batch by batch.
    pub epochs: u64,
    /// From the first server that has an epoch to the last one: the slowest epoch.
    pub slowest_epoch: Duration,
}

/// What was measured.
#[derive(Debug)]
pub struct Outcome {
    /// Streams.
    pub nodes: usize,
    /// Until every server had its first configuration.
    pub joined: Duration,
    /// In order.
    pub changes: Vec<Change>,
    /// The replica's memory before the first server, in KiB.
    pub empty_kib: u64,
    /// With all of them, after the changes.
    pub resident_kib: u64,
    /// The most it ever had.
    pub peak_kib: u64,
}

/// What one server was told: when, which epoch, and its bytes.
type Told = Arc<Mutex<Vec<(Instant, Epoch, usize)>>>;

/// Runs the plan.
pub fn run(plan: Plan) -> anyhow::Result<Outcome> {
    let cluster = Cluster::start(1, 1, &[]).map_err(anyhow::Error::msg)?;
    let names = names(plan);
    let endpoints = vec![cluster.etcd.endpoints()];
    cluster.machine.enter(|| runtime()?.block_on(add(&endpoints, &names)))??;
    let identities = identities(&cluster, &names)?;
    let pid = cluster.replicas.first().context("no replica")?.running.pid();
    let empty_kib = memory(pid, "VmRSS")?;
    cluster.outside.enter(|| -> anyhow::Result<Outcome> {
        let runtime = runtime()?;
        let told: Vec<Told> = names.iter().map(|_| Told::default()).collect();
        let since = Instant::now();
        let endpoint: Endpoint = cluster.endpoints().first().context("no endpoint")?.parse()?;
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        for ((number, files), told) in identities.into_iter().enumerate().zip(&told) {
            let (endpoint, told, gate) = (endpoint.clone(), Arc::clone(told), Arc::clone(&gate));
            runtime.spawn(async move {
                if let Err(error) = serve(number, endpoint, files, told, gate).await {
                    eprintln!("server {number}: {error:#}");
                }
            });
        }
        let joined = calm(&told, since, (0, 0), BALANCED)?;
        let mut changes = vec![];
        for round in 0..plan.rounds {
            changes.push(change(&cluster, &told, round)?);
        }
        let (resident_kib, peak_kib) = (memory(pid, "VmRSS")?, memory(pid, "VmHWM")?);
        Ok(Outcome { nodes: told.len(), joined, changes, empty_kib, resident_kib, peak_kib })
    })?
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn names(plan: Plan) -> Vec<NodeId> {
    let servers =
        |site: u16| (1..=plan.servers).map(move |server| NodeId { site: site.into(), server: server.into() });
    (1..=plan.sites).flat_map(servers).collect()
}

fn encapsulation_address(number: usize) -> String {
    format!("10.{}.{}.{}:6080", 100 + number / 62_500, number / 250 % 250, number % 250 + 1)
}

/// Members as they are after their first Hello.
async fn add(endpoints: &[String], names: &[NodeId]) -> anyhow::Result<()> {
    let options = EtcdOptions { endpoints: endpoints.to_vec(), prefix: "trunkline/".to_owned(), tls: None };
    let store = store::Etcd::connect(&options).await?;
    let put = |(number, node): (usize, &NodeId)| {
        let record = NodeRecord {
            node: Some(*node),
            weight: 1.0,
            joined: true,
            encapsulation_address: encapsulation_address(number),
            ..NodeRecord::default()
        };
        records::put(format!("{}.{}", node.site, node.server), &record)
    };
    let records: Vec<_> = names.iter().enumerate().map(put).collect();
    for batch in records.chunks(BATCH) {
        store.commit(Transaction { checks: vec![], changes: batch.to_vec() }).await?;
    }
    Ok(())
}

/// A certificate for each server.
fn identities(cluster: &Cluster, names: &[NodeId]) -> anyhow::Result<Vec<Files>> {
    let issuer =
        Issuer::from_files(&cluster.authority.file("issuer.pem"), &cluster.authority.file("issuer.key"))?;
    let roots = cluster.authority.operator("admin").join("roots.pem");
    names.iter().map(|node| identity(&issuer, &roots, node, cluster.path("streams"))).collect()
}

fn identity(issuer: &Issuer, roots: &Path, node: &NodeId, parent: PathBuf) -> anyhow::Result<Files> {
    let text = format!("{}.{}", node.site, node.server);
    let directory = parent.join(&text);
    std::fs::create_dir_all(&directory)?;
    let files = Files { roots: roots.to_owned(), ..Files::in_directory(&directory) };
    let issued = issuer.issue(&Name::Node(parse_node(&text).context("an odd name")?), None)?;
    std::fs::write(&files.certificate, &issued.chain)?;
    std::fs::write(&files.key, issued.key.as_bytes())?;
    std::fs::set_permissions(&files.key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(files)
}

/// One server's life.
async fn serve(
    number: usize,
    endpoint: Endpoint,
    files: Files,
    told: Told,
    gate: Arc<Semaphore>,
) -> anyhow::Result<()> {
    let permit = gate.acquire().await?;
    let channel = connector::connect(&endpoint, &Trust::Files(files)).await?;
    let mut client = NodeServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (outgoing, messages) = mpsc::channel(16);
    let say = |message: Message| NodeMessage { message: Some(message) };
    let hello = Hello {
        incarnation: 1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        encapsulation_address: encapsulation_address(number),
        ..Hello::default()
    };
    outgoing.send(say(Message::Hello(hello))).await?;
    let mut incoming = client.open_session(ReceiverStream::new(messages)).await?.into_inner();
    drop(permit);
    let mut epoch = None;
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            message = incoming.message() => {
                let message = message?.context("the session ended")?;
                let Some(control_message::Message::Configuration(configuration)) = message.message else { continue };
                epoch = configuration.epoch;
                note(&told, &configuration)?;
                let acknowledgement = Acknowledgement { epoch, refusal: String::new() };
                outgoing.send(say(Message::Acknowledgement(acknowledgement))).await?;
            }
            _ = tick.tick(), if epoch.is_some() => {
                outgoing.send(say(Message::Report(Report { epoch, ..Report::default() }))).await?;
            }
        }
    }
}

fn note(told: &Told, configuration: &Configuration) -> anyhow::Result<()> {
    let bytes = prost::Message::encoded_len(configuration);
    let epoch = configuration.epoch.context("a configuration without an epoch")?;
    told.lock().map_err(|_| anyhow!("poisoned"))?.push((Instant::now(), epoch, bytes));
    Ok(())
}

/// Waits until every server has the same epoch, `least` or a later one, and none was told anything for so long: when the
/// last one was.
fn calm(told: &[Told], since: Instant, least: (u64, u64), quiet: Duration) -> anyhow::Result<Duration> {
    let mut epochs = BTreeSet::new();
    let mut known = 0;
    while since.elapsed() < PATIENCE {
        let newest: Vec<_> = told.iter().filter_map(|told| told.lock().ok()?.last().copied()).collect();
        let last = newest.iter().map(|(at, _, _)| *at).max().unwrap_or(since);
        epochs = newest.iter().map(|(_, epoch, _)| order(*epoch)).collect();
        known = newest.len();
        let is_one = known == told.len() && epochs.len() == 1 && epochs.first() >= Some(&least);
        if is_one && last.elapsed() > quiet {
            return Ok(last.saturating_duration_since(since));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!(
        "the servers do not come to rest within {PATIENCE:?}: {known} of {} have a configuration, of epochs {:?} to {:?}",
        told.len(),
        epochs.first(),
        epochs.last()
    )
}

/// Changes one server's weight: what every server was told.
fn change(cluster: &Cluster, told: &[Told], round: u32) -> anyhow::Result<Change> {
    let since = Instant::now();
    let weight = if round.is_multiple_of(2) { "0.9" } else { "1" };
    let answer = cluster.ctl().json(&["weight", "1.1", weight]).map_err(anyhow::Error::msg)?;
    let number = |name: &str| answer.pointer(&format!("/epoch/{name}")).and_then(serde_json::Value::as_u64);
    let changed = number("generation").zip(number("counter")).context("an answer without an epoch")?;
    calm(told, since, changed, QUIET)?;
    let mut news = vec![];
    for told in told {
        let told = told.lock().map_err(|_| anyhow!("poisoned"))?;
        news.push(told.iter().filter(|(at, _, _)| *at >= since).copied().collect::<Vec<_>>());
    }
    ensure!(news.iter().all(|news| !news.is_empty()), "a server was told nothing: {answer}");
    // A later epoch holds what an earlier one changed: servers may be told both at once.
    let reached = |news: &Vec<(Instant, Epoch, usize)>, epoch: (u64, u64)| {
        news.iter().find(|(_, told, _)| order(*told) >= epoch).map(|(at, _, _)| *at)
    };
    let last = news.iter().filter_map(|news| reached(news, changed)).max().context("no times")?;
    let mut epochs: Vec<_> = news.iter().flatten().map(|(_, epoch, _)| order(*epoch)).collect();
    epochs.sort_unstable();
    epochs.dedup();
    let spread = |epoch: &(u64, u64)| {
        let times: Vec<_> = news.iter().filter_map(|news| reached(news, *epoch)).collect();
        Some(times.iter().max()?.duration_since(*times.iter().min()?))
    };
    let mut bytes: Vec<usize> =
        news.iter().map(|news| news.iter().map(|(_, _, bytes)| bytes).sum()).collect();
    bytes.sort_unstable();
    Ok(Change {
        last: last.duration_since(since),
        most_bytes: bytes.last().copied().unwrap_or(0),
        median_bytes: bytes.get(bytes.len() / 2).copied().unwrap_or(0),
        epochs: epochs.len() as u64,
        slowest_epoch: epochs.iter().filter_map(spread).max().unwrap_or_default(),
    })
}

fn order(epoch: Epoch) -> (u64, u64) {
    (epoch.generation, epoch.counter)
}

fn memory(pid: u32, field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no such field")?;
    Ok(number.trim().parse()?)
}

/// Connections that are opened at the same time.
const AT_ONCE: usize = 64;
/// Records of one transaction.
const BATCH: usize = 100;
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// Rows that went to the servers that came first go to the others once they were held for 30 s.
const BALANCED: Duration = Duration::from_secs(45);
const QUIET: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(180);
const MESSAGE_BYTES_MAX: usize = 64 << 20;
