//! A small fleet with everything that can happen to it, one event at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use trunkline_fleet::Epoch;
use trunkline_fleet::slices::{self, SliceLease, SliceMember, SliceState, Slices};
use trunkline_wire::NodeId;

/// The one shared relay address.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A planner, so that a broken one can be put in its place.
pub type Planner = fn(&Slices, &BTreeMap<NodeId, SliceMember>, u64, Epoch) -> Slices;

/// What the world around the planner does.
#[derive(Clone, Copy)]
pub struct Rules {
    pub planner: Planner,
    /// Whether the control plane notices by itself that its store was restored, before any server tells it.
    pub notices_restores: bool,
}

/// What a configuration gives one server: state and lease by index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Config {
    epoch: Epoch,
    slices: BTreeMap<u8, (bool, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Report {
    epoch: Option<Epoch>,
    claims: BTreeMap<u8, u64>,
    is_busy: bool,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Server {
    is_up: bool,
    is_cut_off: bool,
    is_busy: bool,
    /// On disk, and in force while it is up.
    config: Option<Config>,
    /// Slices in which an allocation lives.
    allocations: BTreeSet<u8>,
    /// On their way; a partition delays them.
    config_sent: Option<Config>,
    report_sent: Option<Report>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    is_drained: bool,
    report: Option<Report>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Store {
    epoch: Epoch,
    /// State, owner, lease, since, whether it still rests.
    slices: BTreeMap<u8, Kept>,
    members: BTreeMap<u16, Member>,
    was_restored: bool,
    /// Members that reported since the store is what it is.
    heard: BTreeSet<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kept {
    state: u8,
    owner: u16,
    lease: u64,
    since: Epoch,
    rests: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    servers: BTreeMap<u16, Server>,
    store: Store,
    snapshot: Option<Store>,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Plan,
    QuarantineEnds,
    Snapshot,
    Restore,
    SendConfig(u16),
    TakeConfig(u16),
    SendReport(u16),
    TakeReport(u16),
    Partition(u16),
    Heal(u16),
    Crash(u16),
    Restart(u16),
    Drain(u16),
    Undrain(u16),
    Destroy(u16),
    Busy(u16),
    Allocate(u16, u8),
    Deallocate(u16, u8),
}

impl World {
    /// Servers that have joined, and slices that are all free.
    pub fn new(servers: u16, slices: u8) -> Self {
        let server = Server { is_up: true, ..Server::default() };
        let joined = Member { report: Some(Report::default()), ..Member::default() };
        let free = Kept { state: 0, owner: 0, lease: 0, since: Epoch::default(), rests: false };
        let store = Store {
            epoch: Epoch { generation: 1, counter: 0 },
            slices: (slices::SLICE_MIN..slices::SLICE_MIN + slices).map(|index| (index, free)).collect(),
            members: (1..=servers).map(|number| (number, joined.clone())).collect(),
            was_restored: false,
            heard: BTreeSet::new(),
        };
        let servers = (1..=servers).map(|number| (number, server.clone())).collect();
        Self { servers, store, snapshot: None }
    }

    /// Everything that can happen now.
    pub fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::Plan, Event::QuarantineEnds, Event::Snapshot, Event::Restore];
        for number in self.servers.keys().copied() {
            events.extend([
                Event::SendConfig(number),
                Event::TakeConfig(number),
                Event::SendReport(number),
                Event::TakeReport(number),
                Event::Partition(number),
                Event::Heal(number),
                Event::Crash(number),
                Event::Restart(number),
                Event::Drain(number),
                Event::Undrain(number),
                Event::Destroy(number),
                Event::Busy(number),
            ]);
            for index in self.store.slices.keys().copied() {
                events.extend([Event::Allocate(number, index), Event::Deallocate(number, index)]);
            }
        }
        events
    }

    /// The world after the event; `None` where it cannot happen or changes nothing.
    pub fn after(&self, event: Event, rules: Rules) -> Option<Self> {
        let mut next = self.clone();
        match event {
            Event::Plan => next.store.plan(rules),
            Event::QuarantineEnds => next.store.slices.values_mut().for_each(|slice| slice.rests = false),
            Event::Snapshot => next.snapshot = Some(self.store.clone()),
            Event::Restore => {
                next.store = self.snapshot.clone()?;
                next.store.was_restored = true;
                next.store.heard.clear();
            }
            Event::SendConfig(number) => next.send_config(number)?,
            Event::TakeReport(number) => next.take_report(number)?,
            Event::Drain(number) => next.store.members.get_mut(&number)?.is_drained = true,
            Event::Undrain(number) => next.store.members.get_mut(&number)?.is_drained = false,
            Event::Destroy(number) => {
                next.servers.remove(&number);
                next.store.members.remove(&number);
            }
            Event::TakeConfig(number)
            | Event::SendReport(number)
            | Event::Partition(number)
            | Event::Heal(number)
            | Event::Crash(number)
            | Event::Restart(number)
            | Event::Busy(number)
            | Event::Allocate(number, _)
            | Event::Deallocate(number, _) => next.servers.get_mut(&number)?.happens(event)?,
        }
        (next != *self).then_some(next)
    }

    /// A slice that two servers use.
    pub fn used_twice(&self) -> Option<u8> {
        let mut used = BTreeSet::new();
        self.servers
            .values()
            .flat_map(Server::uses)
            .map(|(index, _)| index)
            .find(|index| !used.insert(*index))
    }

    /// What the store gives a server, unless the server must be heard first.
    fn send_config(&mut self, number: u16) -> Option<()> {
        let server = self.servers.get_mut(&number).filter(|server| server.is_up && !server.is_cut_off)?;
        let store = &self.store;
        store.members.get(&number)?;
        let applied = server.config.as_ref().map(|config| config.epoch);
        let is_behind = applied.is_some_and(|epoch| epoch.generation < store.epoch.generation);
        if is_behind && !store.knows(number, &server.uses().collect()) {
            return None;
        }
        let ours = store.slices.iter().filter(|(_, kept)| kept.owner == number);
        let slices = ours.map(|(index, kept)| (*index, (kept.state == DRAINING, kept.lease))).collect();
        server.config_sent = Some(Config { epoch: store.epoch, slices });
        Some(())
    }

    fn take_report(&mut self, number: u16) -> Option<()> {
        let server = self.servers.get_mut(&number).filter(|server| !server.is_cut_off)?;
        let report = server.report_sent.take()?;
        self.store.members.get_mut(&number)?.report = Some(report);
        self.store.heard.insert(number);
        Some(())
    }
}

impl Server {
    /// Index and lease of what it uses.
    fn uses(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        let config = self.config.iter().filter(|_| self.is_up);
        let used = config.flat_map(|config| &config.slices);
        used.filter(|(index, (drains, _))| !drains || self.allocations.contains(index))
            .map(|(index, (_, lease))| (*index, *lease))
    }

    fn happens(&mut self, event: Event) -> Option<()> {
        match event {
            Event::Restart(_) => self.is_up = true,
            Event::Crash(_) => {
                let disk = self.config.take();
                *self = Self { config: disk, is_cut_off: self.is_cut_off, ..Self::default() };
            }
            Event::Partition(_) => self.is_cut_off = true,
            Event::Heal(_) => self.is_cut_off = false,
            _ if !self.is_up => return None,
            Event::Busy(_) => self.is_busy = !self.is_busy,
            Event::TakeConfig(_) => self.take_config()?,
            Event::SendReport(_) => {
                let claims = self.uses().collect();
                let epoch = self.config.as_ref().map(|config| config.epoch);
                self.report_sent = Some(Report { epoch, claims, is_busy: self.is_busy });
            }
            Event::Allocate(_, index) => {
                let (drains, _) = self.config.as_ref()?.slices.get(&index)?;
                (!drains && self.allocations.insert(index)).then_some(())?;
            }
            Event::Deallocate(_, index) => self.allocations.remove(&index).then_some(())?,
            _ => return None,
        }
        Some(())
    }

    /// Never an epoch that is not greater. Allocations end with their slice, or when its lease is another.
    fn take_config(&mut self) -> Option<()> {
        let config = self.config_sent.take().filter(|_| !self.is_cut_off)?;
        if self.config.as_ref().is_some_and(|applied| config.epoch <= applied.epoch) {
            return Some(());
        }
        let before: BTreeMap<u8, u64> = self.uses().collect();
        let same = |index: &u8| config.slices.get(index).map(|(_, lease)| lease) == before.get(index);
        self.allocations.retain(same);
        self.config = Some(config);
        Some(())
    }
}

impl Store {
    /// One step of the leader: a generation, or a plan.
    fn plan(&mut self, rules: Rules) {
        let reported = self.members.values().filter_map(|member| member.report.as_ref()?.epoch).max();
        let is_older = reported.is_some_and(|epoch| epoch > self.epoch);
        if is_older || (self.was_restored && rules.notices_restores) {
            let generation = reported.map_or(0, |epoch| epoch.generation).max(self.epoch.generation) + 1;
            self.epoch = Epoch { generation, counter: self.epoch.counter + 1 };
            let doubted = slices::after_restore(&self.slices(), &self.plan_members(), NOW, self.epoch);
            self.put(&doubted);
            self.was_restored = false;
            return;
        }
        let next_epoch = Epoch { counter: self.epoch.counter + 1, ..self.epoch };
        let changed = (rules.planner)(&self.slices(), &self.plan_members(), NOW, next_epoch);
        let before = self.slices.clone();
        self.put(&changed);
        if self.slices != before {
            self.epoch = next_epoch;
        }
    }

    fn plan_members(&self) -> BTreeMap<NodeId, SliceMember> {
        let member = |(number, member): (&u16, &Member)| {
            let report = member.report.clone().unwrap_or_default();
            let planned = SliceMember {
                can_take: !member.is_drained,
                is_drained: member.is_drained,
                is_heard: self.heard.contains(number),
                relay_addresses: BTreeSet::from([ADDRESS]),
                reported: report.epoch.or(Some(Epoch::default())),
                claims: report.claims.iter().map(|(index, lease)| ((ADDRESS, *index), *lease)).collect(),
                ports_in_use_permille: if report.is_busy { 800 } else { 0 },
            };
            (node(*number), planned)
        };
        self.members.iter().map(member).collect()
    }

    /// The rule of a replica for a server that knows an older generation: what it uses is known here.
    fn knows(&self, number: u16, claims: &BTreeMap<u8, u64>) -> bool {
        claims.iter().all(|(index, lease)| {
            let kept = self.slices.get(index);
            kept.is_some_and(|kept| kept.lease > *lease || (kept.lease == *lease && kept.owner == number))
        })
    }

    fn slices(&self) -> Slices {
        let lease = |kept: &Kept| SliceLease {
            state: STATES[usize::from(kept.state)],
            owner: (kept.owner != 0).then(|| node(kept.owner)),
            lease: kept.lease,
            since: kept.since,
            until_unix_s: if kept.rests { NOW + slices::QUARANTINE_S } else { NOW },
        };
        BTreeMap::from([(ADDRESS, self.slices.iter().map(|(index, kept)| (*index, lease(kept))).collect())])
    }

    fn put(&mut self, slices: &Slices) {
        for (index, lease) in slices.get(&ADDRESS).into_iter().flatten() {
            let state = STATES.iter().position(|state| *state == lease.state).unwrap();
            let kept = Kept {
                state: u8::try_from(state).unwrap(),
                owner: lease.owner.map_or(0, |owner| owner.server),
                lease: lease.lease,
                since: lease.since,
                rests: lease.state == SliceState::Quarantine && lease.until_unix_s > NOW,
            };
            // The other slices of the address take no part.
            self.slices.entry(*index).and_modify(|place| *place = kept);
        }
    }
}

fn node(server: u16) -> NodeId {
    NodeId { site: 1, server }
}

/// The clock stands still; what passes is whether a quarantine has ended. That keeps equal worlds equal.
const NOW: u64 = 1_000;
const DRAINING: u8 = 2;
const STATES: [SliceState; 4] =
    [SliceState::Free, SliceState::Owned, SliceState::Draining, SliceState::Quarantine];
