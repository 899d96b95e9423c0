//! When allocations want to be looked at: a heap, one live entry for each allocation, never a scan.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use trunkline_wire::{AllocationId, Now};

/// Wake-ups by time. An allocation remembers the time it waits for; entries that it no longer waits for are
/// skipped when they come up.
#[derive(Default)]
pub struct Timers(BinaryHeap<Reverse<(u64, AllocationId)>>);

impl Timers {
    /// Wakes `id` at `at_ns`.
    pub fn arm(&mut self, at_ns: u64, id: AllocationId) {
        self.0.push(Reverse((at_ns, id)));
    }

    /// The next time anything is due, stale entries included.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((at_ns, _))| *at_ns)
    }

    /// The next entry that is due.
    pub fn pop_due(&mut self, now: Now) -> Option<(u64, AllocationId)> {
        if !now.reached(self.next_ns()?) {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }
}
