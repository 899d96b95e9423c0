//! The input slots of a shard: one datagram, or one read of a stream, in each.

use std::ops::Range;

use trunkline_wire::Body;
use trunkline_wire::framing::FRAME_BYTES_MAX;

/// Slots of a batch. 64 datagrams per system call reach the floor of the cost per datagram.
pub const SLOTS: usize = 64;

/// Bytes of a slot: the largest stream frame (which exceeds the largest datagram), rounded up to pages.
pub const SLOT_BYTES: usize = FRAME_BYTES_MAX.next_multiple_of(4_096);

/// The memory that everything received lies in until it is sent on. Pages never written to are never resident.
pub struct Slots {
    memory: Vec<u8>,
    used: usize,
}

impl Slots {
    pub fn new() -> Self {
        Self { memory: vec![0; SLOTS * SLOT_BYTES], used: 0 }
    }

    /// All slots, for receiving a whole batch.
    pub fn all(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Takes the next free slot; `None` when the batch is full and must be sent first.
    pub fn take(&mut self) -> Option<usize> {
        let slot = self.used;
        (slot < SLOTS).then(|| {
            self.used += 1;
            slot
        })
    }

    /// Everything was sent: all slots are free.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// One slot.
    pub fn slot(&self, slot: usize) -> &[u8] {
        self.memory.get(Self::range(slot)).unwrap_or_default()
    }

    /// One slot, to receive into.
    pub fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        self.memory.get_mut(Self::range(slot)).unwrap_or_default()
    }

    /// The name of a range of a slot.
    pub fn body(slot: usize, range: Range<usize>) -> Body {
        Body::input(u16::try_from(slot).unwrap_or(0), range)
    }

    fn range(slot: usize) -> Range<usize> {
        let start = slot.saturating_mul(SLOT_BYTES);
        start..start.saturating_add(SLOT_BYTES)
    }
}
