//! Allocations: how many per second a server makes and deletes, and what an idle one costs in memory.
//!
//! One cycle is what a client does at least: Allocate without credentials, 401, Allocate with them, and (unless the
//! allocation is to stay) Refresh with lifetime 0. Every cycle has a source port of its own; several run at once.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::cpu::{CpuSample, resident_bytes};
use super::lab::connected_socket;
use super::poll::{Patience, Poll};
use super::rate::Rate;
use super::server::{PASSWORD, REALM, USER};
use crate::turn_client::TRANSPORT_UDP;
use crate::turn_client::message::{Class, Message, MessageBuilder, Method, attribute, long_term_key};

/// Runs cycles for so long; the calling thread must be in the client's namespace.
pub fn per_second(pid: u32, duration: Duration) -> anyhow::Result<Rate> {
    let mut cycles = Cycles::new(Ending::Delete)?;
    cycles.start_all()?;
    cycles.run_until(|cycles| cycles.completed >= WARM_UP)?;
    let (before, first, started) = (CpuSample::now(pid)?, cycles.completed, Instant::now());
    cycles.run_until(|_| started.elapsed() >= duration)?;
    let (completed, elapsed) = ((cycles.completed - first) as f64, started.elapsed());
    let spent = CpuSample::now(pid)?.since(before);
    Ok(Rate {
        per_second: completed / elapsed.as_secs_f64(),
        core_us: spent.core.as_secs_f64() * 1e6 / completed,
        threads_us: spent.threads.as_secs_f64() * 1e6 / completed,
        loss: cycles.abandoned as f64 / (cycles.completed + cycles.abandoned) as f64,
        window: IN_FLIGHT,
    })
}

/// Resident memory of a server without and with idle allocations.
#[derive(Debug, Clone, Copy)]
pub struct IdleMemory {
    /// Bytes before the first allocation.
    pub before: u64,
    /// Bytes by which each allocation enlarged it.
    pub each: f64,
}

/// Makes `count` allocations that stay, and weighs them; the calling thread must be in the client's namespace.
pub fn idle_memory(pid: u32, count: usize) -> anyhow::Result<IdleMemory> {
    let before = resident_bytes(pid)?;
    let mut cycles = Cycles::new(Ending::Keep)?;
    cycles.start_all()?;
    cycles.run_until(|cycles| cycles.completed >= count)?;
    std::thread::sleep(MEMORY_SETTLES);
    ensure!(cycles.abandoned == 0, "{} Allocate requests were not answered", cycles.abandoned);
    let grown = resident_bytes(pid)?.saturating_sub(before);
    Ok(IdleMemory { before, each: grown as f64 / cycles.completed as f64 })
}

/// What becomes of an allocation once it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Delete,
    Keep,
}

struct Cycles {
    ending: Ending,
    slots: Vec<Option<Cycle>>,
    poll: Poll,
    key: [u8; 16],
    next_port: u16,
    started: u64,
    completed: usize,
    abandoned: usize,
}

struct Cycle {
    socket: UdpSocket,
    step: Step,
    transaction: [u8; 12],
    nonce: Vec<u8>,
    since: Instant,
}

/// Which answer a cycle waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Challenge,
    Allocation,
    Deletion,
}

impl Cycles {
    fn new(ending: Ending) -> anyhow::Result<Self> {
        Ok(Self {
            ending,
            slots: (0..IN_FLIGHT).map(|_| None).collect(),
            poll: Poll::new(IN_FLIGHT)?,
            key: long_term_key(USER, REALM, PASSWORD),
            next_port: PORTS.start,
            started: 0,
            completed: 0,
            abandoned: 0,
        })
    }

    fn start_all(&mut self) -> anyhow::Result<()> {
        (0..IN_FLIGHT).try_for_each(|slot| self.start(slot))
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let mut ready = Vec::with_capacity(IN_FLIGHT);
        let mut last_sweep = Instant::now();
        let mut progress = (self.completed, last_sweep);
        while !done(self) {
            ready.extend(self.poll.wait(Patience::Milliseconds(POLL_MS))?);
            for slot in ready.drain(..) {
                self.receive(slot)?;
            }
            if last_sweep.elapsed() > SWEEP {
                self.abandon_old()?;
                last_sweep = Instant::now();
            }
            if self.completed > progress.0 {
                progress = (self.completed, Instant::now());
            }
            ensure!(progress.1.elapsed() < STALL, "no allocation in {STALL:?} after {}", self.completed);
        }
        Ok(())
    }

