//! A site's steering table: which rows move to whom, and when.
//!
//! Moves take two phases. In the first the new owner is a trailing hop on every server; when the live servers have
//! acknowledged that, or [`Limits::phase_s_max`] has passed, it becomes current. Between the two nothing else is begun,
//! so a plan is never older than a phase. What becomes necessary meanwhile waits for its end, a few seconds at most.
//!
//! Rows move because they must (their owner is gone, dead, or to be emptied) or because they had better (a server is
//! further from its quota than its dead band); never for both reasons in one publication, so that a server's end moves
//! exactly its rows.

mod moves;
mod publish;
mod quota;

use std::collections::BTreeMap;

use trunkline_steer::Row;

pub use self::quota::quotas;
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
    let takers = takers(servers);
    if takers.is_empty() {
        return None;
    }
    let Some(table) = table.filter(|table| !table.rows.is_empty()) else {
        return Some(fresh(&takers, row_count));
    };
    let next = match table.publishing {
        Some(publishing) if !publish::is_done(publishing, servers, now_unix_s, limits) => return None,
        Some(_) => publish::bring_into_force(table, servers, now_unix_s),
        None => moves::publish(table, servers, now_unix_s, next_epoch, limits),
    };
    (next != *table).then_some(next)
}

/// The servers that may get rows, with their weights.
fn takers(servers: &BTreeMap<u16, Server>) -> BTreeMap<u16, u64> {
    let takers = servers.iter().filter(|(_, server)| server.condition == Condition::Live);
    takers.map(|(number, server)| (*number, server.weight_micro)).collect()
}

/// The first table of a site: nobody owned a flow before.
fn fresh(takers: &BTreeMap<u16, u64>, row_count: usize) -> SiteTable {
    let quotas = quotas(takers, row_count);
    let owners = quotas.iter().flat_map(|(server, quota)| std::iter::repeat_n(*server, *quota as usize));
    let rows = owners.map(|server| PlannedRow { row: Row::of(server), moved_unix_s: 0 }).collect();
    SiteTable { rows, publishing: None }
}
