//! A whole prefix as it was at one revision, in pages.

use etcd_client::{GetOptions, GetResponse};

use super::super::{Listing, Revision, StoreError};
use super::Shared;
use super::keys::{etcd_revision, revision};
use super::members::Client;

/// Every key with this prefix.
pub(super) async fn list(etcd: &Shared, prefix: &str) -> Result<Listing, StoreError> {
    let mut restarts = 0;
    loop {
        match list_once(etcd, prefix).await {
            // etcd compacted the revision between two pages.
            Err(StoreError::Compacted) if restarts < RESTARTS_MAX => restarts += 1,
            other => return other,
        }
    }
}

async fn list_once(etcd: &Shared, prefix: &str) -> Result<Listing, StoreError> {
    let (mut start, end) = etcd.keys.range(prefix);
    let mut listing = Listing { entries: vec![], revision: Revision::default() };
    let mut keys_max = PAGE_KEYS_MIN;
    loop {
        let response = match page(etcd, &start, &end, listing.revision, keys_max).await {
            Err(StoreError::TooLarge(_)) if keys_max > PAGE_KEYS_MIN => {
                keys_max = PAGE_KEYS_MIN;
                continue;
            }
            other => other?,
        };
        if listing.revision == Revision::default() {
            listing.revision =
                response.header().map(|header| revision(header.revision())).unwrap_or_default();
        }
        listing.entries.extend(response.kvs().iter().filter_map(|found| etcd.keys.entry(found)));
        match response.kvs().last() {
            Some(last) if response.more() => start = just_after(last.key()),
            _ => return Ok(listing),
        }
        keys_max = next_keys_max(keys_max, &response);
    }
}

/// More keys a page while they are small, for usage has very many.
fn next_keys_max(keys_max: i64, page: &GetResponse) -> i64 {
    let bytes: usize = page.kvs().iter().map(|found| found.value().len()).sum();
    if bytes > PAGE_BYTES { PAGE_KEYS_MIN } else { keys_max.saturating_mul(4).min(PAGE_KEYS_MAX) }
}

/// The first page is of the newest revision, the others of the same.
async fn page(
    etcd: &Shared,
    start: &[u8],
    end: &[u8],
    at: Revision,
    keys_max: i64,
) -> Result<GetResponse, StoreError> {
    let call = |member: Client| {
        let options = GetOptions::new().with_range(end).with_limit(keys_max).with_revision(etcd_revision(at));
        let start = start.to_owned();
        async move { member.kv.clone().get(start, Some(options)).await }
    };
    etcd.members.call(call).await
}

fn just_after(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_owned();
    next.push(0);
    next
}

/// So many of the largest values fit into one message.
const PAGE_KEYS_MIN: i64 = 60;
const PAGE_KEYS_MAX: i64 = 4_096;
/// Pages with less than this may become longer.
const PAGE_BYTES: usize = 1024 * 1024;
const RESTARTS_MAX: u32 = 3;
