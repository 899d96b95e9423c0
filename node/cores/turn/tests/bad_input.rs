//! A million mutated messages over each kind of transport, in every state a client can be in: no panic, nothing odd
//! comes out, and memory stays flat. The mutations are drawn from a fixed seed.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "another test program uses the rest of the world")]
mod support;

use counting::{CountingAllocator, tally};
use support::{Client, Draft, OTHER_PEER, PEER, PEER_V6, REALM, Settings, World, at, channel_data, flow};
use trunkline_wire::framing::{Frame, next_frame};
use trunkline_wire::stun::{Class, Method, attribute as kind};
use trunkline_wire::{StreamId, Transport};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const MESSAGES: usize = 1_000_000;
const BYTES_MAX: i64 = 64 * 1_024;
/// So many messages, then the clients are put into their states again.
const ROUND: usize = 250;

/// Marsaglia's xorshift64: the same numbers on every machine.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound
    }

    /// A byte that is often one of those that matter.
    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => [0, 1, 2, 3, 4, 17, 20, 0x40, 0x7F, 0x80, 0xFF][self.below(11)],
            _ => self.next() as u8,
        }
    }
}

/// Clients in every state: without a nonce, without an allocation, with one, with peers, with channels, of both
/// families, and one whose allocation another user made.
struct Cast {
    world: World,
    clients: Vec<Client>,
    drafts: Vec<Vec<u8>>,
    plain: Vec<Vec<u8>>,
}

impl Cast {
    fn new(transports: &[Transport]) -> Self {
        let world = Settings { slices: 2, ..Settings::default() }.world();
        let client = |number: usize| {
            let flow =
                flow(transports[number % transports.len()], &format!("198.41.7.7:{}", 40_000 + number));
            Client::new(flow, "alice", "wonderland")
        };
        let clients = (0..7).map(client).collect();
        let mut cast = Self { world, clients, drafts: drafts(), plain: plain() };
        cast.establish();
        cast
    }

    fn establish(&mut self) {
        let Self { world, clients, .. } = self;
        for client in clients.iter_mut().skip(1) {
            client.nonce = None;
            client.fetch_nonce(world);
        }
        for client in &mut clients[2..] {
            client.ask(world, Draft::refresh(0));
        }
        clients[5].ask(world, Draft::allocate().additional_family(2));
        for number in [2, 3, 4] {
            clients[number].ask(world, Draft::allocate());
        }
        for number in [3, 4, 5] {
            clients[number].ask(world, Draft::create_permission(&[at(PEER), at(OTHER_PEER)]));
        }
        for number in [4, 5] {
            clients[number].ask(world, Draft::channel_bind(0x4000, at(PEER)));
        }
        let bob = Client { flow: clients[6].flow, nonce: clients[6].nonce.clone(), ..Client::bob() };
        bob.clone().ask(world, Draft::allocate());
        while world.server.poll_event().is_some() {}
    }

    /// A message of a client, mutated before or after it was signed, or both.
    fn mutated(&self, random: &mut Xorshift, client: usize) -> Vec<u8> {
        if random.below(2) == 0 {
            let mut message = self.plain[random.below(self.plain.len())].clone();
            mutate(random, &mut message, 0);
            return message;
        }
        let mut message = self.drafts[random.below(self.drafts.len())].clone();
        let before = random.below(3) > 0;
        if before {
            mutate(random, &mut message, 20);
        }
        sign(&mut message, &self.clients[client]);
        if !before || random.below(4) == 0 {
            mutate(random, &mut message, 0);
        }
        message
    }

    /// All that was made expires.
    fn rest(&mut self) {
        self.world.advance(4_000);
        assert_eq!((self.world.server.allocation_count(), self.world.ports_held()), (0, 0));
        while self.world.server.poll_event().is_some() {}
    }
}

/// Requests, to be signed.
fn drafts() -> Vec<Vec<u8>> {
    let peers = [at(PEER), at(PEER_V6), at(OTHER_PEER)];
    let drafts = [
        Draft::allocate(),
        Draft::allocate().lifetime(900).value(kind::DONT_FRAGMENT, &[]),
        Draft::allocate().even_port(0x80),
        Draft::allocate().additional_family(2),
        Draft::allocate().family(2).even_port(0),
        Draft::allocate().value(kind::RESERVATION_TOKEN, &[0, 3, 0, 9, 0x24, 1, 7, 7]),
        Draft::refresh(600),
        Draft::refresh(0).family(1),
        Draft::refresh(700).family(2).value(kind::SOFTWARE, b"a client"),
        Draft::create_permission(&peers[..1]),
        Draft::create_permission(&peers),
        Draft::channel_bind(0x4000, at(PEER)),
        Draft::channel_bind(0x7FFF, at(PEER_V6)),
        Draft::request(Method::Binding).value(kind::ICE_PRIORITY, &[1; 4]),
    ];
    drafts.iter().map(Draft::bytes).collect()
}

/// What is not signed: indications, ChannelData, Binding, responses, and other protocols.
fn plain() -> Vec<Vec<u8>> {
    let mut plain = vec![
        Draft::send(at(PEER), b"payload").bytes(),
        Draft::send(at(PEER_V6), &[1; 300]).value(kind::DONT_FRAGMENT, &[]).fingerprint().bytes(),
        Draft::request(Method::Binding).fingerprint().bytes(),
        Draft::indication(Method::Binding).bytes(),
        Draft::indication(Method::Data).peer(at(PEER)).value(kind::DATA, b"x").bytes(),
        Draft::new(Class::Success, Method::Allocate).lifetime(600).bytes(),
        Draft::allocate().bytes(),
        channel_data(0x4000, b"payload"),
        channel_data(0x4001, &[2; 400]),
        channel_data(0x4000, b""),
        b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x20".to_vec(),
        b"\x80\x60\0\x01\0\0\0\0\0\0\0\0".to_vec(),
    ];
    plain[3].truncate(20);
    plain
}

