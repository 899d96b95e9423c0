//! A small world that can be explored: servers with disks, a store with a snapshot, a planner, and what may happen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use trunkline_fleet::Epoch;
use trunkline_fleet::slices::{
    QUARANTINE_S, SLICE_MAX, SLICE_MIN, SliceLease, SliceMember, SliceState, Slices, after_restore, plan,
};
use trunkline_wire::NodeId;

/// The slices of one relay address that take part; the others are a bystander's.
type Table = BTreeMap<u8, SliceLease>;

/// What a server was told: its own slices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    epoch: Epoch,
    /// State and lease of each slice that is its.
    own: BTreeMap<u8, (SliceState, u64)>,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Server {
    /// Its process runs, with this configuration.
    running: Option<Configuration>,
    /// What a new process starts with.
    disk: Option<Configuration>,
    is_up: bool,
    is_cut_off: bool,
    is_busy: bool,
    /// Slices with live allocations.
    in_use: BTreeSet<u8>,
}

/// What the store says of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    is_drained: bool,
    is_busy: bool,
    reported: Option<Epoch>,
    claims: BTreeMap<u8, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Store {
    epoch: Epoch,
    slices: Table,
    members: BTreeMap<u16, Member>,
}

/// What may happen next. Servers by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Plan,
    Deliver(u16),
    /// From a replica that does not see the store any more.
    DeliverOld(u16),
    /// That replica sees it again.
    CatchUp,
    Report(u16),
    CutOff(u16),
    Heal(u16),
    Crash(u16),
    Restart(u16),
    Allocate(u16),
    Empty(u16),
    Busy(u16),
    Idle(u16),
    Drain(u16),
    Undrain(u16),
    /// The machine is lost with its disk, and an operator says so.
    ConfirmGone(u16),
    /// A new machine under the same name.
    Replace(u16),
    ChangeLeader,
    Snapshot,
    Restore,
    Rest,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    servers: BTreeMap<u16, Server>,
    store: Store,
    snapshot: Option<Box<Store>>,
    /// Replicas lose sight of the store, and go on telling what they know.
    has_lagging_replicas: bool,
    lagging: Option<Box<Store>>,
    /// Members that reported since the present leader leads.
    heard: BTreeSet<u16>,
    /// The store is another one than before, as every replica sees: the generation rises before anything else.
    is_restored: bool,
    restores_left: u8,
    now_unix_s: u64,
}

impl World {
    pub fn new(servers: u16, slices: u8, restores: u8) -> Self {
        let members = (1..=servers).map(|number| (number, Member::default())).collect();
        let epoch = Epoch { generation: 1, counter: 1 };
        let free = SliceLease { since: epoch, ..SliceLease::default() };
        let table = (SLICE_MIN..SLICE_MIN + slices).map(|index| (index, free)).collect();
        Self {
            servers: (1..=servers)
                .map(|number| (number, Server { is_up: true, ..Server::default() }))
                .collect(),
            store: Store { epoch, slices: table, members },
            snapshot: None,
            has_lagging_replicas: false,
            lagging: None,
            heard: BTreeSet::new(),
            is_restored: false,
            restores_left: restores,
            now_unix_s: 1_000,
        }
    }

    pub fn with_lagging_replicas(self) -> Self {
        Self { has_lagging_replicas: true, ..self }
    }

