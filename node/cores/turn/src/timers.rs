//! What wants to be looked at and when: a heap, one live entry for each allocation, never a scan.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use trunkline_wire::{AllocationId, Now};

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// An allocation ends, or something that it holds may have.
    Allocation(AllocationId),
    /// A reservation ends.
    Reservation,
}

/// Timers by time. An allocation remembers the time it waits for; entries that it no longer waits for are skipped
/// when they come up.
#[derive(Default)]
pub struct Timers(BinaryHeap<Reverse<(u64, Timer)>>);

impl Timers {
    /// Sets a timer for `at_ns`.
    pub fn arm(&mut self, at_ns: u64, timer: Timer) {
        self.0.push(Reverse((at_ns, timer)));
    }

    /// How many entries there are, stale ones included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets the entries of allocations that do not wait for them.
    pub fn forget_stale(&mut self, mut waits: impl FnMut(u64, AllocationId) -> bool) {
        self.0.retain(|Reverse((at_ns, timer))| match timer {
            Timer::Allocation(id) => waits(*at_ns, *id),
            Timer::Reservation => true,
        });
    }

    /// The next time anything is due, stale entries included.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((at_ns, _))| *at_ns)
    }

    /// The next entry that is due.
    pub fn pop_due(&mut self, now: Now) -> Option<(u64, Timer)> {
        if !now.reached(self.next_ns()?) {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }
}
