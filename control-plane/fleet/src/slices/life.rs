//! A slice's way from owner to owner.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use trunkline_wire::NodeId;

use super::{QUARANTINE_S, RelaySlices, SLICE_MAX, SLICE_MIN, SliceLease, SliceMember, SliceState};
use crate::{Epoch, FIRST_GENERATION};

type Place = (IpAddr, u8);

/// What one plan is made from.
pub struct Plan<'a> {
    members: &'a BTreeMap<NodeId, SliceMember>,
    /// Who shares each address.
    sharing: BTreeMap<IpAddr, Vec<(NodeId, &'a SliceMember)>>,
    /// Who claims each slice, and under which lease.
    claims: BTreeMap<Place, BTreeMap<NodeId, u64>>,
    now_unix_s: u64,
    pub next_epoch: Epoch,
    /// The oldest generation of any member's last report.
    oldest_generation: u64,
}

impl<'a> Plan<'a> {
    pub fn new(members: &'a BTreeMap<NodeId, SliceMember>, now_unix_s: u64, next_epoch: Epoch) -> Self {
        let mut sharing: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut claims: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (node, member) in members {
            for address in &member.relay_addresses {
                sharing.entry(*address).or_default().push((*node, member));
            }
            for (place, lease) in &member.claims {
                claims.entry(*place).or_default().insert(*node, *lease);
            }
        }
        let generations = members.values().map(|member| member.reported.map_or(0, |epoch| epoch.generation));
        let oldest_generation = generations.min().unwrap_or(u64::MAX);
        Self { members, sharing, claims, now_unix_s, next_epoch, oldest_generation }
    }

