//! `trunkline up`: a whole node in one process, without root and without any other service.

mod descriptors;
mod ending;
mod present;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::net::TcpListener;
use trunkline_turn::credentials::Credentials;
use trunkline_turn::{AllocationSummary, Config, Counters};
use trunkline_wire::AllocationId;
use trunkline_wire::token::Keyring;

use crate::addresses::{self, AddressError};
use crate::api::{self, Answer, Api, Keys, Relay, unix_now_s};
use crate::certificate::{Certificate, CertificateError, Source};
use crate::ice::Reachable;
use crate::keys::{KeyError, NewKey};
use crate::options::Options;
use crate::plan::Fault;
use crate::records::{self, RecordError};
use crate::shard::{self, Applied, Listen, Shards, Start, StartError};
use crate::store::{Embedded, OpenError};

use ending::Signals;

/// Why a node does not start; each says in one line what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
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
    Record(#[from] RecordError),
    /// The key that is printed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
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
    /// quickstart.json.
    #[error("cannot write {path}: {cause}")]
    Quickstart {
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

/// Runs a node until a signal ends it.
///
/// # Errors
/// [`UpError`] when it cannot start; everything that was started has ended then.
pub fn run(options: &Options) -> Result<(), UpError> {
    let refused = |cause| UpError::System { what: "an event loop", cause };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    let outcome = runtime.block_on(node(options));
    // Nothing that still runs may hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn node(options: &Options) -> Result<(), UpError> {
    options.check()?;
    let signals = Signals::listen().map_err(|cause| UpError::System { what: "signal handlers", cause })?;
    descriptors::raise();
    let places = Places::find(options)?;
    let (keys, secrets) = open_store(options).await?;
    let certificate = Certificate::load(source(options, &places))?;
    let listener = TcpListener::bind(options.http).await;
    let listener = listener.map_err(|cause| UpError::Http { address: options.http, cause })?;

    let mut changes = keys.subscribe();
    let credentials = Arc::clone(&changes.borrow_and_update());
    let shards = shard::start(Start {
        threads: options.threads(),
        applied: applied(options, &places, secrets.keyring, credentials)?,
        listen: places.listen(options, &certificate)?,
        encapsulation: options.fleet.as_ref().map(|fleet| fleet.encapsulation_address),
    })?;
    let api = Arc::new(Api {
        keys,
        relay: Arc::new(shards.clone()),
        ports: shards.ports(),
        reachable: places.reachable(options),
        admin_token: secrets.admin_token,
        draining: AtomicBool::new(false),
        started_unix_s: unix_now_s(),
    });
    tokio::spawn(api::serve::serve(listener, api::router(Arc::clone(&api))));
    tokio::spawn(certificate.follow());
    tokio::spawn(prune(Arc::clone(&api.keys)));
    let receivers = shards.clone();
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let credentials = Arc::clone(&changes.borrow_and_update());
            receivers.amend(|applied| applied.credentials = credentials).await;
        }
    });
    let outcome = present::present(options, &api, &secrets.quickstart);
    if outcome.is_ok() {
        ending::until_ended(&shards, &api, Duration::from_secs(options.grace), signals).await;
    }
    shards.stop();
    shards.join();
    outcome
}

/// The addresses of this node.
struct Places {
    /// Clients talk to these.
    service: Vec<IpAddr>,
    /// Peers talk to these.
    relay: Vec<IpAddr>,
    /// Everything on this machine.
    machine: Vec<IpAddr>,
}

impl Places {
    fn find(options: &Options) -> Result<Self, AddressError> {
        for ip in &options.address {
            addresses::check(*ip, "--address")?;
        }
        for ip in &options.relay_address {
            addresses::check(*ip, "--relay-address")?;
        }
        for ip in options.leased_addresses() {
            addresses::check(ip, "[fleet] slices")?;
        }
        let service = addresses::distinct(options.address.clone());
        let service = if service.is_empty() { addresses::usable()? } else { service };
        let relay = addresses::distinct(options.relay_address.clone());
        let relay = if relay.is_empty() { service.clone() } else { relay };
        Ok(Self { service, relay, machine: addresses::all()? })
    }

    fn reachable(&self, options: &Options) -> Reachable {
        Reachable {
            addresses: self.service.clone(),
            turn_port: options.turn_port,
            tls_port: options.tls_port,
        }
    }

    fn listen(&self, options: &Options, certificate: &Certificate) -> Result<Listen, CertificateError> {
        let at = |port: u16| self.service.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        Ok(Listen {
            turn: at(options.turn_port),
            tls: at(options.tls_port),
            tls_config: certificate.server_config()?,
        })
    }
}

/// What the store holds besides keys.
struct Secrets {
    keyring: Keyring,
    admin_token: trunkline_turn::credentials::Secret,
    quickstart: NewKey,
}

async fn open_store(options: &Options) -> Result<(Arc<Keys>, Secrets), UpError> {
    let store = Embedded::open(&options.data_dir)?;
    let sealing = options.sealing_key(records::fleet_key(&store).await?);
    let admin_token = records::admin_token(&store).await?;
    let keys = Keys::open(store, options.credentials()).await?;
    keys.prune(unix_now_s()).await?;
    let quickstart = keys.named(QUICKSTART_KEY, unix_now_s()).await?;
    Ok((Arc::new(keys), Secrets { keyring: Keyring::new(sealing, vec![]), admin_token, quickstart }))
}

fn source(options: &Options, places: &Places) -> Source {
    match (&options.tls_cert, &options.tls_key) {
        (Some(certificate), Some(key)) => {
            Source::Files { certificate: certificate.clone(), key: key.clone() }
        }
        _ => Source::SelfSigned { directory: options.data_dir.clone(), addresses: places.service.clone() },
    }
}

fn applied(
    options: &Options,
    places: &Places,
    keyring: Keyring,
    credentials: Arc<Credentials>,
) -> Result<Applied, Fault> {
    let blocks = options.relay_blocks(&places.relay);
    let relays: Vec<IpAddr> = blocks.iter().map(|block| block.ip).collect();
    let own = places.machine.iter().chain(&places.service).copied();
    let config = Config {
        node: options.node(),
        realm: options.realm.clone(),
        software: format!("Trunkline {}", env!("CARGO_PKG_VERSION")),
        keyring,
        policy: options.policy(relays, own)?,
        limits: options.limits(),
    };
    Ok(Applied {
        config: Arc::new(config),
        quotas: options.quotas(),
        credentials,
        clients: Arc::default(),
        blocks,
        members: options.members(),
        draining: false,
    })
}

/// Forgets revocations that are over, for ever.
async fn prune(keys: Arc<Keys>) {
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        if let Err(error) = keys.prune(unix_now_s()).await {
            tracing::warn!(%error, "revocations that are over could not be forgotten");
        }
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

/// The name of the key that is printed and written to quickstart.json.
const QUICKSTART_KEY: &str = "quickstart";
const PRUNE_EVERY: Duration = Duration::from_secs(60);
