//! What was relayed, by key, user and hour: sums over the counts in the store.

use std::collections::BTreeMap;

use prost::Message;
use trunkline_proto::node::v1::UsageEntry;
use trunkline_proto::operator::v1::query_usage_request::GroupBy;
use trunkline_proto::operator::v1::{QueryUsageRequest, QueryUsageResponse};
use trunkline_proto::store::v1::UsageCount;

use super::Fault;
use crate::store::{Entry, Store};

/// Sums what the request asks for.
///
/// # Errors
/// A period that is not one; more counts or entries than one answer takes.
pub async fn query<S: Store>(
    store: &S,
    request: &QueryUsageRequest,
    now_unix_s: u64,
) -> Result<QueryUsageResponse, Fault> {
    let hours = hours(request, now_unix_s)?;
    let mut sums: BTreeMap<Group, UsageCount> = BTreeMap::new();
    let mut counts_read = 0_usize;
    for hour in hours {
        let listing = store.list(&format!("usage/{hour}/")).await?;
        counts_read = counts_read.saturating_add(listing.entries.len());
        if counts_read > COUNTS_MAX {
            return Err(Fault::Exhausted(format!(
                "more than {COUNTS_MAX} counts lie in this period; ask for fewer hours at once"
            )));
        }
        for (key_id, user, count) in listing.entries.iter().filter_map(|entry| counted(entry, hour)) {
            if is_wanted(request, &key_id, &user) {
                add(sums.entry(group(request.group_by(), hour, key_id, user)).or_default(), &count);
            }
        }
    }
    if sums.len() > ENTRIES_MAX {
        return Err(Fault::Exhausted(format!(
            "the answer has {} entries, {ENTRIES_MAX} at most; narrow it by key or user, group it, or ask for fewer hours",
            sums.len()
        )));
    }
    Ok(QueryUsageResponse { entries: sums.into_iter().map(entry).collect() })
}

/// Hour, key, user: as the answer is ordered. What is not grouped by is empty.
type Group = (u64, String, String);

/// The starts of the hours that the request covers.
fn hours(request: &QueryUsageRequest, now_unix_s: u64) -> Result<impl Iterator<Item = u64> + use<>, Fault> {
    let floor = |unix_s: u64| unix_s - unix_s % HOUR_S;
    // The hour that runs is part of "now".
    let to = match request.to_unix_s {
        0 => floor(now_unix_s).saturating_add(HOUR_S),
        to => floor(to),
    };
    let from = match request.from_unix_s {
        0 => to.saturating_sub(DEFAULT_HOURS * HOUR_S),
        from => floor(from),
    };
    if from >= to {
        let problem = format!("{from} is not before to_unix_s, {to}, once both are rounded down to the hour");
        return Err(Fault::malformed("from_unix_s", problem));
    }
    if (to - from) / HOUR_S > HOURS_MAX {
        let problem = format!("the period has more than {HOURS_MAX} hours; ask for one month at a time");
        return Err(Fault::malformed("from_unix_s", problem));
    }
    Ok((from..to).step_by(usize::try_from(HOUR_S).unwrap_or(usize::MAX)))
}

/// `usage/<hour>/<node>/<key id>/<user>`; a user's name may contain slashes. Damaged records are left out.
fn counted(entry: &Entry, hour: u64) -> Option<(String, String, UsageCount)> {
    let rest = entry.key.strip_prefix(&format!("usage/{hour}/"))?;
    let mut parts = rest.splitn(3, '/').skip(1);
    let (key_id, user) = (parts.next()?, parts.next()?);
    Some((key_id.to_owned(), user.to_owned(), UsageCount::decode(&entry.value[..]).ok()?))
}

fn is_wanted(request: &QueryUsageRequest, key_id: &str, user: &str) -> bool {
    (request.key_id.is_empty() || request.key_id == key_id)
        && (request.user.is_empty() || request.user == user)
}

fn group(by: GroupBy, hour: u64, key_id: String, user: String) -> Group {
    match by {
        GroupBy::Unspecified => (hour, key_id, user),
        GroupBy::Key => (0, key_id, String::new()),
        GroupBy::User => (0, String::new(), user),
        GroupBy::Hour => (hour, String::new(), String::new()),
    }
}

fn add(sum: &mut UsageCount, count: &UsageCount) {
    let pairs = [
        (&mut sum.bytes_to_peer, count.bytes_to_peer),
        (&mut sum.bytes_to_client, count.bytes_to_client),
        (&mut sum.packets_to_peer, count.packets_to_peer),
        (&mut sum.packets_to_client, count.packets_to_client),
        (&mut sum.allocations, count.allocations),
    ];
    for (sum, count) in pairs {
        *sum = sum.saturating_add(count);
    }
}

fn entry(((hour_unix_s, key_id, user), count): (Group, UsageCount)) -> UsageEntry {
    UsageEntry {
        key_id,
        user,
        hour_unix_s,
        bytes_to_peer: count.bytes_to_peer,
        bytes_to_client: count.bytes_to_client,
        packets_to_peer: count.packets_to_peer,
        packets_to_client: count.packets_to_client,
        allocations: count.allocations,
    }
}

const HOUR_S: u64 = 3_600;
/// As `QueryUsageRequest.from_unix_s` says.
const DEFAULT_HOURS: u64 = 24;
/// A month.
const HOURS_MAX: u64 = 31 * 24;
/// Counts of one query: what a replica reads and adds within seconds.
const COUNTS_MAX: usize = 100_000;
/// Entries of one answer: it stays below the 4 MiB that a gRPC message has by default.
const ENTRIES_MAX: usize = 20_000;
