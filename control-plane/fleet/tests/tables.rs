//! What holds for every steering table: how few rows move, who is found, and that forwarding ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use trunkline_fleet::table::{Limits, PlannedRow, Server, SiteTable, plan, quotas, weight_micro};
use trunkline_fleet::{Condition, Epoch, liveness};
use trunkline_steer::NOBODY;

type Servers = BTreeMap<u16, Server>;

fn server(weight_micro: u64) -> Server {
    Server { condition: Condition::Live, weight_micro, acknowledged: None, row_flows: BTreeMap::new() }
}

fn weights() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(200_000_u64..3_000_000, 3..9)
}

fn fleet(weights: &[u64]) -> Servers {
    weights.iter().zip(1..).map(|(weight, number)| (number, server(*weight))).collect()
}

fn first(servers: &Servers) -> SiteTable {
    plan(None, servers, ROWS, 0, epoch(1), &Limits::default()).unwrap()
}

fn epoch(counter: u64) -> Epoch {
    Epoch { generation: 1, counter }
}

/// Every table from this one to rest; each step is a phase.
fn to_rest(start: &SiteTable, servers: &Servers, begin_s: u64) -> Vec<SiteTable> {
    let limits = Limits::default();
    let mut tables = vec![start.clone()];
    for step in 1..400 {
        let last = tables.last().unwrap();
        let now = begin_s + step * limits.phase_s_max;
        match plan(Some(last), servers, ROWS, now, epoch(step + 1), &limits) {
            Some(next) => tables.push(next),
            None => return tables,
        }
    }
    panic!("it never rests");
}

fn moved(before: &SiteTable, after: &SiteTable) -> BTreeSet<usize> {
    let pairs = before.rows.iter().zip(&after.rows).enumerate();
    pairs.filter(|(_, (a, b))| a.row.current != b.row.current).map(|(index, _)| index).collect()
}

fn rows_of(table: &SiteTable, server: u16) -> BTreeSet<usize> {
    let rows = table.rows.iter().enumerate();
    rows.filter(|(_, planned)| planned.row.current == server).map(|(index, _)| index).collect()
}

/// How many rows came to be another's, counting a row as often as it moved.
fn moves(tables: &[SiteTable]) -> usize {
    tables.windows(2).map(|pair| moved(&pair[0], &pair[1]).len()).sum()
}

/// Fewest rows that must move from these counts to the quotas.
fn floor(table: &SiteTable, servers: &Servers) -> usize {
    let live = servers.iter().filter(|(_, server)| server.condition == Condition::Live);
    let quotas = quotas(&live.map(|(number, server)| (*number, server.weight_micro)).collect(), ROWS);
    quotas.iter().map(|(server, quota)| (*quota as usize).saturating_sub(rows_of(table, *server).len())).sum()
}

/// Where a packet of a row is found that landed at `landing`: the servers that it visits until `owner` has it. Each server
/// has the older or the newer of two tables; a receiver with the newer goes on along its own row.
fn visits(
    landing: u16,
    owner: u16,
    index: usize,
    tables: [&SiteTable; 2],
    newer: &BTreeSet<u16>,
) -> Vec<u16> {
    let version = |server: u16| usize::from(newer.contains(&server));
    let hops = |version: usize| -> Vec<u16> { tables[version].rows[index].row.chain().hops().collect() };
    let (mut visited, mut known) = (vec![landing], version(landing));
    let mut chain = hops(known);
    while *visited.last().unwrap() != owner {
        let Some(hop) = chain.iter().copied().find(|hop| !visited.contains(hop)) else { break };
        visited.push(hop);
        if version(hop) > known {
            known = version(hop);
            chain = hops(known);
        }
    }
    visited
}

