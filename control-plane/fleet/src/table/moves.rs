//! Which rows move, and where.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use trunkline_steer::{NOBODY, fallback};

use super::publish::cut_off;
use super::quota::{dead_band, quotas};
use super::{Limits, PlannedRow, Publishing, Server, SiteTable, takers};
use crate::{Condition, Epoch};

/// The table with the first phase of what moves now; as it was when nothing does.
pub fn publish(
    table: &SiteTable,
    servers: &BTreeMap<u16, Server>,
    now_unix_s: u64,
    next_epoch: Epoch,
    limits: &Limits,
) -> SiteTable {
    let mut balance = Balance::of(table, servers, limits);
    let mut moves = necessary(table, servers, &mut balance);
    if moves.is_empty() && !balance.is_within() {
        moves = desirable(table, servers, &mut balance, now_unix_s, limits);
    }
    let mut next = table.clone();
    for (index, server) in moves {
        if let Some(planned) = next.rows.get_mut(index) {
            planned.row = planned.row.publishing(server);
            next.publishing = Some(Publishing { epoch: next_epoch, since_unix_s: now_unix_s });
        }
    }
    next
}

/// Rows of owners that cannot keep them. A row goes back to an owner before it, else to the row's fallback, where that one
/// misses rows: servers that noticed the death have sent it the row's new flows since. Then nobody falls off its chain.
fn necessary(table: &SiteTable, servers: &BTreeMap<u16, Server>, balance: &mut Balance) -> Vec<(usize, u16)> {
    let mut moves = vec![];
    let owner = |index: usize| table.rows.get(index).map_or(NOBODY, |planned| planned.row.current);
    for (index, planned) in table.rows.iter().enumerate() {
        if !keeps_rows(planned, servers) {
            let others = fallback(index, table.rows.len(), owner);
            let takers = planned.row.previous.into_iter().chain(others);
            let before = takers.into_iter().find(|server| balance.misses(*server));
            if let Some(server) = before.or_else(|| balance.neediest()) {
                balance.give(server);
                moves.push((index, server));
            }
        }
    }
    moves
}

/// Servers of a site of which most fell silent keep their rows, and get none.
fn keeps_rows(planned: &PlannedRow, servers: &BTreeMap<u16, Server>) -> bool {
    let owner = servers.get(&planned.row.current);
    owner.is_some_and(|owner| matches!(owner.condition, Condition::Live | Condition::Silent))
}

/// Rows of servers above their quota, for servers below theirs. A row that moved of late stays, and one on which flows
/// would lose their owner.
fn desirable(
    table: &SiteTable,
    servers: &BTreeMap<u16, Server>,
    balance: &mut Balance,
    now_unix_s: u64,
    limits: &Limits,
) -> Vec<(usize, u16)> {
    let rows_max = table.rows.len().checked_div(limits.optional_divisor).unwrap_or(0).max(1);
    let mut moves = vec![];
    for index in movable(table, servers, balance, now_unix_s, limits) {
        let Some(row) = table.rows.get(index).map(|planned| planned.row) else { continue };
        let Some(server) = balance.neediest().filter(|_| moves.len() < rows_max) else { break };
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let has_flows = |owner: u16| servers.get(&owner).is_some_and(|owner| flows(owner, number) > 0);
        if balance.has_surplus(row.current) && !cut_off(row, server, servers).is_some_and(has_flows) {
            balance.take(row.current);
            balance.give(server);
            moves.push((index, server));
        }
    }
    moves
}

