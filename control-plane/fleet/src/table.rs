//! A site's steering table: which rows move to whom, and when.
//!
//! Moves take two phases. In the first the new owner is a trailing hop on every server; when the live servers have
//! acknowledged that, or [`Limits::phase_s_max`] has passed, it becomes current. Between the two nothing else is begun,
//! so a plan is never older than a phase.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_steer::{NOBODY, Row};

use crate::{Condition, Epoch};

/// A row and when it last moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlannedRow {
    /// What servers are told.
    pub row: Row,
    /// In Unix seconds; 0 for a row that has never moved.
    pub moved_unix_s: u32,
}

/// The first phase of some moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publishing {
    /// The configuration that told the trailing hops.
    pub epoch: Epoch,
    /// When.
    pub since_unix_s: u64,
}

/// The steering table of a site, as the store keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteTable {
    /// A power of two of them.
    pub rows: Vec<PlannedRow>,
    /// Set while rows wait for their second phase.
    pub publishing: Option<Publishing>,
}

/// A server of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// What it can take.
    pub condition: Condition,
    /// Its share of the rows relative to the others', in millionths; not 0.
    pub weight_micro: u64,
    /// The newest configuration in force on it.
    pub acknowledged: Option<Epoch>,
    /// Flows by row, of the rows that have any.
    pub row_flows: BTreeMap<u32, u32>,
}

/// Bounds of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for acknowledgements, in seconds.
    pub phase_s_max: u64,
    /// Rows that moved less than so many seconds ago are left where they are, unless their owner cannot keep them.
    pub hold_s: u32,
    /// Rows that move for balance in one plan are at most one of so many.
    pub optional_divisor: usize,
    /// A server may be off its quota by one of so many rows of it.
    pub band_divisor: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { phase_s_max: 5, hold_s: 30, optional_divisor: 16, band_divisor: 100 }
    }
}

/// A weight that operators give, in millionths.
///
/// # Errors
/// In words: it is not a number above 0 and up to 1,000.
pub fn weight_micro(weight: f64) -> Result<u64, String> {
    if weight.is_finite() && weight > 0.0 && weight <= 1_000.0 {
        // At most 10⁹: exact in 64 bits. What rounds to nothing is still something.
        Ok(((weight * 1_000_000.0).round() as u64).max(1))
    } else {
        Err(format!("weight: {weight} is not above 0 and up to 1,000; to take load away use drain"))
    }
}

/// Rows that each server is to have: largest remainder of `row_count` · w / Σw, ties to the lower number.
#[must_use]
pub fn quotas(servers: &BTreeMap<u16, u64>, row_count: usize) -> BTreeMap<u16, u32> {
    let total: u128 = servers.values().map(|weight| u128::from(*weight)).sum();
    if total == 0 {
        return BTreeMap::new();
    }
    let rows = row_count as u128;
    let mut quotas = BTreeMap::new();
    let mut remainders = vec![];
    let mut given = 0_u128;
    for (server, weight) in servers {
        let share = rows.saturating_mul(u128::from(*weight));
        let whole = share.checked_div(total).unwrap_or(0);
        remainders.push((std::cmp::Reverse(share.checked_rem(total).unwrap_or(0)), *server));
        given = given.saturating_add(whole);
        quotas.insert(*server, u32::try_from(whole).unwrap_or(u32::MAX));
    }
    remainders.sort_unstable();
    let left = usize::try_from(rows.saturating_sub(given)).unwrap_or(0);
    for (_, server) in remainders.into_iter().take(left) {
        if let Some(quota) = quotas.get_mut(&server) {
            *quota = quota.saturating_add(1);
        }
    }
    quotas
}

/// What the table is to be next; `None` when it stays. The same inputs give the same table.
#[must_use]
pub fn plan(
    table: Option<&SiteTable>,
    servers: &BTreeMap<u16, Server>,
    row_count: usize,
    now_unix_s: u64,
    next_epoch: Epoch,
    limits: &Limits,
) -> Option<SiteTable> {
    let takers: BTreeMap<u16, u64> = servers
        .iter()
        .filter(|(_, server)| server.condition == Condition::Live)
        .map(|(number, server)| (*number, server.weight_micro))
        .collect();
    if takers.is_empty() {
        return None;
    }
    let Some(table) = table else { return Some(fresh(&takers, row_count)) };
    if let Some(publishing) = table.publishing {
        return is_published(publishing, servers, now_unix_s, limits)
            .then(|| finish(table, servers, now_unix_s));
    }
    let moves = moves(table, servers, &takers, now_unix_s, limits);
    if moves.is_empty() {
        return None;
    }
    let mut next = table.clone();
    for (index, server) in moves {
        if let Some(planned) = next.rows.get_mut(index) {
            planned.row = planned.row.publishing(server);
        }
    }
    next.publishing = Some(Publishing { epoch: next_epoch, since_unix_s: now_unix_s });
    Some(next)
}

/// The first table of a site: nobody owned a flow before.
fn fresh(takers: &BTreeMap<u16, u64>, row_count: usize) -> SiteTable {
    let quotas = quotas(takers, row_count);
    let owners = quotas.iter().flat_map(|(server, quota)| std::iter::repeat_n(*server, *quota as usize));
    let rows = owners.map(|server| PlannedRow { row: Row::of(server), moved_unix_s: 0 }).collect();
    SiteTable { rows, publishing: None }
}

