//! A server with shards on loopback and a control plane that says what a test says.

mod outage;
mod replica;

use std::net::{IpAddr, TcpListener};
use std::sync::atomic::AtomicBool;

use tokio::sync::mpsc;
use trunkline_control_plane::listener::memory_listener;
use trunkline_proto::fleet::v1::{FleetKey, FleetKeys, Slice, TurnKey};
use trunkline_proto::node::v1::control_message::Message as Said;
use trunkline_proto::node::v1::node_message::Message;
use trunkline_proto::node::v1::{Acknowledgement, UsageAcknowledgement};
use trunkline_wire::NodeId;

use super::*;
use crate::journal::{Delta, Journal};
use crate::keys::InForce;
use crate::options::Options;
use crate::places::Places;
use crate::shard::{Listen, Start};
use replica::Opened;

const NODE: NodeId = NodeId { site: 1, server: 2 };
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A configuration of one key, named by what it is.
fn configuration(generation: u64, counter: u64, key: &str) -> Configuration {
    let fleet_keys = FleetKeys { keys: vec![FleetKey { id: 1, secret: vec![7; 16] }] };
    let mut full = Configuration {
        epoch: Some(Epoch { generation, counter }),
        keys: vec![TurnKey { id: key.into(), secret: "s".into() }],
        fleet_keys: Some(fleet_keys),
        ..Configuration::default()
    };
    full.digest = configuration::digest(&full).to_vec();
    full
}

struct Server {
    directory: tempfile::TempDir,
    journal: SharedJournal,
}

/// A server that runs.
struct Running {
    shards: Shards,
    in_force: watch::Receiver<InForce>,
    channel: watch::Receiver<Option<Channel>>,
    control: tokio::task::JoinHandle<()>,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let journal = SharedJournal::new(Journal::open(&directory.path().join("usage"), 1_000));
        Self { directory, journal }
    }

    fn control(
        &self,
        endpoint: Endpoint,
    ) -> (Control, watch::Receiver<InForce>, watch::Receiver<Option<Channel>>) {
        let places = Places {
            service: vec![LOOPBACK],
            relay: vec![LOOPBACK],
            shared: vec![],
            machine: vec![LOOPBACK],
        };
        let machine = Machine {
            options: Options::default(),
            node: NODE,
            member: NODE,
            places,
            systems: None,
            ending: Arc::new(AtomicBool::new(false)),
        };
        let (in_force, credentials) = watch::channel(InForce::default());
        let (channel, open) = watch::channel(None);
        let control = Control::new(
            Way { endpoints: vec![endpoint], trust: Trust::Local },
            machine,
            Hello { incarnation: 5, ..Hello::default() },
            Some(Cache::open(self.directory.path(), NODE).unwrap()),
            self.journal.clone(),
            Arc::new(Health::new(None, vec![])),
            Published { in_force, channel },
        );
        (control, credentials, open)
    }

    /// Starts the server; `None` as the way is a control plane that is away.
    async fn start(&self, endpoint: Option<Endpoint>) -> Running {
        let endpoint = endpoint.unwrap_or_else(|| Endpoint::Memory(memory_listener().0));
        let (mut control, in_force, channel) = self.control(endpoint);
        let First { applied, session } = control.first().await;
        let shards =
            crate::shard::start(Start { threads: 2, applied, listen: listen(), encapsulation: None });
        let shards = shards.unwrap();
        let control = tokio::spawn(control.run(shards.clone(), session));
        Running { shards, in_force, channel, control }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.abort();
        self.shards.stop();
        self.shards.join();
    }
}

fn listen() -> Listen {
    let turn = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let resolver = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
    let tls_config = Arc::new(tls.unwrap().with_no_client_auth().with_cert_resolver(resolver));
    Listen { turn: vec![turn], tls: vec![], tls_config }
}

