//! What the packets of a measurement say, and how a packet that arrives is checked to the last byte.

use super::flows::{Direction, Flows, Framing, channel, partner};
use crate::turn_client::message::{Class, HEADER_BYTES, MAGIC_COOKIE, Message, Method, attribute};

/// One packet's identity: its flow and its number in the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Index of the flow.
    pub flow: usize,
    /// Number in the flow, from 0.
    pub sequence: u32,
}

/// Where a packet arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// At the socket of this client.
    Client(usize),
    /// At the peers' socket.
    Peer,
}

/// Writes packets and recognises them again.
pub trait Traffic {
    /// Writes the packet into `frame` and returns its length.
    fn write(&self, ticket: Ticket, frame: &mut [u8]) -> usize;

    /// The ticket of a packet that is complete, unchanged, and arrived where it should; `None` otherwise.
    fn read(&self, arrival: Arrival, frame: &[u8]) -> Option<Ticket>;
}

/// Payload through relays: flow, sequence, and a pattern that depends on both.
pub struct RelayTraffic {
    direction: Direction,
    framing: Framing,
    payload_bytes: usize,
    pattern: Vec<u8>,
}

impl RelayTraffic {
    /// Payloads of `payload_bytes` in one direction.
    pub fn new(direction: Direction, framing: Framing, payload_bytes: usize) -> Self {
        assert!(payload_bytes >= TICKET_BYTES, "a payload must hold its ticket");
        let mut state = PATTERN_SEED;
        let pattern = std::iter::repeat_with(|| xorshift(&mut state)).take(PATTERN_PHASES + payload_bytes);
        Self { direction, framing, payload_bytes, pattern: pattern.collect() }
    }

    fn filling(&self, ticket: Ticket) -> &[u8] {
        // Multiplication spreads every bit of flow and sequence into the upper bits, so that no two tickets that are
        // one flipped bit apart have the same filling.
        let mixed =
            (ticket.flow as u32).wrapping_mul(0x85EB_CA6B) ^ ticket.sequence.wrapping_mul(0x9E37_79B1);
        let phase = (mixed >> (u32::BITS - PATTERN_PHASES.trailing_zeros())) as usize;
        &self.pattern[phase..phase + self.payload_bytes - TICKET_BYTES]
    }

    fn write_payload(&self, ticket: Ticket, payload: &mut [u8]) {
        payload[..4].copy_from_slice(&(ticket.flow as u32).to_be_bytes());
        payload[4..TICKET_BYTES].copy_from_slice(&ticket.sequence.to_be_bytes());
        payload[TICKET_BYTES..].copy_from_slice(self.filling(ticket));
    }

    fn read_payload(&self, payload: &[u8]) -> Option<Ticket> {
        if payload.len() != self.payload_bytes {
            return None;
        }
        let flow = u32::from_be_bytes(payload[..4].try_into().ok()?) as usize;
        let ticket = Ticket { flow, sequence: u32::from_be_bytes(payload[4..8].try_into().ok()?) };
        (payload[TICKET_BYTES..] == *self.filling(ticket)).then_some(ticket)
    }

    /// ChannelData's header names the channel of the client whose socket the packet passes.
    fn header(&self, client: usize) -> [u8; 4] {
        let [[a, b], [c, d]] = [channel(client).to_be_bytes(), (self.payload_bytes as u16).to_be_bytes()];
        [a, b, c, d]
    }
}

impl Traffic for RelayTraffic {
    fn write(&self, ticket: Ticket, frame: &mut [u8]) -> usize {
        let framed = self.framing == Framing::ChannelData && self.direction != Direction::PeerToClient;
        let header_bytes = if framed { 4 } else { 0 };
        let length = header_bytes + self.payload_bytes;
        if framed {
            frame[..4].copy_from_slice(&self.header(ticket.flow));
        }
        self.write_payload(ticket, &mut frame[header_bytes..length]);
        length
    }

