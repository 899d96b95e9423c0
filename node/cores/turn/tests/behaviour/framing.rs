//! Streams (RFC 8489 §6.2.2, RFC 8656 §12.5): the same messages come out however the bytes were cut.

use trunkline_wire::framing::{FRAME_BYTES_MAX, Frame, next_frame};
use trunkline_wire::{DropReason, Transport};

use crate::support::*;

/// Cuts what arrives into frames and hands them to the server, as the shell does.
#[derive(Default)]
struct Connection {
    buffered: Vec<u8>,
}

impl Connection {
    fn receive(&mut self, world: &mut World, client: &Client, bytes: &[u8]) -> Vec<Sent> {
        self.buffered.extend_from_slice(bytes);
        let mut sent = Vec::new();
        loop {
            match next_frame(&self.buffered) {
                Frame::Complete { message, consumed } => {
                    sent.extend(world.receive(client.flow, &self.buffered[..message]));
                    self.buffered.drain(..consumed);
                }
                Frame::Incomplete { needed } => {
                    assert!(needed > self.buffered.len() && needed <= FRAME_BYTES_MAX);
                    return sent;
                }
                Frame::Invalid => panic!("invalid: {:02x?}", self.buffered),
            }
        }
    }
}

fn established(transport: Transport) -> (World, Client) {
    let mut world = World::new();
    let mut alice = Client::alice_over(transport);
    alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, at(PEER));
    (world, alice)
}

/// ChannelData of every remainder, a Send indication and a request, one behind the other.
fn stream(alice: &mut Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (data, padding) in [(&b""[..], 0), (b"a", 3), (b"ab", 2), (b"abc", 1), (b"abcd", 0)] {
        bytes.extend([0x40, 0, 0, data.len() as u8]);
        bytes.extend_from_slice(data);
        bytes.extend(vec![0xEE; padding]);
    }
    let send = alice.fresh(Draft::send(at(PEER), b"indicated"));
    bytes.extend(send.bytes());
    let refresh = alice.fresh(Draft::refresh(700));
    bytes.extend(alice.signed(refresh).bytes());
    bytes
}

#[test]
fn channel_data_over_tcp_and_tls_survives_any_split() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let (mut world, mut alice) = established(transport);
        let bytes = stream(&mut alice);
        let expected = Connection::default().receive(&mut world, &alice, &bytes);
        let relayed: Vec<_> = expected[..6].iter().map(|sent| &sent.bytes[..]).collect();
        assert_eq!(relayed, [&b""[..], b"a", b"ab", b"abc", b"abcd", b"indicated"]);
        assert_eq!(Answer::parse(&expected[6].bytes).lifetime(), Some(700));
        for cut in 0..bytes.len() {
            let mut connection = Connection::default();
            let mut sent = connection.receive(&mut world, &alice, &bytes[..cut]);
            sent.extend(connection.receive(&mut world, &alice, &bytes[cut..]));
            assert_eq!(sent, expected, "cut at {cut}");
        }
        for size in 1..40 {
            let mut connection = Connection::default();
            let chunks = bytes.chunks(size);
            let sent: Vec<_> =
                chunks.flat_map(|chunk| connection.receive(&mut world, &alice, chunk)).collect();
            assert_eq!(sent, expected, "chunks of {size}");
        }
    }
}

#[test]
fn what_the_server_writes_to_a_stream_is_cut_into_the_same_messages() {
    let (mut world, mut alice) = established(Transport::Tcp);
    alice.permit(&mut world, at(OTHER_PEER));
    let relayed = world.sockets.open.values().next().unwrap().0;
    let mut written = Vec::new();
    let mut lengths = Vec::new();
    for length in 0..50 {
        for peer in [PEER, OTHER_PEER] {
            let sent = world.receive_from_peer(relayed, at(peer), &vec![1; length]).remove(0);
            lengths.push(sent.bytes.len());
            written.extend(sent.bytes);
        }
    }
    let mut rest = &written[..];
    for length in lengths {
        let Frame::Complete { consumed, .. } = next_frame(rest) else { panic!("a frame of {length}") };
        assert_eq!(consumed, length);
        rest = &rest[consumed..];
    }
    assert!(rest.is_empty());
}

#[test]
fn a_channel_that_is_not_bound_does_not_disturb_the_frames_behind_it() {
    let (mut world, alice) = established(Transport::Tcp);
    let sent = Connection::default().receive(&mut world, &alice, b"\x41\0\0\x01x\0\0\0\x40\0\0\x01y\0\0\0");
    assert_eq!((sent.len(), &sent[0].bytes[..]), (1, &b"y"[..]));
    assert_eq!(world.drops(DropReason::NoChannel), 1);
}
