//! A message that a client is about to send, right or wrong as the test wants it.

use std::net::SocketAddr;

use trunkline_wire::stun::{Builder, Class, Key, Method, TransactionId, attribute as kind};

#[derive(Clone)]
enum Part {
    Value(u16, Vec<u8>),
    Address(u16, SocketAddr),
    Integrity(Key),
    Fingerprint,
}

#[derive(Clone)]
pub struct Draft {
    class: Class,
    pub method: u16,
    pub transaction: TransactionId,
    parts: Vec<Part>,
}

impl Draft {
    pub fn request(method: Method) -> Self {
        Self::new(Class::Request, method)
    }

    pub fn indication(method: Method) -> Self {
        Self::new(Class::Indication, method)
    }

    pub fn new(class: Class, method: Method) -> Self {
        Self { class, method: method.number(), transaction: TransactionId([9; 12]), parts: Vec::new() }
    }

    /// An Allocate for one UDP relay.
    pub fn allocate() -> Self {
        Self::request(Method::Allocate).value(kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
    }

    pub fn refresh(lifetime_s: u32) -> Self {
        Self::request(Method::Refresh).lifetime(lifetime_s)
    }

    pub fn create_permission(peers: &[SocketAddr]) -> Self {
        peers.iter().fold(Self::request(Method::CreatePermission), |draft, peer| draft.peer(*peer))
    }

    pub fn channel_bind(channel: u16, peer: SocketAddr) -> Self {
        let [a, b] = channel.to_be_bytes();
        Self::request(Method::ChannelBind).value(kind::CHANNEL_NUMBER, &[a, b, 0, 0]).peer(peer)
    }

    pub fn send(peer: SocketAddr, data: &[u8]) -> Self {
        Self::indication(Method::Send).peer(peer).value(kind::DATA, data)
    }

    pub fn value(mut self, attribute: u16, value: &[u8]) -> Self {
        self.parts.push(Part::Value(attribute, value.to_vec()));
        self
    }

    pub fn address(mut self, attribute: u16, address: SocketAddr) -> Self {
        self.parts.push(Part::Address(attribute, address));
        self
    }

    pub fn peer(self, peer: SocketAddr) -> Self {
        self.address(kind::XOR_PEER_ADDRESS, peer)
    }

    pub fn lifetime(self, seconds: u32) -> Self {
        self.value(kind::LIFETIME, &seconds.to_be_bytes())
    }

    pub fn family(self, family: u8) -> Self {
        self.value(kind::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0])
    }

    pub fn additional_family(self, family: u8) -> Self {
        self.value(kind::ADDITIONAL_ADDRESS_FAMILY, &[family, 0, 0, 0])
    }

    pub fn even_port(self, flags: u8) -> Self {
        self.value(kind::EVEN_PORT, &[flags])
    }

    pub fn transaction(mut self, number: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
        self.transaction = TransactionId([0x54, 1, 2, 3, a, b, c, d, e, f, g, h]);
        self
    }

    /// MESSAGE-INTEGRITY here; what follows comes behind it.
    pub fn integrity(mut self, key: &Key) -> Self {
        self.parts.push(Part::Integrity(key.clone()));
        self
    }

    pub fn fingerprint(mut self) -> Self {
        self.parts.push(Part::Fingerprint);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Builder::with_method_number(&mut out, self.class, self.method, self.transaction).finish();
        for part in &self.parts {
            self.append(&mut out, part);
        }
        out
    }

    /// Each part ends the message as if it were the last, as the wire format wants it.
    fn append(&self, out: &mut Vec<u8>, part: &Part) {
        let mut piece = Vec::new();
        let builder = Builder::with_method_number(&mut piece, self.class, self.method, self.transaction);
        match part {
            Part::Value(attribute, value) => builder.attribute(*attribute, value).finish(),
            Part::Address(attribute, address) => builder.xor_address(*attribute, *address).finish(),
            Part::Integrity(key) => {
                builder.finish();
                let tag = key.sign(out, out.len());
                piece.extend([0, 8, 0, 20]);
                piece.extend(tag);
            }
            Part::Fingerprint => {
                builder.finish();
                let length = out.len() + 8 - 20;
                set_length(out, length);
                let crc = crc32(out) ^ 0x5354_554E;
                piece.extend([0x80, 0x28, 0, 4]);
                piece.extend(crc.to_be_bytes());
            }
        }
        out.extend_from_slice(&piece[20..]);
        let length = out.len() - 20;
        set_length(out, length);
    }
}

fn set_length(message: &mut [u8], length: usize) {
    message[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
}

/// CRC-32 bit by bit, so that the library's table is not its own witness.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    })
}