    fn read(&self, arrival: Arrival, frame: &[u8]) -> Option<Ticket> {
        let Arrival::Client(client) = arrival else { return self.read_payload(frame) };
        let payload = match self.framing {
            Framing::Bare => frame,
            Framing::ChannelData => frame.strip_prefix(&self.header(client))?,
        };
        let ticket = self.read_payload(payload)?;
        let destination = match self.direction {
            Direction::ClientToClient => partner(ticket.flow),
            Direction::ClientToPeer | Direction::PeerToClient => ticket.flow,
        };
        (destination == client).then_some(ticket)
    }
}

/// Binding requests; the ticket travels in the transaction id.
pub struct BindingTraffic<'a> {
    flows: &'a Flows,
}

impl<'a> BindingTraffic<'a> {
    /// Requests from the clients of `flows`.
    pub fn new(flows: &'a Flows) -> Self {
        Self { flows }
    }
}

impl Traffic for BindingTraffic<'_> {
    fn write(&self, ticket: Ticket, frame: &mut [u8]) -> usize {
        frame[..4].copy_from_slice(&[0x00, 0x01, 0x00, 0x00]);
        frame[4..8].copy_from_slice(&MAGIC_COOKIE);
        frame[8..12].copy_from_slice(&(ticket.flow as u32).to_be_bytes());
        frame[12..16].copy_from_slice(&ticket.sequence.to_be_bytes());
        frame[16..HEADER_BYTES].copy_from_slice(TRANSACTION_TAIL);
        HEADER_BYTES
    }

    fn read(&self, arrival: Arrival, frame: &[u8]) -> Option<Ticket> {
        let message = Message::parse(frame)?;
        let transaction = message.transaction();
        let flow = u32::from_be_bytes(transaction[..4].try_into().ok()?) as usize;
        let sequence = u32::from_be_bytes(transaction[4..8].try_into().ok()?);
        let answered = (message.method(), message.class()) == (Method::BINDING, Class::Success)
            && transaction[8..] == *TRANSACTION_TAIL
            && arrival == Arrival::Client(flow)
            && message.xor_address(attribute::XOR_MAPPED_ADDRESS)? == (*self.flows.mapped.get(flow)?).into();
        answered.then_some(Ticket { flow, sequence })
    }
}

/// A pattern that does not repeat within a payload; its quality as randomness does not matter.
fn xorshift(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}

const TICKET_BYTES: usize = 8;
/// A power of two.
const PATTERN_PHASES: usize = 2048;
const PATTERN_SEED: u64 = 0x9E37_79B9_7F4A_7C15;
const TRANSACTION_TAIL: &[u8; 4] = b"load";

#[cfg(test)]
mod tests {
    use super::*;

    const TICKET: Ticket = Ticket { flow: 5, sequence: 77 };

    #[test]
    fn changed_misplaced_or_cut_payload_is_recognised() {
        let traffic = RelayTraffic::new(Direction::PeerToClient, Framing::Bare, 160);
        let mut frame = [0; 2048];
        let length = traffic.write(TICKET, &mut frame);
        assert_eq!(traffic.read(Arrival::Client(5), &frame[..length]), Some(TICKET));
        assert_eq!(traffic.read(Arrival::Client(6), &frame[..length]), None);
        assert_eq!(traffic.read(Arrival::Client(5), &frame[..length - 1]), None);
        for bit in 0..length * 8 {
            let mut changed = frame;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(traffic.read(Arrival::Client(5), &changed[..length]), None, "bit {bit}");
        }
    }

    #[test]
    fn channel_data_is_expected_at_the_partner_with_the_partners_channel() {
        let traffic = RelayTraffic::new(Direction::ClientToClient, Framing::ChannelData, 160);
        let mut frame = [0; 2048];
        let length = traffic.write(TICKET, &mut frame);
        assert_eq!((length, &frame[..4]), (164, [0x40, 5, 0, 160].as_slice()));
        assert_eq!(traffic.read(Arrival::Client(4), &frame[..length]), None);
        frame[1] = 4;
        assert_eq!(traffic.read(Arrival::Client(4), &frame[..length]), Some(TICKET));
    }
}
