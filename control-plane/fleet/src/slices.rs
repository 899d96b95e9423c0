//! Leases of slices: free → owned → draining → quarantine → free.
//!
//! A server may be out of reach and go on using what it was leased, for ever: allocations can be refreshed without end.
//! So time alone never takes a slice away. A slice is taken back when its server reports, under a configuration that
//! gave it the slice, that it does not use it; or when an operator removed the server. Each lease has a number that
//! rises: a server that claims a higher one than the store knows is right, and the store is an older copy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use trunkline_wire::NodeId;

use crate::Epoch;

/// Where a slice is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SliceState {
    /// Nobody's.
    #[default]
    Free,
    /// New allocations may take its ports.
    Owned,
    /// Its owner takes no new ports of it.
    Draining,
    /// Nobody's, until late packets have died out.
    Quarantine,
}

/// One slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SliceLease {
    /// Where it is in its life.
    pub state: SliceState,
    /// Of an owned or draining one.
    pub owner: Option<NodeId>,
    /// Rises with each owner.
    pub lease: u64,
    /// The configuration that gave it to its owner: reports made under an older one say nothing about it.
    pub granted: Epoch,
    /// End of a quarantine, in Unix seconds.
    pub until_unix_s: u64,
}

/// The slices of a relay address by `port >> 10`.
pub type RelaySlices = BTreeMap<u8, SliceLease>;
/// The slices of every relay address.
pub type Slices = BTreeMap<IpAddr, RelaySlices>;

/// A server that shares relay addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceMember {
    /// It reports, and is not drained: it may get slices.
    pub can_take: bool,
    /// It is drained: it gives its slices back as they become empty.
    pub is_drained: bool,
    /// The addresses that it shares.
    pub relay_addresses: BTreeSet<IpAddr>,
    /// The configuration under which it made its last report; `None` when it has made none.
    pub reported: Option<Epoch>,
    /// What it used then: address, index and lease.
    pub claims: BTreeMap<(IpAddr, u8), u64>,
    /// How much of its relay ports was in use.
    pub ports_in_use_permille: u32,
}

/// What the slices are to be next: the relay addresses that change. The same inputs give the same slices.
#[must_use]
pub fn plan(
    slices: &Slices,
    members: &BTreeMap<NodeId, SliceMember>,
    now_unix_s: u64,
    next_epoch: Epoch,
) -> Slices {
    let mut next = slices.clone();
    for address in members.values().flat_map(|member| &member.relay_addresses) {
        next.entry(*address).or_insert_with(unused);
    }
    believe_claims(&mut next, members, next_epoch);
    // Somebody may hold, under a configuration that this store has lost, what looks free here.
    let all_heard = members.values().all(|member| {
        member.reported.is_some_and(|epoch| epoch.generation >= next_epoch.generation)
            || !member.has_any_address()
    });
    for (address, table) in &mut next {
        for (index, slice) in table.iter_mut() {
            take_back(slice, (*address, *index), members, now_unix_s);
            if slice.state == SliceState::Quarantine && slice.until_unix_s <= now_unix_s && all_heard {
                slice.state = SliceState::Free;
            }
        }
    }
    for (node, _) in members.iter().filter(|(_, member)| member.is_drained) {
        for slice in next.values_mut().flat_map(BTreeMap::values_mut) {
            if slice.owner == Some(*node) && slice.state == SliceState::Owned {
                slice.state = SliceState::Draining;
            }
        }
    }
    if all_heard || next_epoch.generation <= FIRST_GENERATION {
        for (node, member) in members.iter().filter(|(_, member)| member.can_take) {
            for address in &member.relay_addresses {
                if let Some(table) = next.get_mut(address) {
                    follow_demand(table, *address, *node, member, next_epoch);
                }
            }
        }
    }
    next.retain(|address, table| slices.get(address) != Some(table));
    next
}

/// After the store was put back to an older state: what looks free may be somebody's, so it rests first.
#[must_use]
pub fn after_restore(slices: &Slices, now_unix_s: u64) -> Slices {
    let mut next = slices.clone();
    for slice in next.values_mut().flat_map(BTreeMap::values_mut) {
        if matches!(slice.state, SliceState::Free | SliceState::Quarantine) {
            slice.state = SliceState::Quarantine;
            slice.until_unix_s = now_unix_s.saturating_add(QUARANTINE_S);
        }
    }
    next
}

impl SliceMember {
    fn has_any_address(&self) -> bool {
        !self.relay_addresses.is_empty()
    }
}

