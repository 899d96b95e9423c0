//! Properties of steering tables: what moves, how much, and that flows keep their owner meanwhile.

mod site;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use trunkline_fleet::table::{Limits, SiteTable, quotas, weight_micro};
use trunkline_fleet::{Condition, Epoch};

use crate::site::{Change, ROWS, Site, changes, counts, owners};

/// Rows that any table must move to give every server its quota.
fn floor(before: &SiteTable, quotas: &BTreeMap<u16, u32>) -> u32 {
    let counts = counts(before);
    quotas.iter().map(|(server, quota)| quota.saturating_sub(counts.get(server).copied().unwrap_or(0))).sum()
}

fn moved(before: &SiteTable, after: &SiteTable) -> u32 {
    let pairs = owners(before).into_iter().zip(owners(after));
    u32::try_from(pairs.filter(|(a, b)| a != b).count()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_weight_change_moves_no_more_rows_than_the_floor_and_ends_within_the_dead_band(
        weights in proptest::collection::vec(1_u32..=100, 2..8),
        (victim, weight) in (0_usize..8, 1_u32..=200),
    ) {
        let mut site = Site::of(weights.iter().map(|weight| f64::from(*weight)));
        site.settle();
        let before = site.table.clone().unwrap();
        let server = u16::try_from(victim % weights.len() + 1).unwrap();
        site.servers.get_mut(&server).unwrap().weight_micro = weight_micro(f64::from(weight)).unwrap();
        site.settle();
        let after = site.table.clone().unwrap();
        let wanted = quotas(&site.weights(), ROWS);
        prop_assert!(moved(&before, &after) <= floor(&before, &wanted));
        let counts = counts(&after);
        for (server, quota) in &wanted {
            let count = counts.get(server).copied().unwrap_or(0);
            prop_assert!(count.abs_diff(*quota) <= (quota / 100).max(1), "server {server}: {count} of {quota}");
        }
    }

    #[test]
    fn a_small_weight_change_moves_nothing(weights in proptest::collection::vec(50_u32..=100, 2..6)) {
        let mut site = Site::of(weights.iter().map(|weight| f64::from(*weight)));
        site.settle();
        let before = site.table.clone();
        let first = site.servers.get_mut(&1).unwrap();
        first.weight_micro += first.weight_micro / 300;
        site.settle();
        prop_assert_eq!(before, site.table);
    }

    #[test]
    fn a_server_that_goes_moves_exactly_its_rows(
        weights in proptest::collection::vec(1_u32..=100, 2..8),
        victim in 0_usize..8,
        how in 0_u8..3,
    ) {
        let mut site = Site::of(weights.iter().map(|weight| f64::from(*weight)));
        site.settle();
        let before = owners(site.table.as_ref().unwrap());
        let victim = u16::try_from(victim % weights.len() + 1).unwrap();
        match how {
            0 => drop(site.servers.remove(&victim)),
            1 => site.servers.get_mut(&victim).unwrap().condition = Condition::Dead,
            _ => site.servers.get_mut(&victim).unwrap().condition = Condition::Draining,
        }
        prop_assert!(site.plan());
        let table = site.table.clone().unwrap();
        for (planned, owner) in table.rows.iter().zip(&before) {
            prop_assert_eq!(planned.row.next != 0, *owner == victim);
        }
        site.acknowledge_all();
        prop_assert!(site.plan());
        for (now, before) in owners(site.table.as_ref().unwrap()).into_iter().zip(before) {
            prop_assert_eq!(now == before, before != victim);
            prop_assert_ne!(now, victim);
        }
    }

    /// Any changes, several at once, with servers that hang and others that are one phase behind: the owner of a
    /// flow is in the chain of every server's row, for as long as the row moved at most twice since the flow began.
    #[test]
    fn the_owner_of_a_live_flow_is_in_every_chain_one_phase_apart(
        script in proptest::collection::vec(changes(), 1..40),
        servers in 2_usize..6,
    ) {
        let mut site = Site::of((0..servers).map(|_| 1.0));
        site.settle();
        site.begin_flows();
        for step in script {
            site.change(step);
            site.plan();
            site.check_flows(2)?;
            site.begin_flows();
        }
    }

    #[test]
    fn a_server_that_is_added_one_that_drains_and_one_that_dies_at_once_cut_no_flow_off(
        servers in 3_usize..8,
        acknowledged in any::<bool>(),
    ) {
        let mut site = Site::of((0..servers).map(|_| 1.0));
        site.settle();
        site.begin_flows();
        site.change(Change::Add);
        site.change(Change::Drain(0));
        site.change(Change::Kill(1));
        for _ in 0..60 {
            if acknowledged {
                site.acknowledge_all();
            }
            site.change(Change::Wait(1));
            site.plan();
            site.check_flows(9)?;
        }
        let gone = [1_u16, 2];
        prop_assert!(owners(site.table.as_ref().unwrap()).iter().all(|owner| !gone.contains(owner)));
    }

    /// Moves for balance never push an owner off a chain that has flows on the row.
    #[test]
    fn weights_that_change_for_ever_cut_no_reported_flow_off(
        weights in proptest::collection::vec((0_u16..5, 1_u32..=50), 1..60),
    ) {
        let mut site = Site::of((0..5).map(|_| 1.0));
        site.settle();
        site.begin_flows();
        for (server, weight) in weights {
            site.change(Change::Weight(server, weight));
            for _ in 0..8 {
                site.change(Change::Wait(40));
                site.report_flows();
                site.acknowledge_all();
                site.plan();
                site.check_flows(usize::MAX)?;
            }
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_table_whatever_the_order_in_which_servers_were_added(
        script in proptest::collection::vec(changes(), 1..20),
    ) {
        let mut one = Site::of([1.0, 2.0, 3.0]);
        let mut other = Site::of([1.0, 2.0, 3.0]);
        for step in script {
            one.change(step.clone());
            other.change(step);
            // The same map, filled the other way round.
            other.servers = std::mem::take(&mut other.servers).into_iter().rev().collect();
            prop_assert_eq!(one.plan(), other.plan());
            prop_assert_eq!(&one.table, &other.table);
        }
    }
}

#[test]
fn a_hung_server_delays_a_plan_for_five_seconds_and_no_longer() {
    let mut site = Site::of([1.0, 1.0, 1.0]);
    site.settle();
    site.change(Change::Drain(0));
    assert!(site.plan());
    site.change(Change::Wait(4));
    site.acknowledge_but(3);
    assert!(!site.plan(), "the third has not acknowledged");
    site.change(Change::Wait(1));
    assert!(site.plan() && site.table.as_ref().unwrap().publishing.is_none());
}

#[test]
fn a_dead_server_s_acknowledgement_is_not_waited_for() {
    let mut site = Site::of([1.0, 1.0, 1.0]);
    site.settle();
    site.servers.get_mut(&3).unwrap().condition = Condition::Dead;
    assert!(site.plan());
    site.acknowledge_but(3);
    assert!(site.plan() && site.table.as_ref().unwrap().publishing.is_none());
}

#[test]
fn a_clock_that_is_put_back_ends_the_wait() {
    let mut site = Site::of([1.0, 1.0]);
    site.settle();
    site.change(Change::Drain(0));
    assert!(site.plan());
    site.now_unix_s -= 600;
    assert!(site.plan() && site.table.as_ref().unwrap().publishing.is_none());
}

#[test]
fn nothing_moves_when_nobody_is_left_to_take_it() {
    let mut site = Site::of([1.0, 1.0]);
    site.settle();
    let before = site.table.clone();
    site.servers.get_mut(&1).unwrap().condition = Condition::Draining;
    site.servers.get_mut(&2).unwrap().condition = Condition::Dead;
    assert!(!site.plan());
    assert_eq!(before, site.table);
}

#[test]
fn a_site_that_fell_silent_together_keeps_its_rows_and_its_drained_server_moves_to_the_rest() {
    let mut site = Site::of([1.0; 5]);
    site.settle();
    for server in [1, 2, 3] {
        site.servers.get_mut(&server).unwrap().condition = Condition::Silent;
    }
    assert!(!site.plan(), "nothing moves");
    site.change(Change::Drain(3));
    site.settle();
    let owners = owners(site.table.as_ref().unwrap());
    assert!(!owners.contains(&4));
    let of = |server: u16| owners.iter().filter(|owner| **owner == server).count();
    assert!([1, 2, 3].into_iter().all(|server| of(server).abs_diff(ROWS / 5) <= 1), "{owners:?}");
    assert!(of(5).abs_diff(2 * ROWS / 5) <= 2);
}

#[test]
fn a_server_that_falls_away_in_the_first_phase_gets_no_row_in_the_second() {
    let mut site = Site::of([1.0, 1.0, 1.0]);
    site.settle();
    site.change(Change::Drain(0));
    assert!(site.plan());
    site.servers.get_mut(&2).unwrap().condition = Condition::Dead;
    site.acknowledge_all();
    let before = owners(site.table.as_ref().unwrap());
    assert!(site.plan());
    let after = owners(site.table.as_ref().unwrap());
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == 3));
    site.settle();
    assert_eq!(owners(site.table.as_ref().unwrap()).into_iter().collect::<BTreeSet<_>>(), [3].into());
}

#[test]
fn moves_for_balance_are_bounded_and_leave_rows_alone_that_moved_of_late() {
    let mut site = Site::of([1.0, 1.0]);
    site.settle();
    site.change(Change::Weight(0, 3));
    assert!(site.plan());
    let rows_max = ROWS / Limits::default().optional_divisor;
    let publishing =
        |site: &Site| site.table.as_ref().unwrap().rows.iter().filter(|row| row.row.next != 0).count();
    assert_eq!(publishing(&site), rows_max);
    site.acknowledge_all();
    assert!(site.plan());
    // Back again: what just moved is held, so only rows that never moved do.
    site.change(Change::Weight(0, 1));
    site.change(Change::Weight(1, 9));
    assert!(site.plan());
    let table = site.table.as_ref().unwrap();
    let moving = || table.rows.iter().filter(|planned| planned.row.next != 0);
    assert!(moving().count() > 0 && moving().all(|planned| planned.moved_unix_s == 0));
}

#[test]
fn weights_that_are_none_are_refused_by_name() {
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1_000.5] {
        assert!(weight_micro(weight).unwrap_err().starts_with("weight: "), "{weight}");
    }
    assert_eq!(
        (weight_micro(1e-9), weight_micro(1.0), weight_micro(1_000.0)),
        (Ok(1), Ok(1_000_000), Ok(1_000_000_000))
    );
}

#[test]
fn epochs_are_ordered_by_generation_first() {
    let epoch = |generation, counter| Epoch { generation, counter };
    assert!(epoch(1, 900) < epoch(2, 1) && epoch(2, 1) < epoch(2, 2));
}
