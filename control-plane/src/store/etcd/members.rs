//! etcd's members: whom a call asks, how long it waits, and what a failure says about it.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{ConnectOptions, Error, KvClient, LeaseClient, MaintenanceClient, TlsOptions, WatchClient};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::super::{LeaseId, StoreError, StoreMember};

/// One member's services.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) address: String,
    pub(super) kv: KvClient,
    pub(super) leases: LeaseClient,
    pub(super) watches: WatchClient,
    pub(super) maintenance: MaintenanceClient,
}

/// All members.
pub(super) struct Members {
    clients: Vec<Client>,
    /// The one that answered last.
    preferred: AtomicUsize,
}

/// Why an attempt did not succeed.
pub(super) enum Fault {
    /// etcd said no: it was not done, and asking again is of no use.
    Refused(StoreError),
    /// Another member, or the same one later, may answer. It may have been done.
    Unanswered(String),
}

impl Members {
    pub(super) async fn connect(endpoints: &[String], tls: Option<&TlsOptions>) -> Result<Self, StoreError> {
        let mut clients = vec![];
        for endpoint in endpoints {
            clients.push(connect(endpoint, tls).await?);
        }
        if clients.is_empty() {
            return Err(StoreError::Failed("no etcd endpoint is given".to_owned()));
        }
        Ok(Self { clients, preferred: AtomicUsize::new(0) })
    }

    /// Asks until somebody answers or [`CALL_DEADLINE`] has passed. For what may be done twice.
    pub(super) async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut patience = Patience::new();
        loop {
            match self.attempt(&patience, &call).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Unanswered(text)) => patience.wait(text).await?,
            }
        }
    }

    /// Asks the preferred member once; where it does not answer the next one is preferred.
    pub(super) async fn attempt<T, F>(
        &self,
        patience: &Patience,
        call: impl Fn(Client) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (index, client) = self.preferred();
        let address = client.address.clone();
        let deadline = patience.attempt_deadline();
        let fault = match timeout(deadline, call(client)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => fault(&address, &error),
            Err(_) => Fault::Unanswered(format!("{address} gave no answer within {deadline:?}")),
        };
        if matches!(fault, Fault::Unanswered(_)) {
            self.pass_over(index);
        }
        Err(fault)
    }

    /// Whom to ask now.
    pub(super) fn preferred(&self) -> (usize, Client) {
        let index = self.preferred.load(Ordering::Relaxed) % self.clients.len();
        #[allow(clippy::indexing_slicing, reason = "below the length, and there is at least one")]
        let client = self.clients[index].clone();
        (index, client)
    }

    /// Whoever found this member silent prefers the next; only the first of many concurrent calls does.
    pub(super) fn pass_over(&self, index: usize) {
        let next = index.saturating_add(1) % self.clients.len();
        let _ = self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl_s = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        // Granted twice where the first answer was lost: nobody knows of the first lease, and it ends by itself.
        let call = |member: Client| async move { member.leases.clone().grant(ttl_s, None).await };
        Ok(LeaseId(self.call(call).await?.id()))
    }

    pub(super) async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut patience = Patience::new();
        let mut is_repeated = false;
        loop {
            let call = |member: Client| async move { member.leases.clone().revoke(lease.0).await };
            match self.attempt(&patience, call).await {
                Ok(_) => return Ok(()),
                Err(Fault::Refused(StoreError::LeaseEnded)) if is_repeated => return Ok(()),
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Unanswered(text)) => patience.wait(text).await?,
            }
            is_repeated = true;
        }
    }

    /// Asks all of them at once how they are.
    pub(super) async fn statuses(&self) -> Vec<StoreMember> {
        let asked: Vec<_> = self.clients.iter().cloned().map(|client| tokio::spawn(status(client))).collect();
        let mut statuses = vec![];
        for status in asked {
            statuses.extend(status.await);
        }
        statuses
    }
}

