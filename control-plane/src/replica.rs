//! A replica of the control plane: its services behind the access layer, and its part in planning.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt};
use trunkline_proto::node::v1::node_service_server::NodeServiceServer;
use trunkline_proto::operator::v1::operator_service_server::OperatorServiceServer;

use crate::access::access_layer;
use crate::connector::{Endpoint, Trust};
use crate::core::{Core, ReplicaInfo};
use crate::listener::{self, Connection, ListenError, Listener, memory_listener};
use crate::node_service::{NodeServiceImpl, Signer};
use crate::operator_service::{OperatorServiceImpl, Surroundings, dial};
use crate::options::{Options, Unfit};
use crate::pki::files::{self, Files};
use crate::pki::{self, Issuer, PkiError};
use crate::sealing::{Sealing, SealingError};
use crate::store::{AnyStore, Etcd, StoreError};
use crate::{leader, migration, planner};

/// A replica that runs. It goes on until [`Replica::end`], or until it is dropped.
pub struct Replica {
    core: Core,
    ending: watch::Sender<bool>,
    standing: JoinHandle<()>,
    planning: JoinHandle<()>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// What a replica is made of besides its way in.
pub struct Parts {
    /// What it is stateless over.
    pub store: AnyStore,
    /// Opens what the store seals.
    pub sealing: Sealing,
    /// Who it is.
    pub info: ReplicaInfo,
    /// Signs servers' certificates; none where no server joins.
    pub signer: Option<Signer>,
    /// How it reaches the others.
    pub surroundings: Surroundings,
}

/// Why there is no replica.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The store key.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// A certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The way in.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An option.
    #[error(transparent)]
    Options(#[from] Unfit),
    /// A service or the system.
    #[error("{0}")]
    Failed(String),
}

impl Replica {
    /// Serves what comes in, follows the store, and stands for leader.
    ///
    /// # Errors
    /// [`StartError::Store`]: it cannot be read, or its old secrets cannot be sealed.
    pub async fn start<I>(parts: Parts, incoming: I) -> Result<Self, StartError>
    where
        I: Stream<Item = std::io::Result<Connection>> + Send + 'static,
    {
        let Parts { store, sealing, info, signer, surroundings } = parts;
        migration::seal_secrets(&store, &sealing).await?;
        let core = Core::start(store, sealing, info).await?;
        let ending = watch::Sender::new(false);
        let terms = watch::Sender::new(None);
        let planning = tokio::spawn(planner::run(core.clone(), terms.subscribe()));
        let standing = tokio::spawn(leader::stand(core.clone(), terms, ending.subscribe()));
        let nodes = NodeServiceImpl::new(core.clone(), signer.map(Arc::new), ending.subscribe());
        let operators = OperatorServiceImpl::new(core.clone(), surroundings);
        let serving = tokio::spawn(serve(nodes, operators, incoming, ending.subscribe())?);
        Ok(Self { core, ending, standing, planning, serving })
    }

    /// A replica for the server in the same process, alone over its store; the endpoint is the way to it. Whoever can
    /// open the Unix socket `operator_socket` is an administrator.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn in_process(
        store: AnyStore,
        sealing: Sealing,
        operator_socket: Option<&Path>,
    ) -> Result<(Endpoint, Self), StartError> {
        let info = ReplicaInfo { name: "local".to_owned(), address: String::new() };
        let parts = Parts { store, sealing, info, signer: None, surroundings: Surroundings::default() };
        let (connector, memory) = memory_listener();
        let replica = match operator_socket {
            Some(path) => Self::start(parts, memory.merge(Listener::unix(path)?.incoming())).await?,
            None => Self::start(parts, memory).await?,
        };
        Ok((Endpoint::Memory(connector), replica))
    }

