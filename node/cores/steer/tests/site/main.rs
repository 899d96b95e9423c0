//! A site of several servers, each with its own table and its own flows: frames are handed from one to the other as their
//! verdicts say, until one keeps them.

mod fixtures;
mod scene;
mod site;

use proptest::prelude::*;
use trunkline_steer::{NOBODY, Reason, Row};

use crate::site::{End, Payload, SERVERS, Site};

/// Rows as two moves leave them: before, published, moved, and the next one published and moved.
fn history(owners: [u16; 3]) -> [Row; 5] {
    let [first, second, third] = owners;
    let start = Row::of(first);
    let published = start.publishing(second);
    let moved = published.moved();
    let again = moved.publishing(third);
    [start, published, moved, again, again.moved()]
}

fn servers() -> impl Strategy<Value = u16> {
    1..=SERVERS
}

proptest! {
    /// Servers may be one phase apart, each way: whoever had the row when a flow began is found.
    #[test]
    fn a_flow_is_found_from_every_server_with_any_skew_of_one_phase(
        owners in [servers(), servers(), servers()], phase in 0_usize..4, ahead in any::<[bool; SERVERS as usize]>(),
        began in 0_usize..3, landing in servers(), v6 in any::<bool>(),
    ) {
        let rows = history(owners);
        let mut site = Site::new(v6, |server| {
            let is_ahead = ahead[usize::from(server) - 1];
            (phase as u32 + u32::from(is_ahead), rows[phase + usize::from(is_ahead)])
        });
        // It began at whom some server's row had, or has, as its owner.
        let newest = phase + usize::from(ahead.contains(&true));
        let owner = owners[began.min(newest / 2)];
        site.owns(owner);
        let walk = site.walk(landing, Payload::ChannelData);
        prop_assert_eq!(walk.end, End::Kept { by: owner, reason: Reason::OwnFlow });
        prop_assert!(walk.forwards <= 4, "{} forwards", walk.forwards);
        // A repeated Allocate finds it as well, and makes no second one.
        let walk = site.walk(landing, Payload::Allocate);
        prop_assert_eq!(walk.end, End::Kept { by: owner, reason: Reason::OwnFlow });
    }

    /// Nobody is asked twice, but for the server that it landed on and that takes what begins.
    #[test]
    fn what_nobody_owns_ends_after_few_forwards(
        owners in [servers(), servers(), servers()], phase in 0_usize..4, ahead in any::<[bool; SERVERS as usize]>(),
        landing in servers(), dead in proptest::collection::btree_set(servers(), 0..3), kind in 0_usize..3,
    ) {
        let rows = history(owners);
        let mut site = Site::new(false, |server| {
            let is_ahead = ahead[usize::from(server) - 1];
            (phase as u32 + u32::from(is_ahead), rows[phase + usize::from(is_ahead)])
        });
        site.kill(&dead);
        let payload = [Payload::ChannelData, Payload::Allocate, Payload::Binding][kind];
        let walk = site.walk(landing, payload);
        prop_assert!(matches!(walk.end, End::Kept { .. }), "{walk:?}");
        prop_assert!(walk.forwards <= 5, "{walk:?}");
        let mut seen = walk.visited.clone();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), walk.visited.len(), "{:?}", walk);
    }

    /// All servers choose the same one for a dead owner's new flows, and find them there while it is dead and afterwards.
    #[test]
    fn new_flows_of_a_dead_server_are_taken_by_one_other_and_stay_with_it(
        current in servers(), landings in [servers(), servers(), servers()], v6 in any::<bool>(),
    ) {
        let mut site = Site::new(v6, |_| (1, Row::of(current)));
        let dead = [current].into();
        let [first, second, third] = landings.map(|landing| if landing == current { landing % SERVERS + 1 } else { landing });
        site.kill(&dead);
        let End::Kept { by: taker, reason } = site.walk(first, Payload::Allocate).end else {
            return Err(TestCaseError::fail("nobody took it"));
        };
        prop_assert!(taker != current);
        prop_assert!(matches!(reason, Reason::Opener | Reason::WayEnds), "{reason:?}");
        site.owns(taker);
        prop_assert_eq!(site.walk(second, Payload::Allocate).end, End::Kept { by: taker, reason: Reason::OwnFlow });
        prop_assert_eq!(site.walk(third, Payload::ChannelData).end, End::Kept { by: taker, reason: Reason::OwnFlow });
        site.kill(&[].into());
        prop_assert_eq!(site.walk(third, Payload::ChannelData).end, End::Kept { by: taker, reason: Reason::OwnFlow });
    }
}

/// One server has a row of server 1 that moved to it, and the others have not heard of that.
fn lost_after_a_move(published: bool) -> usize {
    let is_lost = |mover: &u16| {
        let old = if published { Row::of(1).publishing(*mover) } else { Row::of(1) };
        let new = Row { current: *mover, next: NOBODY, previous: [1, NOBODY] };
        let mut site = Site::new(false, |server| if server == *mover { (2, new) } else { (1, old) });
        site.owns(*mover);
        let others = (1..=SERVERS).filter(|landing| landing != mover);
        let ends = others.map(|landing| site.walk(landing, Payload::ChannelData).end);
        ends.into_iter().any(|end| end != End::Kept { by: *mover, reason: Reason::OwnFlow })
    };
    (2..=SERVERS).filter(is_lost).count()
}

#[test]
fn with_the_two_phases_merged_into_one_flows_are_lost() {
    assert_eq!(lost_after_a_move(true), 0);
    assert!(lost_after_a_move(false) >= 2, "{}", lost_after_a_move(false));
}