    /// What can happen in this world.
    pub fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::Plan, Event::ChangeLeader, Event::Rest];
        if self.has_lagging_replicas {
            events.push(Event::CatchUp);
        }
        if self.restores_left > 0 {
            events.push(if self.snapshot.is_some() { Event::Restore } else { Event::Snapshot });
        }
        for (number, server) in &self.servers {
            let number = *number;
            let is_member = self.store.members.contains_key(&number);
            if server.is_up {
                events.extend([Event::Crash(number), Event::Allocate(number), Event::Empty(number)]);
                events.push(if server.is_busy { Event::Idle(number) } else { Event::Busy(number) });
                if !server.is_cut_off && is_member {
                    events.extend(self.events_of_a_session(number));
                }
            } else if server.disk.is_some() || is_member {
                events.push(Event::Restart(number));
            }
            events.push(if server.is_cut_off { Event::Heal(number) } else { Event::CutOff(number) });
            if self.is_restored {
                continue;
            }
            match self.store.members.get(&number) {
                Some(member) if member.is_drained => events.push(Event::Undrain(number)),
                Some(_) => events.extend([Event::Drain(number), Event::ConfirmGone(number)]),
                None => events.push(Event::Replace(number)),
            }
        }
        events
    }

    fn events_of_a_session(&self, number: u16) -> Vec<Event> {
        let mut events = vec![Event::Report(number)];
        if !self.is_restored {
            events.push(Event::Deliver(number));
        }
        if self.has_lagging_replicas {
            events.push(Event::DeliverOld(number));
        }
        events
    }

    /// What happens.
    ///
    /// # Errors
    /// In words: what must never happen did.
    pub fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Plan => self.plan(),
            Event::Deliver(number) => {
                let store = self.store.clone();
                if let Some(lost) = self.deliver(number, &store).filter(|_| !self.has_lagging_replicas) {
                    return Err(format!("server {number} is told to cut off what lives in slices {lost:?}"));
                }
            }
            Event::DeliverOld(number) => {
                let Some(store) = self.lagging.clone() else { return Ok(()) };
                // A server without any configuration gets none from a replica that does not see the store.
                if self.server(number).running.is_some() {
                    // After a restore it may say what nobody knows any more, and so cut something off later.
                    drop(self.deliver(number, &store));
                }
            }
            Event::CatchUp => self.lagging = Some(Box::new(self.store.clone())),
            Event::Report(number) => self.report(number),
            Event::ChangeLeader => self.heard.clear(),
            Event::Snapshot => self.snapshot = Some(Box::new(self.store.clone())),
            Event::Restore => self.restore(),
            Event::Rest => self.now_unix_s += QUARANTINE_S,
            Event::Drain(number) => self.set_draining(number, true),
            Event::Undrain(number) => self.set_draining(number, false),
            Event::ConfirmGone(number) => self.confirm_gone(number),
            Event::Replace(number) => {
                self.store.members.insert(number, Member::default());
                *self.server(number) = Server { is_up: true, ..Server::default() };
                self.next_epoch();
            }
            Event::CutOff(_)
            | Event::Heal(_)
            | Event::Crash(_)
            | Event::Restart(_)
            | Event::Allocate(_)
            | Event::Empty(_)
            | Event::Busy(_)
            | Event::Idle(_) => self.happen_to_a_machine(event),
        }
        self.check()
    }

    fn happen_to_a_machine(&mut self, event: Event) {
        match event {
            Event::CutOff(number) => self.server(number).is_cut_off = true,
            Event::Heal(number) => self.server(number).is_cut_off = false,
            Event::Crash(number) => {
                let server = self.server(number);
                (server.is_up, server.running) = (false, None);
                server.in_use.clear();
            }
            Event::Restart(number) => {
                let server = self.server(number);
                (server.is_up, server.running) = (true, server.disk.clone());
            }
            Event::Allocate(number) => {
                let server = self.server(number);
                let own = server.running.iter().flat_map(|configuration| &configuration.own);
                let owned =
                    own.filter(|(_, (state, _))| *state == SliceState::Owned).map(|(index, _)| *index);
                let owned: Vec<u8> = owned.filter(|index| !server.in_use.contains(index)).take(1).collect();
                server.in_use.extend(owned);
            }
            Event::Empty(number) => drop(self.server(number).in_use.pop_first()),
            Event::Busy(number) => self.server(number).is_busy = true,
            Event::Idle(number) => self.server(number).is_busy = false,
            _ => {}
        }
    }

    fn server(&mut self, number: u16) -> &mut Server {
        self.servers.get_mut(&number).unwrap()
    }

    fn next_epoch(&mut self) {
        self.store.epoch.counter += 1;
    }

    fn set_draining(&mut self, number: u16, is_drained: bool) {
        self.store.members.get_mut(&number).unwrap().is_drained = is_drained;
        self.next_epoch();
    }

    fn confirm_gone(&mut self, number: u16) {
        *self.server(number) = Server::default();
        self.store.members.remove(&number);
        self.heard.remove(&number);
        self.next_epoch();
    }

    /// Servers that were added since the snapshot are added again before anything else: a server that the store does not
    /// know, and that is cut off, is beyond any planner.
    fn restore(&mut self) {
        let Some(snapshot) = self.snapshot.take() else { return };
        let before = std::mem::replace(&mut self.store, *snapshot);
        for number in before.members.into_keys() {
            self.store.members.entry(number).or_default();
        }
        self.restores_left -= 1;
        self.heard.clear();
        self.is_restored = true;
    }

    /// As the leader does it: in a restored store the generation rises before anything else is planned.
    fn plan(&mut self) {
        let members = self.members();
        let reported = self.store.members.values().filter_map(|member| member.reported);
        let highest = reported.max().unwrap_or_default();
        let mut next_epoch = self.store.epoch;
        next_epoch.counter += 1;
        let known = self.with_the_bystander(next_epoch);
        let planned = if self.is_restored || highest > self.store.epoch {
            next_epoch.generation = highest.generation.max(next_epoch.generation) + 1;
            self.is_restored = false;
            after_restore(&known, &members, self.now_unix_s, next_epoch)
        } else {
            plan(&known, &members, self.now_unix_s, next_epoch)
        };
        let is_changed = planned.get(&ADDRESS).is_some_and(|table| Some(table) != known.get(&ADDRESS));
        if is_changed || next_epoch.generation > self.store.epoch.generation {
            self.store.epoch = next_epoch;
        }
        for (index, slice) in planned.get(&ADDRESS).into_iter().flatten() {
            if let Some(kept) = self.store.slices.get_mut(index) {
                *kept = *slice;
            }
        }
    }

    fn members(&self) -> BTreeMap<NodeId, SliceMember> {
        let member = |(number, member): (&u16, &Member)| {
            let claims = member.claims.iter().map(|(index, lease)| ((ADDRESS, *index), *lease)).collect();
            let member = SliceMember {
                can_take: !member.is_drained,
                is_drained: member.is_drained,
                is_heard: self.heard.contains(number),
                relay_addresses: [ADDRESS].into(),
                reported: member.reported,
                claims,
                ports_in_use_permille: if member.is_busy { 900 } else { 0 },
            };
            (node(*number), member)
        };
        let bystander = SliceMember {
            is_heard: true,
            relay_addresses: [ADDRESS].into(),
            reported: Some(Epoch { generation: u64::MAX, counter: 0 }),
            claims: self.others().map(|index| ((ADDRESS, index), 1)).collect(),
            ..SliceMember::default()
        };
        self.store.members.iter().map(member).chain([(node(BYSTANDER), bystander)]).collect()
    }

    fn with_the_bystander(&self, since: Epoch) -> Slices {
        let owner = Some(node(BYSTANDER));
        let slice = SliceLease { state: SliceState::Owned, owner, lease: 1, since, until_unix_s: 0 };
        let mut table = self.store.slices.clone();
        table.extend(self.others().map(|index| (index, slice)));
        [(ADDRESS, table)].into()
    }

    fn others(&self) -> impl Iterator<Item = u8> + use<'_> {
        (SLICE_MIN..=SLICE_MAX).filter(|index| !self.store.slices.contains_key(index))
    }

    fn report(&mut self, number: u16) {
        let server = self.servers.get(&number).unwrap();
        let own = server.running.iter().flat_map(|configuration| &configuration.own);
        let is_claimed = |(index, (state, _)): &(&u8, &(SliceState, u64))| {
            *state == SliceState::Owned || server.in_use.contains(index)
        };
        let claims = own.filter(is_claimed).map(|(index, (_, lease))| (*index, *lease)).collect();
        let reported = server.running.as_ref().map(|configuration| configuration.epoch);
        let is_busy = server.is_busy;
        let member = self.store.members.get_mut(&number).unwrap();
        *member = Member { is_busy, reported, claims, ..member.clone() };
        self.heard.insert(number);
    }

    /// A server applies only what is newer than what it has. One of an older generation is told when the planner knows
    /// what it claims, or has nothing left to do about it; one without any epoch when it has no slices. The slices with
    /// allocations that it loses.
    fn deliver(&mut self, number: u16, store: &Store) -> Option<Vec<u8>> {
        let running = self.server(number).running.clone();
        let known = running.as_ref().map(|configuration| configuration.epoch);
        let is_older = known.is_some_and(|epoch| epoch.generation < store.epoch.generation);
        let has_slices = store.slices.values().any(|slice| slice.owner == Some(node(number)));
        let is_fresh = known.is_none();
        if known >= Some(store.epoch)
            || (is_fresh && has_slices)
            || (is_older && !self.claims_are_known(number, store))
        {
            return None;
        }
        let own = store.slices.iter().filter(|(_, slice)| slice.owner == Some(node(number)));
        let own = own.map(|(index, slice)| (*index, (slice.state, slice.lease))).collect();
        let told = Configuration { epoch: store.epoch, own };
        let server = self.server(number);
        let lost: Vec<u8> =
            server.in_use.iter().filter(|index| !told.own.contains_key(*index)).copied().collect();
        (server.running, server.disk) = (Some(told.clone()), Some(told));
        Some(lost).filter(|lost| !lost.is_empty())
    }

    fn claims_are_known(&self, number: u16, store: &Store) -> bool {
        let Some(member) = self.store.members.get(&number).filter(|_| self.heard.contains(&number)) else {
            return false;
        };
        let is_known = |(index, lease): (&u8, &u64)| {
            let slice = store.slices.get(index);
            slice.is_some_and(|slice| slice.lease == *lease && slice.owner == Some(node(number)))
        };
        let mut planned = self.clone();
        planned.plan();
        member.claims.iter().all(is_known) || planned.store == self.store
    }

    /// No port has two users: a server uses what its configuration gives it, and of a slice that drains what it has.
    fn check(&self) -> Result<(), String> {
        for index in self.store.slices.keys() {
            let uses = |server: &Server| {
                let state = server.running.as_ref().and_then(|configuration| configuration.own.get(index));
                state.is_some_and(|(state, _)| *state == SliceState::Owned || server.in_use.contains(index))
            };
            let users: Vec<u16> =
                self.servers.iter().filter(|(_, server)| uses(server)).map(|(number, _)| *number).collect();
            if users.len() > 1 {
                return Err(format!("slice {index} is used by servers {users:?}"));
            }
        }
        Ok(())
    }

    /// Somebody may take new ports.
    pub fn has_an_owner(&self) -> bool {
        self.store.slices.values().any(|slice| slice.state == SliceState::Owned)
    }
}

fn node(number: u16) -> NodeId {
    NodeId { site: 1, server: number }
}

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const BYSTANDER: u16 = 99;
