//! What `trunkline up` and `trunkline node` have in common: everything that a server opens, starts, and ends again.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use trunkline_control_plane::sealing::SealingError;
use trunkline_control_plane::store::OpenError;
use trunkline_control_plane::store::StoreError;
use trunkline_proto::node::v1::Hello;
use trunkline_turn::credentials::Secret;
use trunkline_turn::{AllocationSummary, Counters};
use trunkline_wire::{AllocationId, NodeId};

use crate::addresses::AddressError;
use crate::api::{self, Answer, Api, Relay};
use crate::asn::{AsnDatabase, AsnError};
use crate::cache::{Cache, CacheError};
use crate::certificate::{Certificate, CertificateError};
use crate::control::membership::MembershipError;
use crate::control::report::Health;
use crate::control::terms::Machine;
use crate::control::{Control, Published, Way};
use crate::descriptors;
use crate::ending::{self, Signals};
use crate::journal::Journal;
use crate::keys::{InForce, KeyError, Keys, Management};
use crate::options::{Mode, Options};
use crate::places::Places;
use crate::plan::Fault;
use crate::secrets::NoEntropy;
use crate::shard::{self, Shards, Start, StartError};
use crate::usage::{self, SharedJournal, unix_now};

/// Why a server does not start; each says in one line what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Options that contradict themselves or the protocol.
    #[error(transparent)]
    Options(#[from] Fault),
    /// Addresses that are not here.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The data directory.
    #[error(transparent)]
    Data(#[from] OpenError),
    /// What is in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key of the store.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// The control plane of this process.
    #[error("cannot start the control plane: {0}")]
    ControlPlane(String),
    /// The fleet does not take this server.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The key of the configuration that is kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The key that is printed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No random bytes for a new secret.
    #[error(transparent)]
    NoEntropy(#[from] NoEntropy),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The AS number database.
    #[error(transparent)]
    Asn(#[from] AsnError),
    /// The HTTP API's address.
    #[error("cannot serve the HTTP API on {address} (--http): {}", explain(cause))]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The threads that relay.
    #[error(transparent)]
    Shards(#[from] StartError),
    /// A file of the data directory.
    #[error("cannot write {path}: {cause}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Something that every system has.
    #[error("the system refused {what}: {cause}")]
    System {
        /// What.
        what: &'static str,
        /// What it said.
        cause: io::Error,
    },
}

/// Runs a server on an event loop of its own.
///
/// # Errors
/// What `server` says; everything that was started has ended then.
pub fn block_on(server: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let refused = |cause| Failure::System { what: "an event loop", cause };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    let outcome = runtime.block_on(server);
    // Nothing that still runs may hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// What a server finds before it opens anything.
pub struct Ground {
    /// SIGTERM and Ctrl-C.
    pub(crate) signals: Signals,
    /// Its addresses.
    pub places: Places,
}

impl Ground {
    /// Checks the options and looks at the machine.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn find(options: &Options, mode: Mode) -> Result<Self, Failure> {
        options.check_for(mode)?;
        let signals =
            Signals::listen().map_err(|cause| Failure::System { what: "signal handlers", cause })?;
        descriptors::raise();
        Ok(Self { signals, places: Places::find(options)? })
    }
}

/// What a command has prepared: who this server is and where its configuration comes from.
pub struct Prepared {
    /// The name in the control plane.
    pub member: NodeId,
    /// The name in tokens.
    pub node: NodeId,
    /// To the control plane.
    pub way: Way,
    /// Where the last good configuration is kept.
    pub cache: Option<Cache>,
    /// The certificate that is shown to replicas.
    pub certificate: Option<PathBuf>,
    /// Who changes keys.
    pub management: Management,
    /// What the operator's requests to the HTTP API carry.
    pub admin_token: Secret,
    /// Where other servers send packets that are ours.
    pub encapsulation: Option<SocketAddr>,
}

/// A server that serves.
pub struct Serving {
    /// The threads that relay.
    pub shards: Shards,
    /// What the HTTP API shares.
    pub api: Arc<Api>,
    /// The way to the control plane, while it answers.
    pub channel: watch::Receiver<Option<Channel>>,
    session: JoinHandle<()>,
    journal: SharedJournal,
    signals: Signals,
    grace: Duration,
}

impl Serving {
    /// Opens every socket, waits for a configuration, and serves from then on.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn begin(options: &Options, ground: Ground, prepared: Prepared) -> Result<Self, Failure> {
        let Ground { signals, places } = ground;
        let certificate = Certificate::load(places.certificate(options))?;
        let listener = TcpListener::bind(options.http).await;
        let listener = listener.map_err(|cause| Failure::Http { address: options.http, cause })?;
        let systems = options.asn_database.as_deref().map(AsnDatabase::open).transpose()?;
        let now_unix_ms = u64::try_from(unix_now().as_millis()).unwrap_or(u64::MAX);
        let journal = SharedJournal::new(Journal::open(&options.data_dir.join(JOURNAL), now_unix_ms));
        let health = Arc::new(Health::new(prepared.certificate, places.listening(options)));
        let ending = Arc::new(AtomicBool::new(false));

        let (reachable, listen) = (places.reachable(options), places.listen(options, &certificate)?);
        let hello = hello(options, &places, prepared.encapsulation, now_unix_ms);
        let machine = Machine {
            options: options.clone(),
            node: prepared.node,
            member: prepared.member,
            places,
            systems: systems.clone().map(|systems| systems as Arc<_>),
            ending: Arc::clone(&ending),
        };
        let (published, in_force, channel) = publication();
        let mut control = Control::new(
            prepared.way,
            machine,
            hello,
            prepared.cache,
            journal.clone(),
            Arc::clone(&health),
            published,
        );
        let first = control.first().await;
        let shards = shard::start(Start {
            threads: options.threads(),
            applied: first.applied,
            listen,
            encapsulation: prepared.encapsulation,
        })?;
        let api = Arc::new(Api {
            keys: Arc::new(Keys::new(in_force, channel.clone(), prepared.management)),
            relay: Arc::new(shards.clone()),
            reachable,
            admin_token: prepared.admin_token,
            ending,
            health,
            started_unix_s: now_unix_ms / 1_000,
        });
        tokio::spawn(api::serve::serve(listener, api::router(Arc::clone(&api))));
        tokio::spawn(certificate.follow());
        let session = tokio::spawn(control.run(shards.clone(), first.session));
        tokio::spawn(usage::each_second(shards.clone(), journal.clone()));
        if let Some(systems) = systems {
            tokio::spawn(follow_systems(systems, shards.clone()));
        }
        Ok(Self {
            shards,
            api,
            channel,
            session,
            journal,
            signals,
            grace: Duration::from_secs(options.grace),
        })
    }

    /// Serves until a signal ends it.
    pub async fn until_ended(self) {
        ending::until_ended(&self.shards, &self.api, self.grace, self.signals).await;
        end(&self.shards, &self.journal, &self.session).await;
    }

    /// Ends at once.
    pub async fn end(self) {
        end(&self.shards, &self.journal, &self.session).await;
    }
}

/// The threads end, and what they counted last is journalled.
async fn end(shards: &Shards, journal: &SharedJournal, session: &JoinHandle<()>) {
    session.abort();
    shards.stop();
    shards.join();
    usage::write(shards, journal).await;
}

fn publication() -> (Published, watch::Receiver<InForce>, watch::Receiver<Option<Channel>>) {
    let (in_force, credentials) = watch::channel(InForce::default());
    let (channel, way) = watch::channel(None);
    (Published { in_force, channel }, credentials, way)
}

/// Another policy to the shards, although it says the same: each address is looked up again in the new database.
async fn follow_systems(systems: Arc<AsnDatabase>, shards: Shards) {
    let renewed = || shards.amend(|applied| applied.clients = Arc::new((*applied.clients).clone()));
    systems.follow(renewed).await;
}

/// What every Hello of this process says. Addresses whose relay ports are ours are peers like any other for the rest
/// of the fleet, so they are not host addresses.
fn hello(options: &Options, places: &Places, encapsulation: Option<SocketAddr>, now_unix_ms: u64) -> Hello {
    let is_relay = |ip: &IpAddr| places.relay.contains(ip) || places.shared.contains(ip);
    let is_named = |ip: &&IpAddr| !ip.is_loopback() && !is_link_local(ip) && !is_relay(ip);
    Hello {
        incarnation: now_unix_ms,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        encapsulation_address: encapsulation.map(|address| address.to_string()).unwrap_or_default(),
        host_addresses: places.machine.iter().filter(is_named).map(ToString::to_string).collect(),
        relay_addresses: places.shared.iter().map(ToString::to_string).collect(),
        own_relay_addresses: places.claimed(options).iter().map(ToString::to_string).collect(),
        nonce_lifetime_s: options.nonce_lifetime,
        ..Hello::default()
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

impl Relay for Shards {
    fn allocations(&self) -> Answer<'_, Vec<AllocationSummary>> {
        Box::pin(self.allocations())
    }

    fn close_allocation(&self, shard: u8, id: AllocationId) -> Answer<'_, bool> {
        Box::pin(self.close_allocation(shard, id))
    }

    fn counters(&self) -> Counters {
        self.metrics()
    }

    fn allocation_count(&self) -> u64 {
        self.allocation_count()
    }

    fn port_usage(&self) -> (usize, usize) {
        self.port_usage()
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use by another process; stop it or choose another port".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; see `ip address`".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The journal's directory in the data directory.
const JOURNAL: &str = "usage";