/// Starts a server whose replica says `first`; the session goes on.
async fn connected(
    server: &Server,
    first: Configuration,
) -> (Running, Opened, mpsc::UnboundedReceiver<Opened>) {
    let (connector, mut sessions) = replica::serve();
    let starting = server.start(Some(Endpoint::Memory(connector)));
    let opening = async {
        let opened = sessions.recv().await.unwrap();
        opened.say(Said::Configuration(first)).await;
        opened
    };
    let (running, opened) = tokio::join!(starting, opening);
    (running, opened, sessions)
}

async fn acknowledged(opened: &mut Opened) -> Acknowledgement {
    let choose = |message| match message {
        Message::Acknowledgement(acknowledgement) => Some(acknowledgement),
        _ => None,
    };
    opened.heard(choose).await
}

fn key(running: &Running) -> String {
    let known = running.in_force.borrow();
    known.credentials.keys.keys().next().cloned().unwrap_or_default()
}

#[tokio::test]
async fn an_epoch_is_acknowledged_once_it_is_in_force_and_kept() {
    let server = Server::new();
    let (running, mut opened, _sessions) = connected(&server, configuration(1, 5, "a")).await;
    assert_eq!(
        acknowledged(&mut opened).await,
        Acknowledgement { epoch: Some(Epoch { generation: 1, counter: 5 }), refusal: String::new() }
    );
    let next = configuration(1, 6, "b");
    let update = configuration::difference(&configuration(1, 5, "a"), &next);
    opened.say(Said::Configuration(update)).await;
    assert_eq!(acknowledged(&mut opened).await.epoch, next.epoch);
    assert!(running.shards.applied().credentials.keys.contains_key("b"));
    assert_eq!(key(&running), "b");
    let kept = Cache::open(server.directory.path(), NODE).and_then(|cache| cache.load());
    assert!(kept.is_ok_and(|kept| kept == Some(next)));
}

#[tokio::test]
async fn an_older_epoch_is_never_applied_after_a_restart_either() {
    let server = Server::new();
    let (running, mut opened, _sessions) = connected(&server, configuration(2, 5, "a")).await;
    acknowledged(&mut opened).await;
    opened.say(Said::Configuration(configuration(2, 4, "old"))).await;
    let refused = acknowledged(&mut opened).await;
    assert!(refused.refusal.contains("2.4"), "{}", refused.refusal);
    assert_eq!(key(&running), "a");
    drop(running);

    let (connector, mut sessions) = replica::serve();
    let starting = server.start(Some(Endpoint::Memory(connector)));
    let opening = async {
        let mut opened = sessions.recv().await.unwrap();
        assert_eq!(opened.hello.epoch, configuration(2, 5, "a").epoch);
        opened.say(Said::Configuration(configuration(1, 900, "restored"))).await;
        assert!(!acknowledged(&mut opened).await.refusal.is_empty());
        opened.say(Said::Configuration(configuration(3, 1, "newer"))).await;
        opened
    };
    let (running, mut opened) = tokio::join!(starting, opening);
    assert_eq!(acknowledged(&mut opened).await.epoch, configuration(3, 1, "").epoch);
    assert_eq!(key(&running), "newer");
}

