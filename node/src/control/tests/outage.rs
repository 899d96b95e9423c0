//! Long outages in virtual time: a server goes on, and starts again, from what it was told, whatever happens in which
//! order. Its control task, its cache and its shards are the real ones; packets go through the TURN core with a clock
//! that goes with the runtime's.

#[allow(dead_code, unreachable_pub, unused_imports, reason = "the tests of the core use all of it")]
#[path = "../../../cores/turn/tests/support/mod.rs"]
mod support;

use proptest::prelude::*;
use support::{Client, Draft, World, flow};
use tokio::task::JoinHandle;
use trunkline_control_plane::listener::MemoryConnector;
use trunkline_turn::ports::PortTable;
use trunkline_wire::Transport;

use super::*;

/// What happens while no replica answers.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// In seconds.
    Wait(u64),
    /// A client with a credential of a known key, and no allocation.
    Arrive,
    /// One that came before comes with the nonce that it has.
    Return(prop::sample::Index),
    /// The process is killed, and started on what it kept.
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1_u64..60).prop_map(Event::Wait),
        2 => Just(Event::Arrive),
        4 => any::<prop::sample::Index>().prop_map(Event::Return),
        1 => Just(Event::Restart),
    ];
    prop::collection::vec(event, 20..70)
}

/// A client, and since when it has its nonce.
struct Known {
    client: Client,
    nonce_unix_s: u64,
}

struct Outage {
    server: Server,
    running: Option<Running>,
    connector: MemoryConnector,
    world: World,
    clients: Vec<Known>,
}

/// A replica that takes connections and ends each session at once, until it is told to stop.
fn break_sessions(
    mut sessions: mpsc::UnboundedReceiver<Opened>,
) -> (tokio::sync::oneshot::Sender<()>, JoinHandle<mpsc::UnboundedReceiver<Opened>>) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let breaking = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = &mut stopped => return sessions,
                opened = sessions.recv() => drop(opened),
            }
        }
    });
    (stop, breaking)
}

impl Outage {
    /// The core as the configuration in force makes it, without allocations.
    fn new_world(&mut self) {
        let now = self.world.now;
        self.world = support::Settings { node: NODE, ..support::Settings::default() }.world();
        self.world.now = now;
        self.follow_terms();
    }

    fn follow_terms(&mut self) {
        let applied = self.running.as_ref().unwrap().shards.applied();
        self.world.amend(|terms| {
            terms.config = Arc::clone(&applied.config);
            terms.credentials = Arc::clone(&applied.credentials);
            terms.clients = Arc::clone(&applied.clients);
            terms.draining = applied.draining;
            // Ports that are in use stay where they are.
            if terms.ports.ips().all(|ip| ip != LOOPBACK) {
                terms.ports = PortTable::new(NODE, applied.blocks.clone());
            }
        });
    }

    async fn happens(&mut self, event: Event) {
        match event {
            Event::Wait(seconds) => {
                sleep(Duration::from_secs(seconds)).await;
                self.world.advance(seconds);
            }
            Event::Arrive => self.arrive("a"),
            Event::Return(index) if !self.clients.is_empty() => {
                let index = index.index(self.clients.len());
                self.come_back(index);
            }
            Event::Return(_) => {}
            Event::Restart => self.restart().await,
        }
    }

    fn arrive(&mut self, key: &str) {
        let number = self.clients.len();
        let username = format!("{}:{key}:user{number}", self.world.now.unix_s + 100_000);
        let mut client = Client::with_time_limited(&username, "s");
        client.flow =
            flow(Transport::Udp, &format!("198.41.{}.{}:40000", number / 200 + 1, number % 200 + 1));
        client.allocate(&mut self.world);
        self.clients.push(Known { client, nonce_unix_s: self.world.now.unix_s });
    }

    /// Its nonce is good for an hour on whatever process answers; its allocation ended with the process it was on.
    fn come_back(&mut self, index: usize) {
        let known = &mut self.clients[index];
        let mut code = known.client.ask(&mut self.world, Draft::refresh(600)).code();
        if code == 438 {
            let age_s = self.world.now.unix_s - known.nonce_unix_s;
            assert!(age_s >= 3_595, "a nonce of {age_s} s is refused");
            known.client.fetch_nonce_again(&mut self.world);
            known.nonce_unix_s = self.world.now.unix_s;
            code = known.client.ask(&mut self.world, Draft::refresh(600)).code();
        }
        if code == 437 {
            code = known.client.ask(&mut self.world, Draft::allocate()).code();
        }
        assert_eq!(code, 0, "client {index}");
    }

    async fn restart(&mut self) {
        let before = self.world.now;
        self.running = None;
        let began = Instant::now();
        let running = self.server.start(Some(Endpoint::Memory(self.connector.clone()))).await;
        assert_eq!(key(&running), "a", "it starts with what was kept");
        self.running = Some(running);
        self.world.now = before;
        self.new_world();
        self.world.advance(began.elapsed().as_secs());
    }
}

/// Two keys, so that what came after the outage is told from what was before.
fn newer() -> Configuration {
    let mut full = configuration(1, 9, "a");
    full.keys.push(TurnKey { id: "b".into(), secret: "s".into() });
    full.digest = configuration::digest(&full).to_vec();
    full
}

async fn outlive(events: Vec<Event>) {
    let server = Server::new();
    let (connector, mut sessions) = replica::serve();
    let first = configuration(1, 5, "a");
    let opening = async {
        let opened = sessions.recv().await.unwrap();
        opened.say(Said::Configuration(first.clone())).await;
        opened
    };
    let (running, opened) = tokio::join!(server.start(Some(Endpoint::Memory(connector.clone()))), opening);
    let world = World::new();
    let mut outage = Outage { server, running: Some(running), connector, world, clients: vec![] };
    outage.new_world();
    outage.arrive("a");

    drop(opened);
    let (stop, breaking) = break_sessions(sessions);
    let began_unix_s = outage.world.now.unix_s;
    for event in events {
        outage.happens(event).await;
    }
    while outage.world.now.unix_s < began_unix_s + OUTAGE_S {
        outage.happens(Event::Wait(50)).await;
        outage.happens(Event::Arrive).await;
    }
    stop.send(()).unwrap();
    let mut sessions = breaking.await.unwrap();

    // It asks for what is new since what it kept, takes it, and nobody loses anything by that.
    let mut opened = sessions.recv().await.unwrap();
    assert_eq!(opened.hello.epoch, first.epoch);
    // A process that began with what was kept asks for everything.
    let wants_everything = opened.hello.digest != first.digest;
    let update = if wants_everything { newer() } else { configuration::difference(&first, &newer()) };
    opened.say(Said::Configuration(update)).await;
    loop {
        let acknowledgement = acknowledged(&mut opened).await;
        assert_eq!(acknowledgement.refusal, "");
        if acknowledgement.epoch == newer().epoch {
            break;
        }
    }
    outage.follow_terms();
    for index in 0..outage.clients.len() {
        outage.come_back(index);
    }
    outage.arrive("b");
    let kept = Cache::open(outage.server.directory.path(), NODE).and_then(|cache| cache.load());
    assert!(kept.is_ok_and(|kept| kept == Some(newer())), "and a restart would begin with it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_server_outlives_ten_minutes_without_a_control_plane_whatever_happens(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let outlived = async { timeout(Duration::from_secs(86_400), outlive(events)).await };
        prop_assert!(runtime.unwrap().block_on(outlived).is_ok(), "it waits for something that never comes");
    }
}

const OUTAGE_S: u64 = 600;