    fn start(&mut self, slot: usize) -> anyhow::Result<()> {
        let socket = self.fresh_socket()?;
        self.poll.watch(socket.as_raw_fd(), slot)?;
        self.started += 1;
        let mut transaction = [0; 12];
        transaction[4..].copy_from_slice(&self.started.to_be_bytes());
        let request = MessageBuilder::new(Method::ALLOCATE, Class::Request, &transaction)
            .attribute(attribute::REQUESTED_TRANSPORT, &TRANSPORT_UDP)
            .finish();
        socket.send(&request)?;
        let since = Instant::now();
        self.slots[slot] =
            Some(Cycle { socket, step: Step::Challenge, transaction, nonce: Vec::new(), since });
        Ok(())
    }

    /// Ports follow each other, so that a server that remembers old ones for a while sees none twice.
    fn fresh_socket(&mut self) -> anyhow::Result<UdpSocket> {
        for _ in PORTS {
            let port = self.next_port;
            self.next_port = if port + 1 == PORTS.end { PORTS.start } else { port + 1 };
            match connected_socket(port) {
                Ok(socket) => {
                    socket.set_nonblocking(true)?;
                    return Ok(socket);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("all ports from {} to {} are taken", PORTS.start, PORTS.end)
    }

    fn receive(&mut self, slot: usize) -> anyhow::Result<()> {
        let mut buffer = [0; 1500];
        let Some(mut cycle) = self.slots[slot].take() else { return Ok(()) };
        let length = match cycle.socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.slots[slot] = Some(cycle);
                return Ok(());
            }
            Err(error) => return Err(error).context("the server's port is closed"),
        };
        let message = Message::parse(&buffer[..length]).context("an answer is no STUN message")?;
        ensure!(message.transaction() == cycle.transaction, "an answer has another transaction id");
        if cycle.advance(&message, self.ending, &self.key)? {
            self.slots[slot] = Some(cycle);
            return Ok(());
        }
        drop(cycle);
        self.completed += 1;
        self.start(slot)
    }

    fn abandon_old(&mut self) -> anyhow::Result<()> {
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|cycle| cycle.since.elapsed() > ABANDON_AFTER) {
                self.abandoned += 1;
                self.start(slot)?;
            }
        }
        Ok(())
    }
}

impl Cycle {
    /// Takes the answer to the last request and sends the next; false when there is none left to send.
    fn advance(&mut self, message: &Message<'_>, ending: Ending, key: &[u8]) -> anyhow::Result<bool> {
        match self.step {
            Step::Challenge => {
                let code = message.error_code().map(|(code, _)| code);
                ensure!(code == Some(401), "the first Allocate got {code:?} instead of 401");
                ensure!(message.attribute(attribute::REALM) == Some(REALM.as_bytes()), "unexpected realm");
                self.nonce = message.attribute(attribute::NONCE).context("401 without a nonce")?.to_vec();
                self.send(Method::ALLOCATE, attribute::REQUESTED_TRANSPORT, TRANSPORT_UDP, key)?;
                self.step = Step::Allocation;
                Ok(true)
            }
            Step::Allocation => {
                expect_success(message, key)?;
                let relayed = message.xor_address(attribute::XOR_RELAYED_ADDRESS);
                ensure!(relayed.is_some(), "an allocation without a relayed address");
                if ending == Ending::Keep {
                    return Ok(false);
                }
                self.send(Method::REFRESH, attribute::LIFETIME, [0; 4], key)?;
                self.step = Step::Deletion;
                Ok(true)
            }
            Step::Deletion => {
                expect_success(message, key)?;
                ensure!(message.attribute_u32(attribute::LIFETIME) == Some(0), "deleted, but not to 0 s");
                Ok(false)
            }
        }
    }

    fn send(&mut self, method: Method, kind: u16, value: [u8; 4], key: &[u8]) -> anyhow::Result<()> {
        self.transaction[0] += 1;
        let request = MessageBuilder::new(method, Class::Request, &self.transaction)
            .attribute(kind, &value)
            .attribute(attribute::USERNAME, USER.as_bytes())
            .attribute(attribute::REALM, REALM.as_bytes())
            .attribute(attribute::NONCE, &self.nonce)
            .integrity(key)
            .finish();
        self.socket.send(&request)?;
        Ok(())
    }
}

fn expect_success(message: &Message<'_>, key: &[u8]) -> anyhow::Result<()> {
    if let Some((code, reason)) = message.error_code() {
        bail!("the server refused: {code} {reason}");
    }
    ensure!(message.class() == Class::Success, "neither success nor error: {:?}", message.class());
    ensure!(message.integrity_holds(key), "a success response without right integrity");
    Ok(())
}

const IN_FLIGHT: usize = 32;
const WARM_UP: usize = 500;
const PORTS: std::ops::Range<u16> = 4_000..64_000;
const POLL_MS: i32 = 10;
const SWEEP: Duration = Duration::from_millis(100);
/// Longer than any server needs: what has not been answered by then was lost.
const ABANDON_AFTER: Duration = Duration::from_secs(1);
const STALL: Duration = Duration::from_secs(5);
const MEMORY_SETTLES: Duration = Duration::from_millis(300);