proptest! {
    #[test]
    fn quotas_sum_to_the_rows(weights in weights()) {
        let weights: BTreeMap<u16, u64> = weights.into_iter().zip(1..).map(|(weight, number)| (number, weight)).collect();
        prop_assert_eq!(quotas(&weights, ROWS).values().sum::<u32>() as usize, ROWS);
    }

    #[test]
    fn a_weight_change_moves_no_more_than_the_floor(weights in weights(), weight in 200_000_u64..3_000_000) {
        let mut servers = fleet(&weights);
        let start = first(&servers);
        servers.get_mut(&1).unwrap().weight_micro = weight;
        let floor = floor(&start, &servers);
        let tables = to_rest(&start, &servers, 1_000);
        prop_assert!(moves(&tables) <= floor, "{} of {floor}", moves(&tables));
        let rate = ROWS / Limits::default().optional_divisor;
        for pair in tables.windows(2) {
            prop_assert!(moved(&pair[0], &pair[1]).len() <= rate);
        }
        let left = tables.last().unwrap();
        for (number, quota) in quotas(&servers.iter().map(|(n, s)| (*n, s.weight_micro)).collect(), ROWS) {
            let has = rows_of(left, number).len();
            prop_assert!(has.abs_diff(quota as usize) <= (quota as usize / 100).max(1), "{number}: {has}, not {quota}");
        }
    }

    #[test]
    fn a_server_that_goes_gives_up_exactly_its_rows(weights in weights(), how in 0..3) {
        let mut servers = fleet(&weights);
        let start = first(&servers);
        match how {
            0 => drop(servers.remove(&2)),
            1 => servers.get_mut(&2).unwrap().condition = Condition::Draining,
            _ => servers.get_mut(&2).unwrap().condition = Condition::Dead,
        }
        let tables = to_rest(&start, &servers, 1_000);
        prop_assert_eq!(tables.len(), 3, "two phases");
        prop_assert_eq!(moved(&start, &tables[1]).len(), 0, "nothing in the first");
        prop_assert_eq!(moved(&start, &tables[2]), rows_of(&start, 2));
    }

    /// A server is added, one drained and one killed at once; every two tables that may be in force together are tried.
    #[test]
    fn a_live_flow_is_found_under_any_skew_of_one_phase(weights in weights(), newer in proptest::collection::btree_set(1_u16..11, 0..10)) {
        let mut servers = fleet(&weights);
        let start = first(&servers);
        servers.insert(10, server(1_000_000));
        servers.get_mut(&1).unwrap().condition = Condition::Draining;
        servers.get_mut(&2).unwrap().condition = Condition::Dead;
        let tables = to_rest(&start, &servers, 1_000);
        for pair in tables.windows(2) {
            for index in (0..ROWS).step_by(7) {
                let rows = [pair[0].rows[index].row, pair[1].rows[index].row];
                let mut owners = vec![rows[0].current, rows[0].previous[0], rows[1].current];
                owners.retain(|owner| *owner != NOBODY);
                for (owner, landing) in owners.iter().flat_map(|owner| servers.keys().map(move |landing| (*owner, *landing))) {
                    let visited = visits(landing, owner, index, [&pair[0], &pair[1]], &newer);
                    prop_assert_eq!(visited.last(), Some(&owner), "{:?} from {}", rows, landing);
                    let distinct: BTreeSet<&u16> = visited.iter().collect();
                    prop_assert!(distinct.len() == visited.len() && visited.len() <= HOPS_MAX + 1);
                }
            }
        }
    }

    #[test]
    fn rows_that_moved_lately_stay(weights in weights(), age_s in 0_u64..30) {
        let mut servers = fleet(&weights);
        let mut start = first(&servers);
        start.rows.iter_mut().for_each(|planned| planned.moved_unix_s = 1_000);
        let doubled = servers.get_mut(&1).unwrap();
        doubled.weight_micro *= 2;
        prop_assert_eq!(plan(Some(&start), &servers, ROWS, 1_000 + age_s, epoch(2), &Limits::default()), None);
    }
}

#[test]
fn the_same_servers_in_another_order_give_the_same_table() {
    let numbers = [5_u16, 1, 9, 3];
    let forwards: Servers =
        numbers.iter().map(|number| (*number, server(u64::from(*number) * 100_000))).collect();
    let backwards: Servers = numbers.iter().rev().map(|n| (*n, server(u64::from(*n) * 100_000))).collect();
    assert_eq!(first(&forwards), first(&backwards));
    let mut start = first(&forwards);
    start.rows.reverse();
    let dead = |mut servers: Servers| {
        servers.get_mut(&9).unwrap().condition = Condition::Dead;
        to_rest(&start, &servers, 1_000)
    };
    assert_eq!(dead(forwards), dead(backwards));
}