    /// Its view of the fleet.
    #[must_use]
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Ends sessions with a word, gives up the leadership, and lets calls come to their end for a bounded time.
    pub async fn end(mut self) {
        self.ending.send_replace(true);
        let ended = async {
            drop((&mut self.standing).await);
            drop((&mut self.serving).await);
        };
        if tokio::time::timeout(END_WITHIN, ended).await.is_err() {
            tracing::info!("calls that did not end in time are cut off");
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.ending.send_replace(true);
        self.standing.abort();
        self.planning.abort();
        self.serving.abort();
    }
}

/// Everything that can be called, behind one access layer.
fn serve<I>(
    nodes: NodeServiceImpl,
    operators: OperatorServiceImpl,
    incoming: I,
    mut ending: watch::Receiver<bool>,
) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static, StartError>
where
    I: Stream<Item = std::io::Result<Connection>> + Send + 'static,
{
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(trunkline_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error: tonic_reflection::server::Error| StartError::Failed(error.to_string());
    let (v1, v1alpha) =
        (reflection().build_v1().map_err(failed)?, reflection().build_v1alpha().map_err(failed)?);
    let (health, health_service) = tonic_health::server::health_reporter();
    Ok(async move {
        health.set_serving::<NodeServiceServer<NodeServiceImpl>>().await;
        health.set_serving::<OperatorServiceServer<OperatorServiceImpl>>().await;
        let nodes = NodeServiceServer::new(nodes).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let operators = OperatorServiceServer::new(operators).max_decoding_message_size(MESSAGE_BYTES_MAX);
        listener::server()
            .layer(access_layer())
            .add_service(health_service)
            .add_service(v1)
            .add_service(v1alpha)
            .add_service(nodes)
            .add_service(operators)
            .serve_with_incoming_shutdown(incoming, async move {
                drop(ending.wait_for(|ending| *ending).await);
            })
            .await
    })
}

/// `trunkline control-plane`: serves until the process is told to end.
///
/// # Errors
/// [`StartError`] says in one line what to correct.
pub fn run(options: &Options) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| StartError::Failed(error.to_string()))?.block_on(run_until_told(options))
}

async fn run_until_told(options: &Options) -> Result<(), StartError> {
    let failed = |error: std::io::Error| StartError::Failed(error.to_string());
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
    let mut replica = tokio::select! {
        replica = open(options) => replica?,
        _ = terminated.recv() => return Ok(()),
        _ = interrupted.recv() => return Ok(()),
    };
    // A closed standard output is nobody's fault.
    drop(std::io::Write::write_all(&mut std::io::stdout(), b"ready\n"));
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
        served = &mut replica.serving => {
            return Err(StartError::Failed(format!("the services ended: {served:?}")));
        }
    }
    replica.end().await;
    Ok(())
}

/// The replica that the options describe, listening.
async fn open(options: &Options) -> Result<Replica, StartError> {
    let name = options.replica_name()?;
    let sealing = Sealing::from_file(&options.store_key)?;
    let signer = signer(options)?;
    let root_sha256 = signer.as_ref().map(|signer| signer.issuer.root_sha256()).transpose()?;
    let store = AnyStore::from(Etcd::connect(&options.etcd()?).await?);
    let files = options.files();
    let surroundings = Surroundings {
        dial: Some(dial(Trust::Files(files.clone()))),
        root_sha256,
        ..Surroundings::default()
    };
    tokio::spawn(watch_certificate(files.clone(), Arc::downgrade(&surroundings.certificate_expires_unix_s)));
    let listener = Listener::tcp(options.listen, files).await?;
    let bound = listener.local_address().unwrap_or(options.listen);
    let info = ReplicaInfo { name, address: options.advertised(bound) };
    wait_for_store(&store).await;
    Replica::start(Parts { store, sealing, info, signer, surroundings }, listener.incoming()).await
}

fn signer(options: &Options) -> Result<Option<Signer>, StartError> {
    let (Some(certificate), Some(key)) = (&options.issuer_cert, &options.issuer_key) else {
        return Ok(None);
    };
    let issuer = Issuer::from_files(certificate, key)?;
    Ok(Some(Signer { issuer, roots: options.roots.clone() }))
}

/// A replica may be started before its store.
async fn wait_for_store(store: &AnyStore) {
    use crate::store::Store;
    while let Err(error) = store.get("epoch").await {
        tracing::warn!(%error, "waiting for the store");
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Keeps the end of this replica's certificate up to date, for `doctor`.
async fn watch_certificate(files: Files, expires: std::sync::Weak<std::sync::atomic::AtomicU64>) {
    while let Some(expires) = expires.upgrade() {
        let end = files::read(&files.certificate).and_then(|chain| pki::expires(&chain));
        if let Ok(Ok(since)) = end.map(|end| end.duration_since(UNIX_EPOCH)) {
            expires.store(since.as_secs(), Ordering::Relaxed);
        }
        drop(expires);
        tokio::time::sleep(CERTIFICATE_READ_EVERY).await;
    }
}

/// Calls and streams that are under way when a replica ends.
const END_WITHIN: Duration = Duration::from_secs(3);
const AGAIN_AFTER: Duration = Duration::from_millis(500);
const CERTIFICATE_READ_EVERY: Duration = Duration::from_secs(10);
/// Settings with 10,000 networks, and reports of 16,384 rows.
const MESSAGE_BYTES_MAX: usize = 4 * 1_024 * 1_024;
