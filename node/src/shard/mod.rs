//! The data path's I/O: one thread for each shard, with its own sockets.
//!
//! Every shard has a UDP socket and an accepting socket for each listener (SO_REUSEPORT: the kernel pins a 5-tuple to
//! one of them), and a socket for each relayed address. The control side talks to shards through their inboxes.

mod applied;
mod batch;
mod clock;
mod event_loop;
mod fleet;
mod inbox;
mod listeners;
mod outbox;
mod relays;
mod stream;
mod streams;
mod sys;
mod token;
mod usage;

use std::io;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;
use trunkline_shard::Shard;
use trunkline_turn::ports::{PortTable, Reservations};
use trunkline_turn::quota::Ledger;
use trunkline_turn::{AllocationSummary, Counters, Server, ShardConfig, Shared};
use trunkline_wire::AllocationId;

pub use applied::Applied;
use applied::{InForce, SharedInForce};
use clock::Clock;
use event_loop::{EventLoop, State};
use fleet::{FleetLink, Strays};
use inbox::{Command, Inbox};
use listeners::{Listener, ShardSockets};
use outbox::Outbox;
use relays::Relays;
use streams::Streams;
use sys::Epoll;
pub use usage::UsageDelta;
use usage::UsageTray;

/// Asked for on sockets that many flows share: 20 ms of a 1.6 Gbit/s burst.
const UDP_BUFFER_BYTES: libc::c_int = 4 * 1024 * 1024;

/// EX_SOFTWARE of sysexits.h.
const EXIT_SHARD_LOST: i32 = 70;

/// Where clients reach us.
pub struct Listen {
    /// UDP and TCP.
    pub turn: Vec<SocketAddr>,
    /// TLS.
    pub tls: Vec<SocketAddr>,
    /// How TLS is spoken.
    pub tls_config: Arc<rustls::ServerConfig>,
}

/// What a node's data path needs to start.
pub struct Start {
    /// Shards, each a thread; 1 to 64.
    pub threads: usize,
    /// The configuration to start with.
    pub applied: Applied,
    /// Where clients reach us.
    pub listen: Listen,
    /// Where we take packets from other servers, if there are any.
    pub encapsulation: Option<SocketAddr>,
}

/// Why the data path cannot start; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening address cannot be had.
    #[error("cannot listen on {address}/{protocol}: {}", explain(.error))]
    Listen {
        /// Which.
        address: SocketAddr,
        /// "udp", "tcp" or "tls".
        protocol: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The encapsulation address cannot be had.
    #[error("cannot take packets of other servers at {address}/udp: {}", explain(.error))]
    Fleet {
        /// The encapsulation address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// Something else that the system refused.
    #[error("cannot start a shard: {0}")]
    System(#[from] io::Error),
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use by another process; stop it or choose another port".into()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; see `ip address`".into(),
        io::ErrorKind::PermissionDenied => "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE".into(),
        _ => error.to_string(),
    }
}

/// The running shards. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Shards {
    inboxes: Vec<Arc<Inbox>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    in_force: SharedInForce,
    usage: UsageTray,
}

/// Opens every socket, then starts the threads.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub fn start(start: Start) -> Result<Shards, StartError> {
    let listeners = listeners::plan(&start.listen);
    listeners::check_free(&listeners)?;
    let open = |at| FleetLink::open(at).map_err(|error| StartError::Fleet { address: at, error });
    let fleet = start.encapsulation.map(open).transpose()?;
    let shared = Arc::new(Shared {
        ports: PortTable::new(start.applied.config.node, start.applied.blocks.clone()),
        reservations: Reservations::default(),
        ledger: Ledger::new(start.applied.quotas),
    });
    let mut sockets = Vec::new();
    let mut inboxes = Vec::new();
    for _ in 0..start.threads {
        sockets.push(ShardSockets::open(&listeners)?);
        inboxes.push(Inbox::new()?);
    }
    let mut strays = Strays::new(fleet.is_some());
    strays.follow(&shared.ports);
    let (ports, ledger) = (Arc::clone(&shared.ports), Arc::clone(&shared.ledger));
    let in_force = Arc::new(Mutex::new(InForce::new(start.applied.clone(), ports, ledger, strays)));
    let shards = Shards { inboxes, threads: Arc::default(), in_force, usage: UsageTray::default() };
    for (index, sockets) in (0_u8..).zip(sockets) {
        let seat = Seat { index, sockets, fleet: fleet.clone(), shards: shards.clone() };
        shards.spawn(&start, &shared, &listeners, seat)?;
    }
    Ok(shards)
}

