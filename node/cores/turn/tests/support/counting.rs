//! An allocator that counts what each thread does with the heap, so that tests beside it do not disturb.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts of one thread since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that asked for memory, reallocations included.
    pub allocations: u64,
    /// Bytes allocated and not yet freed.
    pub live_bytes: i64,
}

thread_local! {
    static TALLY: Cell<Tally> = const { Cell::new(Tally { allocations: 0, live_bytes: 0 }) };
}

/// What this thread did so far.
pub fn tally() -> Tally {
    TALLY.get()
}

/// The system's allocator, counted.
pub struct CountingAllocator;

fn note(allocations: u64, bytes: i64) {
    // A thread that is ending has no counters any more and is of no interest.
    let _ = TALLY.try_with(|tally| {
        let Tally { allocations: before, live_bytes } = tally.get();
        tally.set(Tally { allocations: before + allocations, live_bytes: live_bytes + bytes });
    });
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

// SAFETY: every call goes unchanged to the system's allocator; counting touches a thread-local cell without a
// destructor and allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, signed(layout.size()));
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, -signed(layout.size()));
        // SAFETY: the caller keeps `GlobalAlloc::dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(1, signed(bytes) - signed(layout.size()));
        // SAFETY: the caller keeps `GlobalAlloc::realloc`'s contract.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}
