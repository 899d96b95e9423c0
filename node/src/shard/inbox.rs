//! What reaches a shard from outside its thread: commands of the control side, packets of sibling shards.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::ArrayQueue;
use tokio::sync::oneshot;
use trunkline_turn::{AllocationSummary, Counters, ServiceFlow};
use trunkline_wire::AllocationId;

use super::applied::Change;
use super::sys;

/// What the control side asks of a shard.
pub enum Command {
    /// Go over to this configuration, and say so.
    Apply(Box<Change>, oneshot::Sender<()>),
    /// Put what was used since into the tray, and say so.
    TakeUsage(oneshot::Sender<()>),
    /// List the flows of clients.
    Flows(oneshot::Sender<Vec<ServiceFlow>>),
    /// End the thread.
    Stop,
    /// List the allocations.
    List(oneshot::Sender<Vec<AllocationSummary>>),
    /// Close an allocation; answers whether there was one.
    Close(AllocationId, oneshot::Sender<bool>),
}

/// A datagram from one relay address of the node to another.
pub struct Parcel {
    /// Where it goes.
    pub relayed: SocketAddr,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Its bytes; the buffer goes back to the inbox it came from.
    pub bytes: Vec<u8>,
}

/// Parcels that may wait: 10 ms at 100,000 packets a second. Beyond it they are dropped and counted.
const PARCELS_MAX: usize = 1_024;

/// A shard's inbox, shared with everybody who may write to it.
pub struct Inbox {
    wake: OwnedFd,
    /// Set while a wake-up is under way, so that a burst costs one system call.
    woken: AtomicBool,
    /// None once the shard has ended: nobody would answer.
    commands: Mutex<Option<Vec<Command>>>,
    parcels: ArrayQueue<Parcel>,
    /// Empty buffers.
    spare: ArrayQueue<Vec<u8>>,
    counters: Mutex<Counters>,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            wake: sys::event_counter()?,
            woken: AtomicBool::new(false),
            commands: Mutex::new(Some(Vec::new())),
            parcels: ArrayQueue::new(PARCELS_MAX),
            spare: ArrayQueue::new(PARCELS_MAX),
            counters: Mutex::default(),
        }))
    }

    /// What becomes readable when there is something in the inbox.
    pub fn wake_fd(&self) -> &impl AsRawFd {
        &self.wake
    }

    /// Sends a command; after the shard's end it is dropped, and who waits for its answer learns so.
    pub fn command(&self, command: Command) {
        if let Some(commands) = &mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner) {
            commands.push(command);
        }
        self.ring();
    }

    /// The shard ends.
    pub fn close(&self) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Passes a datagram on; `false` when the queue is full.
    pub fn parcel(&self, relayed: SocketAddr, peer: SocketAddr, pieces: [&[u8]; 3]) -> bool {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        let queued = self.parcels.push(Parcel { relayed, peer, bytes });
        self.ring();
        match queued {
            Ok(()) => true,
            Err(refused) => {
                self.take_back(refused.bytes);
                false
            }
        }
    }

    /// Wakes the shard.
    pub fn ring(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is full, which wakes as well.
            let _ = sys::add_to_counter(self.wake.as_fd());
        }
    }

    /// Answers the bell. What is put in from now on rings again.
    pub fn answer(&self) {
        let _ = sys::clear_counter(self.wake.as_fd());
        self.woken.store(false, Ordering::Release);
    }

    /// The commands that have come.
    pub fn commands(&self) -> Vec<Command> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The next datagram.
    pub fn next_parcel(&self) -> Option<Parcel> {
        self.parcels.pop()
    }

    /// Keeps an empty buffer for the next datagram, unless there are enough.
    pub fn take_back(&self, buffer: Vec<u8>) {
        drop(self.spare.push(buffer));
    }

    /// Shows the control side what the shard counted.
    pub fn publish(&self, counters: &Counters) {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone_from(counters);
    }

    /// What the shard counted when it last said so.
    pub fn counters(&self) -> Counters {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