/// Rows that may move for balance, those with the fewest flows first, then by index.
fn movable(
    table: &SiteTable,
    servers: &BTreeMap<u16, Server>,
    balance: &Balance,
    now_unix_s: u64,
    limits: &Limits,
) -> Vec<usize> {
    let now = u32::try_from(now_unix_s).unwrap_or(u32::MAX);
    let is_settled = |planned: &PlannedRow| {
        planned.moved_unix_s == 0 || now.abs_diff(planned.moved_unix_s) >= limits.hold_s
    };
    let settled = table.rows.iter().enumerate().filter(|(_, planned)| is_settled(planned));
    let spare = settled.filter(|(_, planned)| balance.has_surplus(planned.row.current));
    let mut rows: Vec<(u32, usize)> = spare
        .map(|(index, planned)| {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            (servers.get(&planned.row.current).map_or(0, |owner| flows(owner, number)), index)
        })
        .collect();
    rows.sort_unstable();
    rows.into_iter().map(|(_, index)| index).collect()
}

fn flows(server: &Server, row: u32) -> u32 {
    server.row_flows.get(&row).copied().unwrap_or(0)
}

/// How many rows each taker has and is to have.
struct Balance {
    shares: BTreeMap<u16, Share>,
    /// Takers that miss rows; the one that is furthest outside its dead band first.
    needy: BTreeSet<(Reverse<i64>, u16)>,
}

#[derive(Clone, Copy)]
struct Share {
    count: u32,
    quota: u32,
    band: u32,
}

impl Share {
    const fn misses(&self) -> bool {
        self.count < self.quota
    }

    fn urgency(&self) -> Reverse<i64> {
        let missing = i64::from(self.quota).saturating_sub(i64::from(self.count));
        Reverse(missing.saturating_sub(i64::from(self.band)))
    }
}

impl Balance {
    fn of(table: &SiteTable, servers: &BTreeMap<u16, Server>, limits: &Limits) -> Self {
        let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
        for owner in owners(table) {
            let count = counts.entry(owner.0).or_default();
            *count = count.saturating_add(owner.1);
        }
        let is_silent =
            |server: &u16| servers.get(server).is_some_and(|server| server.condition == Condition::Silent);
        let frozen: u32 =
            counts.iter().filter(|(server, _)| is_silent(server)).map(|(_, count)| *count).sum();
        let rows = table.rows.len().saturating_sub(usize::try_from(frozen).unwrap_or(0));
        let share = |(server, quota): (u16, u32)| {
            let count = counts.get(&server).copied().unwrap_or(0);
            (server, Share { count, quota, band: dead_band(quota, limits.band_divisor) })
        };
        let shares: BTreeMap<u16, Share> = quotas(&takers(servers), rows).into_iter().map(share).collect();
        let needy = shares.iter().filter(|(_, share)| share.misses());
        let needy = needy.map(|(server, share)| (share.urgency(), *server)).collect();
        Self { shares, needy }
    }

    fn is_within(&self) -> bool {
        self.shares.values().all(|share| share.count.abs_diff(share.quota) <= share.band)
    }

    fn misses(&self, server: u16) -> bool {
        server != NOBODY && self.shares.get(&server).is_some_and(Share::misses)
    }

    fn has_surplus(&self, server: u16) -> bool {
        self.shares.get(&server).is_some_and(|share| share.count > share.quota)
    }

    /// Of equal needs the lowest number.
    fn neediest(&self) -> Option<u16> {
        self.needy.first().map(|(_, server)| *server)
    }

    fn give(&mut self, server: u16) {
        let Some(share) = self.shares.get_mut(&server) else { return };
        self.needy.remove(&(share.urgency(), server));
        share.count = share.count.saturating_add(1);
        if share.misses() {
            self.needy.insert((share.urgency(), server));
        }
    }

    /// Only from a server with a surplus, which is not among the needy.
    fn take(&mut self, server: u16) {
        if let Some(share) = self.shares.get_mut(&server) {
            share.count = share.count.saturating_sub(1);
        }
    }
}

/// Current owners in runs: rows beside each other often have the same one, and a run costs one look-up.
fn owners(table: &SiteTable) -> impl Iterator<Item = (u16, u32)> + '_ {
    let runs = table.rows.chunk_by(|a, b| a.row.current == b.row.current);
    runs.filter_map(|run| Some((run.first()?.row.current, u32::try_from(run.len()).unwrap_or(u32::MAX))))
}