/// What is one shard's own.
struct Seat {
    index: u8,
    sockets: ShardSockets,
    fleet: Option<FleetLink>,
    shards: Shards,
}

impl Shards {
    fn spawn(
        &self,
        start: &Start,
        shared: &Arc<Shared>,
        listeners: &[Listener],
        seat: Seat,
    ) -> Result<(), StartError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| StartError::System(io::Error::other(error)))?;
        let addresses = listeners.iter().map(|listener| listener.address).collect();
        let shard_config = ShardConfig { shard: seat.index, seed, listeners: addresses };
        let (config, credentials) =
            (Arc::clone(&start.applied.config), Arc::clone(&start.applied.credentials));
        let turn = Server::new(config, Arc::clone(shared), credentials, shard_config);
        let shard = Shard::new(turn, seat.index);
        let tls_config = Arc::clone(&start.listen.tls_config);
        let body = move || {
            let ended_well = panic::catch_unwind(AssertUnwindSafe(|| {
                let outcome = run(shard, tls_config, seat);
                outcome.inspect_err(|error| tracing::error!(%error, "a shard failed")).is_ok()
            }));
            // Without one of its shards a node looks healthy and leaves its clients alone: better started again.
            // A panic has been reported by its hook.
            if !ended_well.unwrap_or(false) {
                std::process::exit(EXIT_SHARD_LOST);
            }
        };
        let thread = thread::Builder::new().name("shard".into()).spawn(body)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Ends the threads.
    pub fn stop(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.command(Command::Stop));
    }

    /// Waits until the threads have ended.
    pub fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // One that failed has ended the process.
            drop(thread.join());
        }
    }

    /// Every allocation of every shard.
    pub async fn allocations(&self) -> Vec<AllocationSummary> {
        let mut all = Vec::new();
        for inbox in &self.inboxes {
            let (answer, listed) = oneshot::channel();
            inbox.command(Command::List(answer));
            all.extend(listed.await.unwrap_or_default());
        }
        all
    }

    /// Closes an allocation; `false` when there is none.
    pub async fn close_allocation(&self, shard: u8, id: AllocationId) -> bool {
        let Some(inbox) = self.inboxes.get(usize::from(shard)) else { return false };
        let (answer, closed) = oneshot::channel();
        inbox.command(Command::Close(id, answer));
        closed.await.unwrap_or(false)
    }

    /// What all shards counted, at most 100 ms old.
    pub fn metrics(&self) -> Counters {
        let mut sum = Counters::default();
        for inbox in &self.inboxes {
            sum.add(&inbox.counters());
        }
        sum
    }

    /// Allocations that are open.
    pub fn allocation_count(&self) -> u64 {
        let counters = self.metrics();
        counters.allocations_opened.saturating_sub(counters.allocations_closed)
    }
}

/// Builds a shard's world on its own thread and lets it run.
fn run(mut shard: Shard, tls_config: Arc<rustls::ServerConfig>, seat: Seat) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let Seat { index, sockets, fleet, shards } = seat;
    let inbox = shards.inboxes.get(usize::from(index)).map(Arc::clone).ok_or(io::ErrorKind::NotFound)?;
    let (mut relays, streams) = (Relays::new(epoll.clone()), Streams::new(epoll.clone(), tls_config));
    let first = shards.in_force.lock().unwrap_or_else(PoisonError::into_inner).change();
    shard.turn.apply(&first.terms, &mut relays);
    let mut outbox = Outbox::new(sockets.udp, shards.inboxes.clone(), fleet, &first.terms.config);
    outbox.members = first.members;
    let (clock, acceptors, state) = (Clock::new(), sockets.acceptors, State::new());
    let (usage, strays, sees_strays) = (shards.usage.clone(), Vec::new(), index == 0);
    let mut world = EventLoop {
        clock,
        epoll,
        shard,
        acceptors,
        outbox,
        relays,
        streams,
        inbox,
        usage,
        strays,
        sees_strays,
        state,
    };
    world.watch(first.strays)?;
    world.run()
}

#[cfg(test)]
mod tests;
