//! A watch over etcd that outlives its member: it goes on with the next one from where it was.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{ResponseHeader, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::super::{Event, Lineage, Revision, StoreError, Watch};
use super::keys::{etcd_revision, revision};
use super::members::{Client, Fault, Patience, fault};
use super::{Shared, lineage};

/// A watch over etcd.
pub struct EtcdWatch {
    etcd: Arc<Shared>,
    start: Vec<u8>,
    end: Vec<u8>,
    /// Everything up to here was handed out or is in `ready`.
    seen: Revision,
    history: Option<HistoryId>,
    ready: VecDeque<Vec<Event>>,
    live: Option<Live>,
    /// Set while nobody answers; here, so that a caller who gives up on a `next` does not start it again.
    patience: Option<Patience>,
}

/// A store that was restored from a snapshot begins another history.
#[derive(Clone, Copy)]
pub(super) struct HistoryId {
    cluster: u64,
    term: u64,
    lineage: Option<Lineage>,
}

impl HistoryId {
    fn follows(&self, before: &Self) -> bool {
        let is_same = match (&self.lineage, &before.lineage) {
            (Some(now), Some(before)) => now.follows(before),
            (None, _) | (_, None) => true,
        };
        is_same && self.cluster == before.cluster && self.term >= before.term
    }
}

struct Live {
    member: usize,
    stream: WatchStream,
    /// When to ask whether the member is still there, or to give it up.
    due: Instant,
    is_asked: bool,
}

enum Heard {
    Response(WatchResponse),
    /// The stream is over.
    Silence(String),
}

impl EtcdWatch {
    pub(super) async fn open(etcd: Arc<Shared>, prefix: &str, after: Revision) -> Result<Self, StoreError> {
        let (start, end) = etcd.keys.range(prefix);
        let history = *lock(&etcd.history);
        let (seen, ready, live, patience) = (after, VecDeque::new(), None, None);
        let mut watch = Self { etcd, start, end, seen, history, ready, live, patience };
        while watch.live.is_none() {
            watch.reconnect().await?;
        }
        Ok(watch)
    }

    /// Asks one member to tell from here on.
    async fn reconnect(&mut self) -> Result<(), StoreError> {
        let (member, client) = self.etcd.members.preferred();
        let address = client.address.clone();
        let deadline = self.patience.get_or_insert_with(Patience::new).attempt_deadline();
        let opened = timeout(deadline, self.open_stream(client)).await;
        let error = match opened {
            Ok(Ok((stream, created))) => {
                self.check_history(created.header()).await?;
                self.live = Some(Live::new(member, stream));
                self.patience = None;
                return self.take(&created);
            }
            Ok(Err(Fault::Refused(error))) => return Err(error),
            Ok(Err(Fault::Unanswered(text))) => text,
            Err(_) => format!("{address} does not answer"),
        };
        self.etcd.members.pass_over(member);
        self.patience.get_or_insert_with(Patience::new).wait(error).await
    }

    async fn open_stream(&self, mut client: Client) -> Result<(WatchStream, WatchResponse), Fault> {
        let from = etcd_revision(self.seen).saturating_add(1);
        let options = WatchOptions::new().with_range(self.end.as_slice()).with_start_revision(from);
        let in_fault = |error: etcd_client::Error| fault(&client.address, &error);
        let mut stream =
            client.watches.watch(self.start.as_slice(), Some(options)).await.map_err(in_fault)?;
        match stream.message().await.map_err(in_fault)? {
            Some(created) => Ok((stream, created)),
            None => Err(Fault::Unanswered(format!("{} ended the watch", client.address))),
        }
    }

    /// A watch from a revision that the store has not reached would be silent, and miss what came before it.
    async fn check_history(&mut self, header: Option<&ResponseHeader>) -> Result<(), StoreError> {
        let Some(header) = header else { return Ok(()) };
        let lineage = lineage::read(&self.etcd).await?;
        let now = HistoryId { cluster: header.cluster_id(), term: header.raft_term(), lineage };
        *lock(&self.etcd.history) = Some(now);
        if self.history.is_some_and(|before| !now.follows(&before)) {
            return Err(StoreError::Compacted);
        }
        if revision(header.revision()) < self.seen && self.newest_revision().await? < self.seen {
            return Err(StoreError::Compacted);
        }
        self.history = Some(now);
        Ok(())
    }

    /// This member may only be behind: what all of them agreed on decides.
    async fn newest_revision(&self) -> Result<Revision, StoreError> {
        let call = |member: Client| {
            let key = self.start.clone();
            async move { member.kv.clone().get(key, None).await }
        };
        let response = self.etcd.members.call(call).await?;
        Ok(response.header().map(|header| revision(header.revision())).unwrap_or_default())
    }

    /// Sorts events into the transactions they belong to.
    fn take(&mut self, response: &WatchResponse) -> Result<(), StoreError> {
        if response.compact_revision() > 0 {
            return Err(StoreError::Compacted);
        }
        if response.canceled() {
            tracing::debug!(reason = response.cancel_reason(), "etcd ended a watch");
            self.live = None;
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let at = revision(kv.mod_revision());
            let Some(ours) = self.etcd.keys.event(event) else { continue };
            match self.ready.back_mut() {
                Some(group) if at == self.seen => group.push(ours),
                _ => self.ready.push_back(vec![ours]),
            }
            self.seen = at;
        }
        Ok(())
    }
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        loop {
            if let Some(events) = self.ready.pop_front() {
                return Ok(events);
            }
            let Some(live) = &mut self.live else {
                self.reconnect().await?;
                continue;
            };
            match live.next().await {
                Heard::Response(response) => self.take(&response)?,
                Heard::Silence(reason) => {
                    tracing::debug!(reason, "a watch goes on with another member");
                    self.etcd.members.pass_over(live.member);
                    self.live = None;
                }
            }
        }
    }
}

impl Live {
    fn new(member: usize, stream: WatchStream) -> Self {
        Self { member, stream, due: Instant::now() + QUIET_MAX, is_asked: false }
    }

    /// What the member says. One that says nothing for a while is asked to, so that a hung one is found out.
    async fn next(&mut self) -> Heard {
        loop {
            match timeout_at(self.due, self.stream.message()).await {
                Ok(Ok(Some(response))) => {
                    self.due = Instant::now() + QUIET_MAX;
                    self.is_asked = false;
                    return Heard::Response(response);
                }
                Ok(Ok(None)) => return Heard::Silence("the stream ended".to_owned()),
                Ok(Err(error)) => return Heard::Silence(error.to_string()),
                Err(_) if self.is_asked => return Heard::Silence("no sign of life".to_owned()),
                Err(_) => {
                    if let Err(error) = self.stream.request_progress().await {
                        return Heard::Silence(error.to_string());
                    }
                    self.is_asked = true;
                    self.due = Instant::now() + ANSWER_DEADLINE;
                }
            }
        }
    }
}

/// What it guards is replaced in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A watch without events is asked for a sign of life after this.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// And given up after that much more.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
