//! Leases of slices: who may use which relay ports, so that no port ever has two users.
//!
//! free → owned → draining → quarantine → free. A server may be out of reach and go on using what it was leased, for
//! ever: allocations can be refreshed without end. So time alone frees nothing but a quarantine, and this holds while
//! servers crash, lose the control plane and come back, and while the store is put back to an older state:
//!
//! - A server uses what its applied configuration gives it, and keeps that configuration on disk before it applies
//!   it. A slice is taken back only when its owner, running with an epoch that told it to drain, does not claim it, or
//!   when the owner is no member any more, or came up without a configuration: then it is told none before it has no
//!   slices, and gets slices only once it runs with one.
//! - Once the generation rose nothing that the store says of a slice is believed: an owned slice that its owner does
//!   not claim drains, all that look free rest, and nothing leaves its quarantine before every member has reported under
//!   the new generation.
//! - A claim under a higher lease than the store's is true: the store has forgotten it. It was also true of the lease
//!   that the store knows that its owner still has it, if the owner claims that one now.

mod demand;
mod life;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use trunkline_wire::NodeId;

use crate::Epoch;

/// Where a slice is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceLease {
    /// Where it is in its life.
    pub state: SliceState,
    /// Of an owned or draining one.
    pub owner: Option<NodeId>,
    /// Rises with each owner; kept while it is nobody's.
    pub lease: u64,
    /// The configuration that put it into this state: reports made under an older one do not know of it.
    pub since: Epoch,
    /// End of a quarantine, in Unix seconds; 0 otherwise.
    pub until_unix_s: u64,
}

/// The slices of a relay address by `port >> 10`.
pub type RelaySlices = BTreeMap<u8, SliceLease>;
/// The slices of every relay address.
pub type Slices = BTreeMap<IpAddr, RelaySlices>;

/// A server that shares relay addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceMember {
    /// It reports, and is not drained: it may get slices.
    pub can_take: bool,
    /// An operator wants it empty.
    pub is_drained: bool,
    /// It reported since the present leader leads: its claims are of now, and not of a restored store.
    pub is_heard: bool,
    /// The addresses that it shares.
    pub relay_addresses: BTreeSet<IpAddr>,
    /// The configuration under which it made its last report; `None` when it has made none.
    pub reported: Option<Epoch>,
    /// What it used then: address, index and lease.
    pub claims: BTreeMap<(IpAddr, u8), u64>,
    /// How much was in use of the relay ports that it may take: those of its owned slices.
    pub ports_in_use_permille: u32,
}

/// What the slices are to be next: the relay addresses that change. The same inputs give the same slices.
///
/// `members` are all servers that were ever added and not removed. Who is not one of them is gone for good, and what it
/// had goes to others after its quarantine.
#[must_use]
pub fn plan(
    slices: &Slices,
    members: &BTreeMap<NodeId, SliceMember>,
    now_unix_s: u64,
    next_epoch: Epoch,
) -> Slices {
    let plan = life::Plan::new(members, now_unix_s, next_epoch);
    let mut next = complete(slices, &plan);
    for (address, table) in &mut next {
        plan.advance(*address, table);
        demand::follow(&plan, *address, table);
    }
    next.retain(|address, table| slices.get(address) != Some(table));
    next
}

/// The slices of every address that any member shares, those that were never given out included.
fn complete(slices: &Slices, plan: &life::Plan<'_>) -> Slices {
    let mut all = slices.clone();
    for address in plan.addresses() {
        all.entry(address).or_default();
    }
    all.values_mut().for_each(|table| plan.complete(table));
    all
}

/// What the slices must be before any server gets a configuration of a new generation: only slices that their owner
/// says it uses now are still its own, and nothing is to be had. What members claim that the store has forgotten is
/// theirs, so that nobody who was heard loses what it uses. `next_epoch` is the epoch that says so.
///
/// Servers that were added since the snapshot must be members again before their slices can be freed: of a server that
/// the store does not know, and that is cut off, no planner knows.
#[must_use]
pub fn after_restore(
    slices: &Slices,
    members: &BTreeMap<NodeId, SliceMember>,
    now_unix_s: u64,
    next_epoch: Epoch,
) -> Slices {
    let plan = life::Plan::new(members, now_unix_s, next_epoch);
    let mut next = complete(slices, &plan);
    for (address, table) in &mut next {
        plan.doubt(*address, table);
        plan.believe(*address, table);
    }
    next
}

/// The slice of port 9,216.
pub const SLICE_MIN: u8 = 9;
/// The slice of port 65,535.
pub const SLICE_MAX: u8 = 63;
/// Packets of peers that do not know yet, and permissions that others gave to the address: both last 5 minutes
/// (RFC 8656 §9).
pub const QUARANTINE_S: u64 = 300;
