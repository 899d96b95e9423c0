//! Who gets another slice, and who gives one back.

use std::net::IpAddr;

use trunkline_wire::NodeId;

use super::life::Plan;
use super::{RelaySlices, SliceLease, SliceMember, SliceState};

/// Every server that may take slices gets one of each address that it shares, and another as its ports fill up; one that
/// would stay little used without its last slice begins to give that back.
pub fn follow(plan: &Plan<'_>, address: IpAddr, table: &mut RelaySlices) {
    let mut wanting: Vec<(usize, NodeId)> = plan
        .takers(address)
        .map(|(node, member)| (node, Holding::of(table, node, member)))
        .filter(|(_, holding)| holding.wants_more())
        .map(|(node, holding)| (holding.owned, node))
        .collect();
    // Those with nothing come first: the slices may not last for all.
    wanting.sort_unstable();
    for (_, node) in &wanting {
        if !take_up_again(plan, address, table, *node) {
            lease(plan, address, table, *node);
        }
    }
    let giving: Vec<NodeId> = plan
        .takers(address)
        .filter(|(node, member)| Holding::of(table, *node, member).has_too_many())
        .map(|(node, _)| node)
        .collect();
    for node in giving {
        let mut own = table.values_mut().rev().filter(|slice| slice.owner == Some(node));
        if let Some(slice) = own.find(|slice| slice.state == SliceState::Owned) {
            *slice = SliceLease { state: SliceState::Draining, since: plan.next_epoch, ..*slice };
        }
    }
}

/// What a server has of one relay address, and uses of it.
struct Holding {
    owned: usize,
    draining: usize,
    /// It reported under the last change of each, so what it said is about these.
    is_settled: bool,
    /// In thousandths of one slice's ports.
    in_use: usize,
}

impl Holding {
    fn of(table: &RelaySlices, node: NodeId, member: &SliceMember) -> Self {
        let own = || table.values().filter(|slice| slice.owner == Some(node));
        let of_state = |state| own().filter(|slice| slice.state == state).count();
        let permille = usize::try_from(member.ports_in_use_permille.min(1_000)).unwrap_or(0);
        let owned = of_state(SliceState::Owned);
        Self {
            owned,
            draining: of_state(SliceState::Draining),
            is_settled: own().all(|slice| member.reported >= Some(slice.since)),
            in_use: owned.saturating_mul(permille),
        }
    }

    /// How much of each slice would be in use if there were so many.
    fn permille_of(&self, slices: usize) -> usize {
        self.in_use.checked_div(slices).unwrap_or(usize::MAX)
    }

    fn wants_more(&self) -> bool {
        self.owned == 0 || (self.is_settled && self.permille_of(self.owned) >= GROW_PERMILLE)
    }

    /// One is given back at a time.
    fn has_too_many(&self) -> bool {
        let fewer = self.owned.saturating_sub(1);
        self.is_settled && self.draining == 0 && fewer > 0 && self.permille_of(fewer) <= SHRINK_PERMILLE
    }
}

/// A slice that drains can serve again under its lease, if its server says that it uses it. Without that claim it may be
/// another's, in what a restored store has forgotten.
fn take_up_again(plan: &Plan<'_>, address: IpAddr, table: &mut RelaySlices, node: NodeId) -> bool {
    let is_own = |index: u8, slice: &SliceLease| {
        slice.owner == Some(node)
            && slice.state == SliceState::Draining
            && plan.is_in_use((address, index), slice)
    };
    let Some((_, slice)) = table.iter_mut().find(|(index, slice)| is_own(**index, slice)) else {
        return false;
    };
    *slice = SliceLease { state: SliceState::Owned, since: plan.next_epoch, ..*slice };
    true
}

fn lease(plan: &Plan<'_>, address: IpAddr, table: &mut RelaySlices, node: NodeId) {
    let is_free =
        |index: u8, slice: &SliceLease| slice.state == SliceState::Free && !plan.is_claimed((address, index));
    if let Some((_, slice)) = table.iter_mut().find(|(index, slice)| is_free(**index, slice)) {
        *slice = SliceLease {
            state: SliceState::Owned,
            owner: Some(node),
            lease: slice.lease.saturating_add(1),
            since: plan.next_epoch,
            until_unix_s: 0,
        };
    }
}

const GROW_PERMILLE: usize = 700;
const SHRINK_PERMILLE: usize = 400;