/// Flips, overwrites, inserts, removes, repeats; `from` protects the front.
fn mutate(random: &mut Xorshift, message: &mut Vec<u8>, from: usize) {
    for _ in 0..=random.below(4) {
        if message.len() <= from {
            return;
        }
        let place = from + random.below(message.len() - from);
        match random.below(8) {
            0 => message[place] ^= 1 << random.below(8),
            1 | 2 => message[place] = random.byte(),
            3 => message.truncate(place),
            4 => message.insert(place, random.byte()),
            5 => drop(message.remove(place)),
            6 => {
                let end = place + random.below(message.len() - place + 1);
                let piece = message[place..end].to_vec();
                message.extend(piece);
            }
            // The low byte of what may be a length.
            _ => message.iter_mut().skip(place | 3).take(1).for_each(|low| *low = random.byte()),
        }
    }
    if random.below(2) == 0 && message.len() >= 20 && message[0] < 4 {
        message.resize(message.len().next_multiple_of(4), random.byte());
        set_length(message);
    }
}

fn set_length(message: &mut [u8]) {
    let length = u16::try_from(message.len() - 20).unwrap();
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

/// Appends USERNAME, REALM, NONCE and MESSAGE-INTEGRITY to whatever there is.
fn sign(message: &mut Vec<u8>, client: &Client) {
    message.resize(message.len().next_multiple_of(4), 0);
    let nonce = client.nonce.as_deref().unwrap_or_default();
    let named =
        [(kind::USERNAME, client.username.as_bytes()), (kind::REALM, REALM.as_bytes()), (kind::NONCE, nonce)];
    for (attribute, value) in named {
        append(message, attribute, value);
    }
    let tag = client.key.sign(message, message.len());
    append(message, kind::MESSAGE_INTEGRITY, &tag);
}

fn append(message: &mut Vec<u8>, attribute: u16, value: &[u8]) {
    message.extend(attribute.to_be_bytes());
    message.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    set_length(message);
}

/// Runs two halves of mutated input; the second may not need more memory than the first left behind.
fn run(cast: &mut Cast, mut half: impl FnMut(&mut Cast, usize)) {
    half(cast, MESSAGES / 10);
    cast.rest();
    let before = tally().live_bytes;
    half(cast, MESSAGES);
    cast.rest();
    let grown = tally().live_bytes - before;
    assert!(grown < BYTES_MAX, "{grown} bytes");
    let requests = cast.world.server.counters().requests;
    let opened = cast.world.server.counters().allocations_opened;
    assert!(requests.iter().all(|count| *count > 10_000), "the mutations reach every method: {requests:?}");
    assert!(opened > 10_000 && cast.world.server.counters().to_peer.packets > 1_000, "and deep: {opened}");
    cast.clients[1].nonce = None;
    cast.clients[1].allocate(&mut cast.world);
}

#[test]
fn a_million_mutated_datagrams_neither_panic_nor_grow_memory() {
    let mut random = Xorshift(0x5EED_0001);
    run(&mut Cast::new(&[Transport::Udp]), |cast, messages| {
        for number in 0..messages {
            if number % ROUND == 0 {
                cast.world.advance(random.next() % 700);
                cast.establish();
            }
            let client = random.below(cast.clients.len());
            let message = cast.mutated(&mut random, client);
            cast.world.receive(cast.clients[client].flow, &message);
        }
    });
}

#[test]
fn a_million_mutated_stream_messages_neither_panic_nor_grow_memory() {
    let mut random = Xorshift(0x5EED_0002);
    let mut buffers: [Vec<u8>; 7] = std::array::from_fn(|_| Vec::with_capacity(128 * 1_024));
    run(&mut Cast::new(&[Transport::Tcp, Transport::Tls]), |cast, messages| {
        for number in 0..messages {
            if number % ROUND == 0 {
                cast.world.advance(random.next() % 700);
                cast.establish();
            }
            let client = random.below(cast.clients.len());
            buffers[client].extend(cast.mutated(&mut random, client));
            read(cast, client, &mut buffers[client]);
        }
    });
}

/// Hands over whole frames as the shell does; a stream that cannot be understood, or whose sender announced a huge
/// message, is closed, and the client comes back with another.
fn read(cast: &mut Cast, client: usize, buffer: &mut Vec<u8>) {
    let flow = &mut cast.clients[client].flow;
    let mut rest = &buffer[..];
    loop {
        match next_frame(rest) {
            Frame::Complete { message, consumed } => {
                assert!(message <= consumed && consumed <= rest.len());
                cast.world.receive(*flow, &rest[..message]);
                rest = &rest[consumed..];
            }
            Frame::Incomplete { needed } if needed < 2_000 => {
                let consumed = buffer.len() - rest.len();
                buffer.drain(..consumed);
                return;
            }
            Frame::Incomplete { .. } | Frame::Invalid => {
                let World { server, sockets, .. } = &mut cast.world;
                server.handle_client_closed(flow, sockets);
                flow.stream = StreamId(flow.stream.0 + 1);
                return buffer.clear();
            }
        }
    }
}