/// Whether every server that reports has the trailing hops, or enough time was given to it.
fn is_published(
    publishing: Publishing,
    servers: &BTreeMap<u16, Server>,
    now_unix_s: u64,
    limits: &Limits,
) -> bool {
    // A clock that was put back must not make the wait longer than twice.
    let waited = now_unix_s.abs_diff(publishing.since_unix_s) >= limits.phase_s_max;
    let has_it = |server: &Server| server.acknowledged.is_some_and(|epoch| epoch >= publishing.epoch);
    let reports = |server: &&Server| matches!(server.condition, Condition::Live | Condition::Draining);
    waited || servers.values().filter(reports).all(has_it)
}

/// The second phase. A new owner that fell away in the meantime does not get the row.
fn finish(table: &SiteTable, servers: &BTreeMap<u16, Server>, now_unix_s: u64) -> SiteTable {
    let can_take =
        |server: u16| servers.get(&server).is_some_and(|server| server.condition == Condition::Live);
    let moved_unix_s = u32::try_from(now_unix_s).unwrap_or(u32::MAX);
    let finish_row = |planned: &PlannedRow| {
        if planned.row.next == NOBODY {
            *planned
        } else if can_take(planned.row.next) {
            PlannedRow { row: planned.row.moved(), moved_unix_s }
        } else {
            PlannedRow { row: planned.row.publishing(NOBODY), ..*planned }
        }
    };
    SiteTable { rows: table.rows.iter().map(finish_row).collect(), publishing: None }
}

/// Which rows get which new owner: first those that must move, then, for balance, some of those that may.
fn moves(
    table: &SiteTable,
    servers: &BTreeMap<u16, Server>,
    takers: &BTreeMap<u16, u64>,
    now_unix_s: u64,
    limits: &Limits,
) -> Vec<(usize, u16)> {
    let mut balance = Balance::of(table, quotas(takers, table.rows.len()));
    let mut moves = vec![];
    for (index, planned) in table.rows.iter().enumerate() {
        if !takers.contains_key(&planned.row.current) {
            moves.extend(balance.take().map(|server| (index, server)));
        }
    }
    if balance.is_within(limits.band_divisor) {
        return moves;
    }
    let most = table.rows.len().checked_div(limits.optional_divisor).unwrap_or(0).max(1);
    let mut left = most.saturating_sub(moves.len());
    for index in movable(table, servers, now_unix_s, limits) {
        let Some(owner) = table.rows.get(index).map(|planned| planned.row.current) else { continue };
        if left == 0 {
            break;
        }
        if takers.contains_key(&owner) && balance.give(owner) {
            moves.extend(balance.take().map(|server| (index, server)));
            left = left.saturating_sub(1);
        }
    }
    moves
}

/// Rows that may move for balance, those with the fewest flows first.
fn movable(
    table: &SiteTable,
    servers: &BTreeMap<u16, Server>,
    now_unix_s: u64,
    limits: &Limits,
) -> Vec<usize> {
    let now = u32::try_from(now_unix_s).unwrap_or(u32::MAX);
    let is_settled = |planned: &PlannedRow| {
        planned.moved_unix_s == 0 || now.abs_diff(planned.moved_unix_s) >= limits.hold_s
    };
    let mut flows = vec![0_u64; table.rows.len()];
    for (row, count) in servers.values().flat_map(|server| &server.row_flows) {
        if let Some(sum) = flows.get_mut(*row as usize) {
            *sum = sum.saturating_add(u64::from(*count));
        }
    }
    let rows = table.rows.iter().zip(flows).enumerate();
    let settled = rows.filter(|(_, (planned, _))| is_settled(planned));
    let mut rows: Vec<(u64, usize)> = settled.map(|(index, (_, flows))| (flows, index)).collect();
    rows.sort_unstable();
    rows.into_iter().map(|(_, index)| index).collect()
}

/// How many rows each server has and is to have.
struct Balance {
    counts: BTreeMap<u16, u32>,
    quotas: BTreeMap<u16, u32>,
    /// How much is missing, by server; the most first.
    missing: BTreeSet<(std::cmp::Reverse<u32>, u16)>,
}

impl Balance {
    fn of(table: &SiteTable, quotas: BTreeMap<u16, u32>) -> Self {
        let mut counts: BTreeMap<u16, u32> = quotas.keys().map(|server| (*server, 0)).collect();
        for planned in &table.rows {
            if let Some(count) = counts.get_mut(&planned.row.current) {
                *count = count.saturating_add(1);
            }
        }
        let missing = |(server, quota): (&u16, &u32)| {
            let count = counts.get(server).copied().unwrap_or(0);
            (count < *quota).then(|| (std::cmp::Reverse(quota.saturating_sub(count)), *server))
        };
        let missing = quotas.iter().filter_map(missing).collect();
        Self { counts, quotas, missing }
    }

    /// Every server is near enough to its quota.
    fn is_within(&self, band_divisor: u32) -> bool {
        self.quotas.iter().all(|(server, quota)| {
            let count = self.counts.get(server).copied().unwrap_or(0);
            count.abs_diff(*quota) <= quota.checked_div(band_divisor).unwrap_or(0).max(1)
        })
    }

    /// The server that misses the most rows gets one.
    fn take(&mut self) -> Option<u16> {
        let (std::cmp::Reverse(missing), server) = self.missing.pop_first()?;
        if let Some(count) = self.counts.get_mut(&server) {
            *count = count.saturating_add(1);
        }
        if missing > 1 {
            self.missing.insert((std::cmp::Reverse(missing.saturating_sub(1)), server));
        }
        Some(server)
    }

    /// A server gives a row away, if it has more than it is to have and somebody misses one.
    fn give(&mut self, server: u16) -> bool {
        let quota = self.quotas.get(&server).copied().unwrap_or(0);
        let Some(count) = self.counts.get_mut(&server).filter(|count| **count > quota) else { return false };
        if self.missing.is_empty() {
            return false;
        }
        *count = count.saturating_sub(1);
        true
    }
}
