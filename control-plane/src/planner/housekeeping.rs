//! Records whose time is over are deleted, a bounded number in one go.

use prost::Message;
use trunkline_proto::store::v1::{IdempotentAnswer, JoinToken, Revocation};

use crate::configuration::unix_now_s;
use crate::core::{Core, transaction};
use crate::event;
use crate::leader::Term;
use crate::records::{self, Record};
use crate::store::{Change, Entry, Expected, Store, StoreError, Transaction};

/// Deletes what is over.
pub(super) async fn sweep(core: &Core, term: Term) -> Result<(), StoreError> {
    let now = unix_now_s();
    revocations(core, term, now).await?;
    let is_over = |entry: &Entry| {
        JoinToken::decode(&entry.value[..])
            .is_ok_and(|token| token.expires_unix_s.saturating_add(DAY_S) <= now)
    };
    delete(core, term, JoinToken::PREFIX, is_over).await?;
    let is_over = |entry: &Entry| {
        IdempotentAnswer::decode(&entry.value[..]).is_ok_and(|kept| kept.unix_s.saturating_add(DAY_S) <= now)
    };
    delete(core, term, "idempotency/", is_over).await?;
    let oldest = now.saturating_sub(USAGE_S);
    let is_over = |entry: &Entry| {
        let hour = entry.key.split('/').nth(1).and_then(|hour| hour.parse::<u64>().ok());
        hour.is_some_and(|hour| hour < oldest)
    };
    delete(core, term, "usage/", is_over).await?;
    event::prune(core.store()).await.map(|_| ())
}

/// They are configuration: servers are told.
async fn revocations(core: &Core, term: Term, now: u64) -> Result<(), StoreError> {
    let state = core.state();
    let over = state.revocations.iter().filter(|(_, kept)| kept.record.expires_unix_s <= now);
    let names: Vec<&String> = over.map(|(name, _)| name).take(AT_ONCE).collect();
    if names.is_empty() {
        return Ok(());
    }
    let changes = names.into_iter().map(|name| Change::Delete { key: records::key::<Revocation>(name) });
    let (_, transaction) = transaction(&state, vec![term.check()], changes.collect(), true);
    core.store().commit(transaction).await.map(|_| ())
}

async fn delete(
    core: &Core,
    term: Term,
    prefix: &str,
    is_over: impl Fn(&Entry) -> bool,
) -> Result<(), StoreError> {
    let entries = core.store().list(prefix).await?.entries;
    let over: Vec<&Entry> = entries.iter().filter(|entry| is_over(entry)).collect();
    for some in over.chunks(AT_ONCE) {
        let unchanged = |entry: &&Entry| (entry.key.clone(), Expected::At(entry.revision));
        let mut checks: Vec<_> = some.iter().map(unchanged).collect();
        checks.push(term.check());
        let changes = some.iter().map(|entry| Change::Delete { key: entry.key.clone() }).collect();
        core.store().commit(Transaction { checks, changes }).await?;
    }
    Ok(())
}

const DAY_S: u64 = 86_400;
/// 62 days.
const USAGE_S: u64 = 62 * DAY_S;
/// Each is a check and a change.
const AT_ONCE: usize = 50;