#[tokio::test]
async fn what_was_damaged_on_the_way_is_refused_and_everything_is_asked_for() {
    let server = Server::new();
    let (running, mut opened, mut sessions) = connected(&server, configuration(1, 5, "a")).await;
    acknowledged(&mut opened).await;
    let damaged = Configuration { digest: vec![1; 32], ..configuration(1, 6, "b") };
    opened.say(Said::Configuration(damaged)).await;
    assert!(acknowledged(&mut opened).await.refusal.contains("digest"));
    let mut opened = sessions.recv().await.unwrap();
    assert_eq!((opened.hello.epoch, opened.hello.digest.len()), (configuration(1, 5, "a").epoch, 0));
    assert_eq!(key(&running), "a");
    opened.say(Said::Configuration(configuration(1, 7, "c"))).await;
    assert_eq!(acknowledged(&mut opened).await.epoch, configuration(1, 7, "c").epoch);
    assert_eq!(key(&running), "c");
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_refused_by_its_field_and_the_old_one_goes_on() {
    let server = Server::new();
    let (running, mut opened, _sessions) = connected(&server, configuration(1, 5, "a")).await;
    acknowledged(&mut opened).await;
    let owner = Some(trunkline_control_plane::records::node_message(NODE));
    let slice = Slice { address: "192.0.2.1".into(), index: 70, state: 1, owner, lease: 1 };
    let mut bad = Configuration { slices: vec![slice], ..configuration(1, 6, "b") };
    bad.digest = configuration::digest(&bad).to_vec();
    opened.say(Said::Configuration(bad)).await;
    let refused = acknowledged(&mut opened).await;
    assert!(refused.refusal.contains("slices"), "{}", refused.refusal);
    assert_eq!((refused.epoch.unwrap().counter, key(&running).as_str()), (6, "a"));
}

#[tokio::test]
async fn without_a_control_plane_it_starts_with_what_was_kept() {
    let server = Server::new();
    let (running, mut opened, sessions) = connected(&server, configuration(1, 5, "a")).await;
    acknowledged(&mut opened).await;
    drop((running, opened, sessions));
    let begun = Instant::now();
    let running = server.start(None).await;
    let most = KEPT_AFTER + Duration::from_secs(1);
    assert!((KEPT_AFTER..most).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(key(&running), "a");
    assert!(running.channel.borrow().is_none());
}

#[tokio::test]
async fn a_session_that_ends_is_followed_by_another_and_changes_nothing() {
    let server = Server::new();
    let (running, mut opened, mut sessions) = connected(&server, configuration(1, 5, "a")).await;
    acknowledged(&mut opened).await;
    assert!(running.channel.borrow().is_some());
    drop(opened);
    let mut opened = sessions.recv().await.unwrap();
    assert_eq!(opened.hello.digest, configuration(1, 5, "a").digest, "only differences are needed");
    assert_eq!(key(&running), "a");
    let choose = |message| match message {
        Message::Report(report) => Some(report),
        _ => None,
    };
    let report = opened.heard(choose).await;
    assert_eq!((report.epoch, report.faults.len()), (configuration(1, 5, "a").epoch, 0));
}

#[tokio::test]
async fn usage_is_sent_in_order_until_it_is_counted() {
    let server = Server::new();
    let write = |second: u64| {
        server.journal.with(move |journal| {
            journal.add([Delta { user: "u".into(), bytes_to_peer: second, ..Delta::default() }], second);
            journal.write(second);
        })
    };
    for second in 1..=3 {
        write(second).await;
    }
    let (_running, mut opened, mut sessions) = connected(&server, configuration(1, 5, "a")).await;
    let choose = |message| match message {
        Message::Usage(record) => Some(record),
        _ => None,
    };
    let mut sequences = vec![];
    for _ in 0..3 {
        let record = opened.heard(choose).await;
        sequences.push((record.usage_epoch, record.sequence, record.entries[0].bytes_to_peer));
    }
    assert_eq!(sequences, [(1_000, 1, 1), (1_000, 2, 2), (1_000, 3, 3)]);
    assert_eq!(opened.hello.usage_epoch, 1_000);
    opened.say(Said::UsageAcknowledgement(UsageAcknowledgement { usage_epoch: 1_000, sequence: 2 })).await;
    write(4).await;
    assert_eq!(opened.heard(choose).await.sequence, 4);
    drop(opened);
    let mut opened = sessions.recv().await.unwrap();
    let again = [opened.heard(choose).await.sequence, opened.heard(choose).await.sequence];
    assert_eq!(again, [3, 4], "what is not counted is sent again");
}

#[test]
fn pauses_grow_and_stay_below_the_most() {
    let mut backoff = Backoff::default();
    let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
    assert!((PAUSE_MIN / 2..=PAUSE_MIN).contains(&pauses[0]), "{:?}", pauses[0]);
    assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX), "{pauses:?}");
    assert!(pauses[19] >= PAUSE_MAX / 2, "{:?}", pauses[19]);
}
