//! The highest rate that a server sustains: a fixed number of packets in flight, one more sent for each that arrives.
//!
//! Flows take turns packet by packet. The sequence numbers of a flow tell what was lost on the way. A packet that
//! arrives changed or in the wrong place ends the measurement as an error; one that comes late or twice is not counted.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::batch::{Ancillary, Batch, SLOT_BYTES};
use super::flows::{Direction, Flows};
use super::poll::{Patience, Poll};
use super::traffic::{Arrival, Ticket, Traffic};

/// What happened to packets during one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Arrived whole and in the right place.
    pub delivered: u64,
    /// Did not arrive.
    pub lost: u64,
}

impl Tally {
    /// Lost packets as a share of all whose fate is known.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / (self.delivered + self.lost).max(1) as f64
    }
}

/// A generator for one set of flows and one kind of packet.
pub struct ClosedLoop<'a, T> {
    flows: &'a Flows,
    traffic: T,
    direction: Direction,
    lanes: Vec<Lane>,
    turn: usize,
    in_flight: usize,
    tally: Tally,
    outgoing: Batch,
    incoming: Batch,
    frame: Box<[u8; SLOT_BYTES]>,
    addresses: Vec<libc::sockaddr_in>,
    poll: Poll,
    last_arrival: Instant,
}

/// Sequence numbers of one flow.
#[derive(Debug, Clone, Copy, Default)]
struct Lane {
    next: u32,
    expected: u32,
}

impl<'a, T: Traffic> ClosedLoop<'a, T> {
    /// Prepares a generator; nothing is sent yet.
    pub fn new(flows: &'a Flows, traffic: T, direction: Direction) -> anyhow::Result<Self> {
        let poll = Poll::new(flows.clients.len())?;
        for (number, client) in flows.clients.iter().enumerate() {
            poll.watch(client.as_raw_fd(), number)?;
        }
        Ok(Self {
            flows,
            traffic,
            direction,
            lanes: vec![Lane::default(); flows.clients.len()],
            turn: 0,
            in_flight: 0,
            tally: Tally::default(),
            outgoing: Batch::new(BURST, Ancillary::None),
            incoming: Batch::new(BURST, Ancillary::None),
            frame: Box::new([0; SLOT_BYTES]),
            addresses: flows.relays.iter().map(|relay| super::batch::socket_address(*relay)).collect(),
            poll,
            last_arrival: Instant::now(),
        })
    }

    /// Keeps `window` packets in flight for so long and says what became of them. The packets in flight at the end
    /// stay so: a further run goes on from there.
    pub fn run(&mut self, window: usize, duration: Duration) -> anyhow::Result<Tally> {
        let before = self.tally;
        let started = Instant::now();
        self.last_arrival = started;
        loop {
            let now = Instant::now();
            if now.duration_since(started) >= duration {
                break;
            }
            self.send_up_to(window)?;
            let arrived = match self.direction {
                Direction::ClientToPeer => self.receive_at_peer()?,
                Direction::PeerToClient | Direction::ClientToClient => self.receive_at_clients()?,
            };
            if arrived > 0 {
                self.last_arrival = now;
            } else if self.in_flight > 0 && now.duration_since(self.last_arrival) > STALL {
                self.give_up_in_flight(now);
            }
        }
        Ok(Tally { delivered: self.tally.delivered - before.delivered, lost: self.tally.lost - before.lost })
    }

    fn send_up_to(&mut self, window: usize) -> anyhow::Result<()> {
        let burst = window.saturating_sub(self.in_flight).min(BURST);
        match self.direction {
            Direction::ClientToPeer | Direction::ClientToClient => self.send_from_clients(burst),
            Direction::PeerToClient => self.send_from_peer(burst),
        }
    }

    fn send_from_clients(&mut self, burst: usize) -> anyhow::Result<()> {
        for _ in 0..burst {
            let ticket = self.next_ticket();
            let length = self.traffic.write(ticket, self.frame.as_mut_slice());
            let sent = self.flows.clients[ticket.flow].send(&self.frame[..length]);
            if let Err(error) = sent
                && error.kind() != std::io::ErrorKind::WouldBlock
            {
                bail!("client {} cannot send: {error}", ticket.flow);
            }
        }
        Ok(())
    }

    fn send_from_peer(&mut self, burst: usize) -> anyhow::Result<()> {
        for slot in 0..burst {
            let ticket = self.next_ticket();
            let destination = self.addresses[ticket.flow];
            self.outgoing.prepare(slot, Some(destination), |frame| self.traffic.write(ticket, frame));
        }
        if burst > 0 {
            self.outgoing.send(self.flows.peer.as_raw_fd(), 0..burst)?;
        }
        Ok(())
    }

    /// The next flow's next packet; from here on it is in flight, and lost unless it arrives.
    fn next_ticket(&mut self) -> Ticket {
        let flow = self.turn;
        self.turn = (self.turn + 1) % self.lanes.len();
        self.in_flight += 1;
        let lane = &mut self.lanes[flow];
        let sequence = lane.next;
        lane.next = lane.next.wrapping_add(1);
        Ticket { flow, sequence }
    }

    fn receive_at_peer(&mut self) -> anyhow::Result<usize> {
        let count = self.incoming.receive(self.flows.peer.as_raw_fd(), 0..BURST)?;
        self.account(Arrival::Peer, count)?;
        Ok(count)
    }

    fn receive_at_clients(&mut self) -> anyhow::Result<usize> {
        let mut total = 0;
        let mut ready = [0; BURST];
        let mut ready_count = 0;
        for (slot, client) in ready.iter_mut().zip(self.poll.wait(Patience::None)?) {
            *slot = client;
            ready_count += 1;
        }
        for client in &ready[..ready_count] {
            let socket = self.flows.clients[*client].as_raw_fd();
            let count = self.incoming.receive(socket, 0..PER_CLIENT)?;
            self.account(Arrival::Client(*client), count)?;
            total += count;
        }
        Ok(total)
    }

    fn account(&mut self, arrival: Arrival, count: usize) -> anyhow::Result<()> {
        for slot in 0..count {
            let frame = self.incoming.bytes(slot);
            let Some(ticket) = self.traffic.read(arrival, frame) else {
                bail!("a packet of {} bytes arrived changed or in the wrong place: {arrival:?}", frame.len());
            };
            let Some(lane) = self.lanes.get_mut(ticket.flow) else { bail!("no flow {}", ticket.flow) };
            let ahead = ticket.sequence.wrapping_sub(lane.expected);
            let sent_since = lane.next.wrapping_sub(lane.expected);
            if ahead >= sent_since {
                continue; // Given up for lost before, and counted so.
            }
            lane.expected = ticket.sequence.wrapping_add(1);
            self.in_flight -= ahead as usize + 1;
            self.tally.lost += u64::from(ahead);
            self.tally.delivered += 1;
        }
        Ok(())
    }

    /// After a silence longer than any server's queue, what has not arrived will not.
    fn give_up_in_flight(&mut self, now: Instant) {
        self.tally.lost += self.in_flight as u64;
        self.in_flight = 0;
        self.last_arrival = now;
        for lane in &mut self.lanes {
            lane.expected = lane.next;
        }
    }
}

/// Datagrams per system call at most, and packets sent before arrivals are looked at again.
const BURST: usize = 64;
const PER_CLIENT: usize = 16;
const STALL: Duration = Duration::from_millis(20);