    /// Every relay address that somebody shares or claims.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.sharing.keys().copied().chain(self.claims.keys().map(|(address, _)| *address)).collect()
    }

    /// Who shares an address and may get slices: not before it has reported a configuration without any.
    pub fn takers(&self, address: IpAddr) -> impl Iterator<Item = (NodeId, &'a SliceMember)> {
        let sharing = self.sharing.get(&address).into_iter().flatten().copied();
        sharing.filter(|(_, member)| member.can_take && !member.is_drained && member.reported.is_some())
    }

    /// Somebody claims it, under any lease, now or before this leader led.
    pub fn is_claimed(&self, place: Place) -> bool {
        self.claims.contains_key(&place)
    }

    /// Its owner said, since this leader leads, that it uses the slice under this lease. So nobody else ever got it since.
    pub fn is_in_use(&self, place: Place, slice: &SliceLease) -> bool {
        self.owner(slice)
            .is_some_and(|owner| owner.is_heard && owner.claims.get(&place) == Some(&slice.lease))
    }

    /// Slices that the store does not know are free, unless a restored store may have forgotten them.
    pub fn complete(&self, table: &mut RelaySlices) {
        let free = SliceLease { since: self.next_epoch, ..SliceLease::default() };
        let unknown = if self.next_epoch.generation > FIRST_GENERATION { self.resting(&free) } else { free };
        for index in SLICE_MIN..=SLICE_MAX {
            table.entry(index).or_insert(unknown);
        }
    }

    /// Doubts what an older generation said of slices.
    pub fn doubt(&self, address: IpAddr, table: &mut RelaySlices) {
        let generation = self.next_epoch.generation;
        // What was never leased may have no epoch at all.
        let is_older = |slice: &SliceLease| slice.since.generation.max(FIRST_GENERATION) < generation;
        for (index, slice) in table.iter_mut().filter(|(_, slice)| is_older(slice)) {
            *slice = self.doubted((address, *index), slice);
        }
    }

    /// Takes over what the store has forgotten.
    pub fn believe(&self, address: IpAddr, table: &mut RelaySlices) {
        for (index, slice) in table {
            *slice = self.believed((address, *index), slice).unwrap_or(*slice);
        }
    }

    pub fn advance(&self, address: IpAddr, table: &mut RelaySlices) {
        self.doubt(address, table);
        for (index, slice) in table {
            *slice = self.advanced((address, *index), slice);
        }
    }

    fn advanced(&self, place: Place, slice: &SliceLease) -> SliceLease {
        if let Some(believed) = self.believed(place, slice) {
            return believed;
        }
        match slice.state {
            SliceState::Owned | SliceState::Draining if self.owner(slice).is_none() => self.resting(slice),
            SliceState::Owned | SliceState::Draining if self.has_nothing(slice) => self.resting(slice),
            SliceState::Owned if self.must_drain(place.0, slice) => self.draining(slice),
            SliceState::Draining if self.is_given_back(place, slice) => self.resting(slice),
            SliceState::Quarantine if self.has_rested(place, slice) => self.freed(slice),
            SliceState::Owned | SliceState::Draining | SliceState::Quarantine | SliceState::Free => *slice,
        }
    }

    /// In a new generation: the owner may have given the slice back, and what looks free may have got an owner, in what
    /// the store has forgotten.
    fn doubted(&self, place: Place, slice: &SliceLease) -> SliceLease {
        match slice.state {
            SliceState::Owned if self.is_in_use(place, slice) => {
                SliceLease { since: self.next_epoch, ..*slice }
            }
            SliceState::Owned | SliceState::Draining => self.draining(slice),
            SliceState::Quarantine | SliceState::Free => self.resting(slice),
        }
    }

    fn believed(&self, place: Place, slice: &SliceLease) -> Option<SliceLease> {
        let (owner, lease) = self.forgotten(place, slice)?;
        Some(self.draining(&SliceLease { owner: Some(owner), lease, ..*slice }))
    }

    /// A claim under a higher lease than the store's. Its server gets it as a draining one and, since it claims it, can
    /// take it up again at once.
    fn forgotten(&self, place: Place, slice: &SliceLease) -> Option<(NodeId, u64)> {
        let is_heard = |node: &NodeId| self.members.get(node).is_some_and(|member| member.is_heard);
        let claims = self.claims.get(&place)?.iter().filter(|(node, _)| is_heard(node));
        let highest = claims.max_by(|(a, x), (b, y)| x.cmp(y).then(b.cmp(a)));
        highest.filter(|(_, lease)| **lease > slice.lease).map(|(node, lease)| (*node, *lease))
    }

    fn draining(&self, slice: &SliceLease) -> SliceLease {
        SliceLease { state: SliceState::Draining, since: self.next_epoch, until_unix_s: 0, ..*slice }
    }

    fn resting(&self, slice: &SliceLease) -> SliceLease {
        SliceLease {
            state: SliceState::Quarantine,
            owner: None,
            since: self.next_epoch,
            until_unix_s: self.now_unix_s.saturating_add(QUARANTINE_S),
            ..*slice
        }
    }

    fn freed(&self, slice: &SliceLease) -> SliceLease {
        SliceLease { state: SliceState::Free, since: self.next_epoch, until_unix_s: 0, ..*slice }
    }

    fn owner(&self, slice: &SliceLease) -> Option<&'a SliceMember> {
        self.members.get(&slice.owner?)
    }

    /// Its owner came up without any configuration, and is not told one as long as it has slices: others may have got
    /// them in what a restored store has forgotten.
    fn has_nothing(&self, slice: &SliceLease) -> bool {
        self.owner(slice).is_some_and(|owner| owner.is_heard && owner.reported.is_none())
    }

    /// Its owner is to be emptied, or does not share the address any more.
    fn must_drain(&self, address: IpAddr, slice: &SliceLease) -> bool {
        let is_over = |owner: &SliceMember| owner.is_drained || !owner.relay_addresses.contains(&address);
        self.owner(slice).is_some_and(is_over)
    }

    /// Its owner runs with an epoch that told it to drain, and does not claim it. It cannot come back to an older epoch.
    fn is_given_back(&self, place: Place, slice: &SliceLease) -> bool {
        let is_back = |owner: &SliceMember| {
            owner.reported >= Some(slice.since) && owner.claims.get(&place) != Some(&slice.lease)
        };
        self.owner(slice).is_some_and(is_back)
    }

    /// Its time is over, nobody claims it, and no member can have it under a lease that the store has forgotten: each has
    /// reported under the slice's generation. A clock that was put back must not keep it here for ever.
    fn has_rested(&self, place: Place, slice: &SliceLease) -> bool {
        let is_over = self.now_unix_s >= slice.until_unix_s
            || slice.until_unix_s.abs_diff(self.now_unix_s) > QUARANTINE_S.saturating_mul(2);
        let all_heard =
            slice.since.generation <= FIRST_GENERATION || self.oldest_generation >= slice.since.generation;
        is_over && all_heard && !self.is_claimed(place)
    }
}