/// The slices of an address that nobody has used.
#[must_use]
pub fn unused() -> RelaySlices {
    (SLICE_MIN..=SLICE_MAX).map(|index| (index, SliceLease::default())).collect()
}

/// A claim of a newer lease than is known here shows that the store is an older copy of itself. What the claimant says
/// of the slice under what it has now is not enough to take it back: the next configuration gives it once more.
fn believe_claims(slices: &mut Slices, members: &BTreeMap<NodeId, SliceMember>, next_epoch: Epoch) {
    for (node, member) in members {
        for ((address, index), lease) in &member.claims {
            let Some(slice) = slices.get_mut(address).and_then(|table| table.get_mut(index)) else {
                continue;
            };
            // One that was taken back here while the claimant was being given it again.
            let is_nobodys = slice.owner.is_none() && *lease == slice.lease;
            if *lease > slice.lease || (is_nobodys && *lease != 0) {
                *slice = SliceLease {
                    state: SliceState::Owned,
                    owner: Some(*node),
                    lease: *lease,
                    granted: next_epoch,
                    until_unix_s: 0,
                };
            }
        }
    }
}

/// A slice that its owner gave back, or whose owner is gone, rests.
fn take_back(
    slice: &mut SliceLease,
    place: (IpAddr, u8),
    members: &BTreeMap<NodeId, SliceMember>,
    now_unix_s: u64,
) {
    if !matches!(slice.state, SliceState::Owned | SliceState::Draining) {
        return;
    }
    let owner = slice.owner.and_then(|owner| members.get(&owner));
    let is_over = owner.is_none_or(|owner| {
        let has_heard = owner.reported.is_some_and(|epoch| epoch >= slice.granted);
        has_heard && owner.claims.get(&place) != Some(&slice.lease)
    });
    if is_over {
        slice.state = SliceState::Quarantine;
        slice.owner = None;
        slice.until_unix_s = now_unix_s.saturating_add(QUARANTINE_S);
    }
}

/// Leases one more slice to a server whose ports are nearly used up, and asks one back where it has too many.
fn follow_demand(
    table: &mut RelaySlices,
    address: IpAddr,
    node: NodeId,
    member: &SliceMember,
    next_epoch: Epoch,
) {
    let is_owned = |slice: &SliceLease| slice.owner == Some(node) && slice.state == SliceState::Owned;
    let owned = table.values().filter(|slice| is_owned(slice)).count();
    // What it was given last must show in its report before it is judged again.
    let knows_all = table
        .iter()
        .filter(|(_, slice)| is_owned(slice))
        .all(|(index, slice)| member.claims.get(&(address, *index)) == Some(&slice.lease));
    if !knows_all {
        return;
    }
    let in_use = u64::from(member.ports_in_use_permille);
    let wanted = if owned == 0 {
        1
    } else if in_use >= GROW_PERMILLE {
        owned
    } else {
        0
    };
    let own = table.values_mut().find(|slice| owned == 0 && slice.owner == Some(node));
    if let Some(slice) = own {
        // Drained no longer. What it reported while it was says nothing about what it is given now.
        (slice.state, slice.granted) = (SliceState::Owned, next_epoch);
        return;
    }
    let free = table.values_mut().filter(|slice| slice.state == SliceState::Free);
    for slice in free.take(wanted) {
        *slice = SliceLease {
            state: SliceState::Owned,
            owner: Some(node),
            lease: slice.lease.saturating_add(1),
            granted: next_epoch,
            until_unix_s: 0,
        };
    }
    let with_one_less = in_use.saturating_mul(owned as u64).checked_div(owned.saturating_sub(1) as u64);
    let has_too_many = wanted == 0 && with_one_less.is_some_and(|in_use| in_use <= SHRINK_PERMILLE);
    let last = table.values_mut().rev().find(|slice| is_owned(slice));
    if let Some(slice) = last.filter(|_| has_too_many) {
        slice.state = SliceState::Draining;
    }
}

/// The slice of port 9,216, and of port 65,535.
pub const SLICE_MIN: u8 = 9;
/// The last slice.
pub const SLICE_MAX: u8 = 63;
/// Packets of peers that do not know yet, and permissions that others gave to the address: both last 5 minutes
/// (RFC 8656 §9).
pub const QUARANTINE_S: u64 = 300;
const GROW_PERMILLE: u64 = 700;
const SHRINK_PERMILLE: u64 = 400;
/// Of a store that was never restored.
const FIRST_GENERATION: u64 = 1;
