//! A site under plans: its servers, its table as it was and is, and flows that live on its rows.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use trunkline_fleet::table::{Limits, Server, SiteTable, plan};
use trunkline_fleet::{Condition, Epoch};

/// The smallest table there is.
pub const ROWS: usize = 1_024;

/// What may happen to a site. Servers are named by their place in the map.
#[derive(Clone, Debug)]
pub enum Change {
    Add,
    Drain(u16),
    Undrain(u16),
    Kill(u16),
    Remove(u16),
    Weight(u16, u32),
    Wait(u64),
    Acknowledge,
}

pub fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => Just(Change::Add),
        2 => (0_u16..8).prop_map(Change::Drain),
        2 => (0_u16..8).prop_map(Change::Undrain),
        1 => (0_u16..8).prop_map(Change::Kill),
        1 => (0_u16..8).prop_map(Change::Remove),
        2 => (0_u16..8, 1_u32..20).prop_map(|(server, weight)| Change::Weight(server, weight)),
        4 => (1_u64..60).prop_map(Change::Wait),
        6 => Just(Change::Acknowledge),
    ]
}

/// A flow, and how often its row has moved since it began.
struct Flow {
    row: usize,
    owner: u16,
    moves: usize,
}

pub struct Site {
    pub servers: BTreeMap<u16, Server>,
    pub table: Option<SiteTable>,
    /// One epoch older: what servers may still have.
    before: Option<SiteTable>,
    pub now_unix_s: u64,
    counter: u64,
    flows: Vec<Flow>,
}

impl Site {
    pub fn of(weights: impl IntoIterator<Item = f64>) -> Self {
        let servers = (1..).zip(weights).map(|(number, weight)| (number, server(weight))).collect();
        Self { servers, table: None, before: None, now_unix_s: 1_000_000, counter: 1, flows: vec![] }
    }

    /// One plan; true when it changed the table.
    pub fn plan(&mut self) -> bool {
        let next_epoch = Epoch { generation: 1, counter: self.counter + 1 };
        let limits = Limits::default();
        let next = plan(self.table.as_ref(), &self.servers, ROWS, self.now_unix_s, next_epoch, &limits);
        let Some(next) = next else { return false };
        self.counter += 1;
        self.before = self.table.replace(next);
        let (Some(before), Some(after)) = (&self.before, &self.table) else { return true };
        for flow in &mut self.flows {
            let has_moved = before.rows[flow.row].row.current != after.rows[flow.row].row.current;
            flow.moves += usize::from(has_moved);
        }
        true
    }

    /// Plans until nothing changes, with everybody acknowledging and time for every hold to end.
    pub fn settle(&mut self) {
        for _ in 0..1_000 {
            self.acknowledge_all();
            self.now_unix_s += 60;
            if !self.plan() {
                return;
            }
        }
        panic!("the table never comes to rest");
    }

    pub fn acknowledge_all(&mut self) {
        self.acknowledge_but(u16::MAX);
    }

    pub fn acknowledge_but(&mut self, hung: u16) {
        let epoch = Epoch { generation: 1, counter: self.counter };
        for (_, server) in self.servers.iter_mut().filter(|(number, _)| **number != hung) {
            server.acknowledged = Some(epoch);
        }
    }

    pub fn change(&mut self, change: Change) {
        let keys: Vec<u16> = self.servers.keys().copied().collect();
        let pick = |place: u16| keys.get(usize::from(place) % keys.len().max(1)).copied().unwrap_or(0);
        match change {
            Change::Add => {
                let number = keys.last().map_or(1, |last| last + 1);
                self.servers.insert(number, server(1.0));
            }
            Change::Drain(place) => self.set(pick(place), Condition::Live, Condition::Draining),
            Change::Undrain(place) => self.set(pick(place), Condition::Draining, Condition::Live),
            Change::Kill(place) => self.kill(pick(place)),
            Change::Remove(place) => {
                let is_dead = |server: &Server| server.condition == Condition::Dead;
                if self.servers.get(&pick(place)).is_some_and(is_dead) {
                    self.servers.remove(&pick(place));
                }
            }
            Change::Weight(place, weight) => {
                if let Some(server) = self.servers.get_mut(&pick(place)) {
                    server.weight_micro = u64::from(weight) * 1_000_000;
                }
            }
            Change::Wait(s) => self.now_unix_s += s,
            Change::Acknowledge => self.acknowledge_all(),
        }
    }

    fn set(&mut self, number: u16, from: Condition, to: Condition) {
        if let Some(server) = self.servers.get_mut(&number).filter(|server| server.condition == from) {
            server.condition = to;
        }
    }

    fn kill(&mut self, number: u16) {
        if let Some(server) = self.servers.get_mut(&number) {
            server.condition = Condition::Dead;
        }
        self.flows.retain(|flow| flow.owner != number);
    }

    /// A flow on every row, at a server that has the newest table and at one that is one epoch behind.
    pub fn begin_flows(&mut self) {
        for table in [&self.before, &self.table].into_iter().flatten() {
            for (row, planned) in table.rows.iter().enumerate() {
                let owner = planned.row.current;
                let serves =
                    self.servers.get(&owner).is_some_and(|server| server.condition != Condition::Dead);
                let newest = self.table.as_ref().map(|table| table.rows[row].row.current);
                let is_known = self
                    .flows
                    .iter()
                    .rev()
                    .take(2 * ROWS)
                    .any(|flow| flow.row == row && flow.owner == owner && flow.moves == 0);
                if serves && !is_known {
                    // One that began under the older table has seen the row's last move already.
                    self.flows.push(Flow { row, owner, moves: usize::from(newest != Some(owner)) });
                }
            }
        }
        // Enough to find what is wrong, few enough to be quick.
        let surplus = self.flows.len().saturating_sub(8 * ROWS);
        self.flows.drain(..surplus);
    }

    /// Servers say how many flows they have on each row.
    pub fn report_flows(&mut self) {
        self.servers.values_mut().for_each(|server| server.row_flows.clear());
        for flow in &self.flows {
            if let (Some(server), Ok(row)) = (self.servers.get_mut(&flow.owner), u32::try_from(flow.row)) {
                *server.row_flows.entry(row).or_default() += 1;
            }
        }
    }

    /// Whatever server a packet lands on, old table or new, the flow's owner is one of the hops.
    pub fn check_flows(&self, moves_max: usize) -> Result<(), TestCaseError> {
        for flow in self.flows.iter().filter(|flow| flow.moves <= moves_max) {
            for table in [&self.before, &self.table].into_iter().flatten() {
                let row = table.rows[flow.row].row;
                let is_hop = row.chain().hops().any(|hop| hop == flow.owner);
                prop_assert!(is_hop, "row {}: {} is not in {row:?}", flow.row, flow.owner);
                prop_assert!(row.chain().hops().count() <= 4);
            }
        }
        Ok(())
    }

    pub fn weights(&self) -> BTreeMap<u16, u64> {
        self.servers.iter().map(|(number, server)| (*number, server.weight_micro)).collect()
    }
}

pub fn owners(table: &SiteTable) -> Vec<u16> {
    table.rows.iter().map(|planned| planned.row.current).collect()
}

pub fn counts(table: &SiteTable) -> BTreeMap<u16, u32> {
    let mut counts = BTreeMap::new();
    for owner in owners(table) {
        *counts.entry(owner).or_default() += 1;
    }
    counts
}

fn server(weight: f64) -> Server {
    let weight_micro = trunkline_fleet::table::weight_micro(weight).unwrap();
    Server { condition: Condition::Live, weight_micro, acknowledged: None, row_flows: BTreeMap::new() }
}
