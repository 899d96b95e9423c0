//! How many rows each server of a site is to have.

use std::collections::BTreeMap;

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

/// How far a server's rows may be from its quota before any moves for it: at least one row.
pub(super) fn dead_band(quota: u32, divisor: u32) -> u32 {
    quota.checked_div(divisor).unwrap_or(0).max(1)
}
