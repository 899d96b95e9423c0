//! The two phases of a move: its publication, and its coming into force.

use std::collections::BTreeMap;

use trunkline_steer::{NOBODY, Row};

use super::{Limits, PlannedRow, Publishing, Server, SiteTable};
use crate::Condition;

/// Whether every server that reports has the trailing hops, or enough time was given to it.
pub fn is_done(
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

/// The second phase. A new owner that fell away in the meantime does not get the row: nobody made it the owner yet, so
/// nothing is lost.
pub fn bring_into_force(table: &SiteTable, servers: &BTreeMap<u16, Server>, now_unix_s: u64) -> SiteTable {
    let can_take = |number| servers.get(&number).is_some_and(|server| server.condition == Condition::Live);
    let moved_unix_s = u32::try_from(now_unix_s).unwrap_or(u32::MAX);
    let finish = |planned: &PlannedRow| match planned.row.next {
        NOBODY => *planned,
        next if can_take(next) => PlannedRow { row: moved(planned.row, servers), moved_unix_s },
        _ => PlannedRow { row: planned.row.publishing(NOBODY), ..*planned },
    };
    SiteTable { rows: table.rows.iter().map(finish).collect(), publishing: None }
}

/// The row with `next` as its owner and those before it behind. Servers that are no members own nothing any more. Where
/// there are three, the one to go is the oldest dead one, else the oldest.
fn moved(row: Row, servers: &BTreeMap<u16, Server>) -> Row {
    let [first, second] = row.previous;
    let is_kept = |number: &u16| *number != row.next && servers.contains_key(number);
    let mut before = [row.current, first, second].map(|number| Some(number).filter(is_kept));
    if before.iter().all(Option::is_some) {
        let is_dead = |number: Option<u16>| number.is_some_and(|number| is_dead(number, servers));
        let [newest, middle, oldest] = &mut before;
        match (is_dead(*newest), is_dead(*middle), is_dead(*oldest)) {
            (true, false, false) => *newest = None,
            (_, true, false) => *middle = None,
            (_, _, true) | (false, false, false) => *oldest = None,
        }
    }
    let mut before = before.into_iter().flatten();
    let previous = [before.next().unwrap_or(NOBODY), before.next().unwrap_or(NOBODY)];
    Row { current: row.next, next: NOBODY, previous }
}

fn is_dead(number: u16, servers: &BTreeMap<u16, Server>) -> bool {
    servers.get(&number).is_some_and(|server| server.condition == Condition::Dead)
}

/// Who would fall off the row's chain if it moved to `next`, and may have live flows on it.
pub fn cut_off(row: Row, next: u16, servers: &BTreeMap<u16, Server>) -> Option<u16> {
    let after = moved(row.publishing(next), servers).chain();
    let mut before: [Option<u16>; 3] = [None; 3];
    let [first, second] = row.previous;
    for (place, number) in before.iter_mut().zip([row.current, first, second]) {
        let serves = servers.contains_key(&number) && !is_dead(number, servers);
        *place = Some(number).filter(|number| serves && !after.hops().any(|hop| hop == *number));
    }
    before.into_iter().flatten().next()
}