#[test]
fn weights_that_are_none_are_refused_by_name() {
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1_000.1] {
        assert!(weight_micro(weight).is_err_and(|error| error.starts_with("weight: ")), "{weight}");
    }
    assert_eq!((weight_micro(1.0), weight_micro(f64::MIN_POSITIVE)), (Ok(1_000_000), Ok(1)));
}

#[test]
fn without_a_live_server_nothing_moves() {
    let mut servers = fleet(&[1_000_000; 3]);
    let start = first(&servers);
    servers.values_mut().for_each(|server| server.condition = Condition::Dead);
    assert_eq!(plan(Some(&start), &servers, ROWS, 1_000, epoch(2), &Limits::default()), None);
    assert_eq!(plan(None, &servers, ROWS, 1_000, epoch(2), &Limits::default()), None);
}

#[test]
fn a_new_owner_that_dies_between_the_phases_does_not_get_the_rows() {
    let mut servers = fleet(&[1_000_000; 4]);
    let start = first(&servers);
    servers.get_mut(&1).unwrap().condition = Condition::Draining;
    let published = plan(Some(&start), &servers, ROWS, 1_000, epoch(2), &Limits::default()).unwrap();
    assert_eq!(
        plan(Some(&published), &servers, ROWS, 1_001, epoch(3), &Limits::default()),
        None,
        "not acknowledged"
    );
    servers.get_mut(&2).unwrap().condition = Condition::Dead;
    let tables = to_rest(&published, &servers, 1_000);
    assert!(tables.iter().skip(1).all(|table| rows_of(table, 2).is_subset(&rows_of(&start, 2))));
    let given = |planned: &PlannedRow| planned.row.current != 1 && planned.row.current != 2;
    assert!(tables.last().unwrap().rows.iter().all(given));
}

#[test]
fn a_phase_ends_when_every_server_that_reports_has_it_however_long_a_dead_one_hangs() {
    let mut servers = fleet(&[1_000_000; 4]);
    let start = first(&servers);
    servers.get_mut(&1).unwrap().condition = Condition::Dead;
    let published = plan(Some(&start), &servers, ROWS, 1_000, epoch(2), &Limits::default()).unwrap();
    servers.values_mut().skip(1).for_each(|server| server.acknowledged = Some(epoch(2)));
    let done = plan(Some(&published), &servers, ROWS, 1_000, epoch(3), &Limits::default()).unwrap();
    assert!(rows_of(&done, 1).is_empty() && done.publishing.is_none());
}

#[test]
fn most_of_a_site_is_never_dead_at_once() {
    for count in 2_u16..40 {
        let joined: BTreeSet<u16> = (1..=count).collect();
        for silent in 1..=count {
            let silence = |number| Duration::from_secs(if number <= silent { 12 } else { 1 });
            let verdict = liveness::judge(&joined.iter().map(|number| (*number, silence(*number))).collect());
            assert_eq!(verdict.dead.is_empty(), silent > 1 && silent * 2 > count, "{silent} of {count}");
        }
    }
}

const ROWS: usize = 1_024;
/// Outside the landing server: the current owner, two before it, and the one to come.
const HOPS_MAX: usize = 4;

#[test]
fn rows_of_a_dead_server_go_to_those_that_stood_in_for_it() {
    let mut servers = fleet(&[1_000_000; 5]);
    let start = first(&servers);
    servers.get_mut(&2).unwrap().condition = Condition::Dead;
    let tables = to_rest(&start, &servers, 1_000);
    let left = tables.last().unwrap();
    let owner = |index: usize| start.rows[index].row.current;
    let fallback = |index: usize| trunkline_steer::fallback(index, ROWS, owner)[0];
    let lost = rows_of(&start, 2);
    let stayed = lost.iter().filter(|index| left.rows[**index].row.current == fallback(**index)).count();
    assert!(stayed * 100 >= lost.len() * 95, "{stayed} of {} rows", lost.len());
}
