//! Payloads of a run: what is sent, and whether it comes out where the model says, byte for byte.

use trunkline_wire::stun::attribute;
use trunkline_wire::{Transmit, Via};

use super::delivery::Delivery;
use super::message::{Answer, DATA_INDICATION, Outgoing, SEND_INDICATION};
use super::operation::Operation;
use super::scene::{OTHER_NODE, SIBLING_SHARD, credential, flow};
use super::trial::Trial;
use trunkline_wire::DropReason;

/// A payload handed to the server and what must become of it.
struct Handed {
    message: Vec<u8>,
    payload: Vec<u8>,
    dont_fragment: bool,
    expected: Delivery,
    /// Drops counted so far for the reason that is expected.
    counted: u64,
}

impl Trial {
    pub(crate) fn relay(&mut self, operation: &Operation<'_>) {
        let handed = match operation {
            Operation::Send { flow, peer, length, dont_fragment, complete } => {
                self.hand_send(*flow, *peer, *length, *dont_fragment, *complete)
            }
            Operation::ChannelData { flow, channel, length, padded } => {
                self.hand_channel_data(*flow, *channel, *length, *padded)
            }
            Operation::FromPeer { flow, peer, length } => self.hand_from_peer(*flow, *peer, *length),
            Operation::Passed { relayed, peer, length } => Some(self.hand_passed(*relayed, *peer, *length)),
            _ => None,
        };
        if let Some(handed) = handed {
            self.check_delivery(&handed);
        }
    }

    fn hand_send(
        &mut self,
        from: usize,
        peer: usize,
        length: usize,
        dont_fragment: bool,
        complete: bool,
    ) -> Option<Handed> {
        let (peer, payload) = (self.peer(peer), payload(length));
        let mut message = Outgoing::new(SEND_INDICATION, self.next_transaction());
        message = message.with_peer(attribute::XOR_PEER_ADDRESS, peer.0);
        if dont_fragment {
            message = message.with(attribute::DONT_FRAGMENT, &[]);
        }
        let expected = if complete {
            message = message.with(attribute::DATA, &payload);
            self.model.send(from, peer)
        } else {
            Delivery::Dropped(DropReason::BadIndication)
        };
        Some(self.hand_client(from, message.bytes(), payload, dont_fragment, expected))
    }

    fn hand_channel_data(
        &mut self,
        from: usize,
        channel: u16,
        length: usize,
        padded: bool,
    ) -> Option<Handed> {
        let payload = payload(length);
        let mut message = channel.to_be_bytes().to_vec();
        message.extend(u16::try_from(length).expect("a length").to_be_bytes());
        message.extend(&payload);
        if padded {
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let expected = match channel {
            0x4000..=0x7FFF => self.model.channel_data(from, channel),
            _ => Delivery::Dropped(DropReason::NotTurn),
        };
        Some(self.hand_client(from, message, payload, false, expected))
    }

    fn hand_client(
        &mut self,
        from: usize,
        message: Vec<u8>,
        payload: Vec<u8>,
        dont_fragment: bool,
        expected: Delivery,
    ) -> Handed {
        let counted = self.counted(expected);
        self.deliver(from, &message);
        Handed { message, payload, dont_fragment, expected, counted }
    }

    /// `None` when the flow never had an allocation.
    fn hand_from_peer(&mut self, to: usize, peer: usize, length: usize) -> Option<Handed> {
        let (id, peer, message) = (self.ids[to]?, self.peer(peer).0, payload(length));
        let expected = self.model.arrive(to, peer);
        let counted = self.counted(expected);
        self.hand_over(|server, now, egress| server.handle_peer(now, id, peer, Self::body(length), egress));
        Some(Handed { payload: message.clone(), message, dont_fragment: false, expected, counted })
    }

    fn hand_passed(&mut self, relayed: usize, peer: usize, length: usize) -> Handed {
        let (relayed, peer, message) = (self.peer(relayed).0, self.peer(peer).0, payload(length));
        let expected = self.model.arrive_at(relayed, peer);
        let counted = self.counted(expected);
        self.hand_over(|server, now, egress| {
            server.handle_relayed(now, relayed, peer, Self::body(length), egress)
        });
        Handed { payload: message.clone(), message, dont_fragment: false, expected, counted }
    }

    fn counted(&self, expected: Delivery) -> u64 {
        match expected {
            Delivery::Dropped(reason) => self.drops_of(reason),
            _ => 0,
        }
    }

    fn check_delivery(&self, handed: &Handed) {
        let expected = handed.expected;
        if let Delivery::Dropped(reason) = expected {
            assert!(self.egress.transmits().is_empty(), "{reason:?}, yet {:?}", self.egress.transmits());
            assert_eq!(self.drops_of(reason), handed.counted + 1, "{reason:?} must be counted");
            return assert_eq!(self.drops_since(), 1, "counted once");
        }
        assert_eq!(self.drops_since(), 0, "{expected:?}, yet dropped: {:?}", self.server.counters().drops);
        let [transmit] = self.egress.transmits() else {
            panic!("{expected:?}, yet {:?}", self.egress.transmits());
        };
        assert_eq!(Self::relayed(&handed.message, transmit), handed.payload, "{expected:?}");
        match expected {
            Delivery::Client { flow: to, channel, peer } => {
                assert_eq!((transmit.via, transmit.to), (Via::Client(flow(to)), flow(to).remote));
                check_framing(to, channel, peer, &handed.payload, transmit);
            }
            Delivery::Outside { from, to } => {
                let socket = self.sockets.at(from).expect("an open socket").0;
                check_bare(transmit, Via::Relay(socket), to, handed);
            }
            Delivery::Sibling { from, to } => {
                check_bare(transmit, Via::Shard { shard: SIBLING_SHARD, from }, to, handed)
            }
            Delivery::OtherNode { from, to } => {
                check_bare(transmit, Via::Node { node: OTHER_NODE, from }, to, handed)
            }
            Delivery::Dropped(_) => {}
        }
    }
}

/// Bytes that differ by place, so that a wrong range shows.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 7 + 1) as u8).collect()
}

/// The payload and nothing else.
fn check_bare(transmit: &Transmit, via: Via, to: std::net::SocketAddr, handed: &Handed) {
    assert_eq!((transmit.via, transmit.to), (via, to));
    assert!(transmit.head.as_slice().is_empty() && transmit.padding == 0);
    assert_eq!(transmit.dont_fragment, handed.dont_fragment);
}

/// What a client reads: ChannelData where the peer has a channel, else a Data indication.
fn check_framing(
    to: usize,
    channel: Option<u16>,
    peer: std::net::SocketAddr,
    payload: &[u8],
    transmit: &Transmit,
) {
    let padding = vec![0; usize::from(transmit.padding)];
    let message = [transmit.head.as_slice(), payload, &padding].concat();
    let Some(channel) = channel else {
        let indication = Answer::read(&message, &credential(0));
        assert_eq!((indication.kind, indication.signed), (DATA_INDICATION, false));
        assert_eq!(indication.addresses(attribute::XOR_PEER_ADDRESS), [peer]);
        return assert_eq!(indication.value(attribute::DATA), Some(payload));
    };
    let [c0, c1] = channel.to_be_bytes();
    let [l0, l1] = u16::try_from(payload.len()).expect("a length").to_be_bytes();
    assert_eq!(transmit.head.as_slice(), [c0, c1, l0, l1]);
    let padded =
        if flow(to).transport.is_stream() { message.len().is_multiple_of(4) } else { padding.is_empty() };
    assert!(padded && padding.len() < 4, "{} bytes of padding", padding.len());
}