/// How long a call goes on asking.
pub(super) struct Patience {
    until: Instant,
    attempts: u32,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { until: Instant::now() + CALL_DEADLINE, attempts: 0 }
    }

    /// What one member gets of it. A request that a member forwarded to a leader that died is lost, so the first
    /// ones are short; later ones are for an etcd that is slow.
    pub(super) fn attempt_deadline(&self) -> Duration {
        if self.attempts < SHORT_ATTEMPTS { SHORT_ATTEMPT_DEADLINE } else { LONG_ATTEMPT_DEADLINE }
    }

    /// Waits a moment before the next attempt; fails with what the last one said where the time is over.
    pub(super) async fn wait(&mut self, last: String) -> Result<(), StoreError> {
        if Instant::now() >= self.until {
            return Err(StoreError::Failed(format!("etcd does not answer: {last}")));
        }
        self.attempts = self.attempts.saturating_add(1);
        sleep(RETRY_INTERVAL).await;
        Ok(())
    }
}

async fn connect(endpoint: &str, tls: Option<&TlsOptions>) -> Result<Client, StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(LONG_ATTEMPT_DEADLINE)
        .with_tcp_keepalive(KEEP_ALIVE_INTERVAL)
        .with_require_leader(true);
    if let Some(tls) = tls {
        options = options.with_tls(tls.clone());
    }
    let client = etcd_client::Client::connect([endpoint], Some(options)).await;
    let client = client.map_err(|error| StoreError::Failed(format!("etcd endpoint {endpoint}: {error}")))?;
    Ok(Client {
        address: endpoint.to_owned(),
        kv: client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX),
        leases: client.lease_client(),
        watches: client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX),
        maintenance: client.maintenance_client(),
    })
}

async fn status(mut client: Client) -> StoreMember {
    let asked = Instant::now();
    let answer = timeout(STATUS_DEADLINE, client.maintenance.status()).await;
    let latency = asked.elapsed();
    let mut member = StoreMember {
        address: client.address,
        is_healthy: false,
        is_leader: false,
        latency,
        database_bytes: 0,
    };
    if let Ok(Ok(status)) = answer {
        member.is_healthy = status.leader() != 0 && status.errors().is_empty();
        member.is_leader = status.header().is_some_and(|header| header.member_id() == status.leader());
        member.database_bytes = status.db_size().unsigned_abs();
    }
    member
}

/// What an error says: etcd's own messages first, because it gives most of them the code Unknown or Unavailable.
pub(super) fn fault(address: &str, error: &Error) -> Fault {
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::LeaseKeepAliveError(_) => return Fault::Refused(StoreError::LeaseEnded),
        Error::InvalidArgs(_) | Error::InvalidUri(_) => {
            return Fault::Refused(StoreError::Failed(format!("etcd at {address}: {error}")));
        }
        _ => return Fault::Unanswered(format!("{address}: {error}")),
    };
    let text = status.message();
    if text.contains("required revision has been compacted") {
        return Fault::Refused(StoreError::Compacted);
    }
    if text.contains("requested lease not found") {
        return Fault::Refused(StoreError::LeaseEnded);
    }
    let too_large = ["request is too large", "too many operations", "message length too large"];
    if too_large.iter().any(|reason| text.contains(reason)) {
        return Fault::Refused(StoreError::TooLarge(text.to_owned()));
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled | Code::Internal => {
            Fault::Unanswered(format!("{address}: {text}"))
        }
        _ => Fault::Refused(StoreError::Failed(format!("etcd at {address}: {text}"))),
    }
}

/// An election takes etcd one to two seconds with its default settings, half of that with half the timeout. With
/// these attempts a call succeeds soon after it.
const SHORT_ATTEMPT_DEADLINE: Duration = Duration::from_millis(600);
const SHORT_ATTEMPTS: u32 = 4;
const LONG_ATTEMPT_DEADLINE: Duration = Duration::from_millis(1_500);
/// A call's time, over all members and attempts.
const CALL_DEADLINE: Duration = Duration::from_secs(8);
const STATUS_DEADLINE: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A page of a listing or what a watch missed. etcd sends as much as it has.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
