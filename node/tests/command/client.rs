//! As much of a TURN client as an Allocate takes (RFC 8656 §7.1).

use std::net::UdpSocket;
use std::time::Duration;

use trunkline_turn::credentials::long_term_key;
use trunkline_wire::stun::attribute::{
    ERROR_CODE, NONCE, PROTOCOL_UDP, REALM, REQUESTED_TRANSPORT, USERNAME,
};
use trunkline_wire::stun::{Attributes, Builder, Class, Message, Method, TransactionId};

/// One 5-tuple.
pub struct Client {
    socket: UdpSocket,
}

/// What a server answered.
struct Response {
    bytes: Vec<u8>,
}

impl Client {
    pub fn new(port: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { socket }
    }

    /// Makes an allocation, or tells the error code.
    pub fn allocate(&self, username: &str, password: &str) -> Result<(), u16> {
        let mut request = vec![];
        Builder::new(&mut request, Class::Request, Method::Allocate, TransactionId([1; 12]))
            .attribute(REQUESTED_TRANSPORT, &[PROTOCOL_UDP, 0, 0, 0])
            .finish();
        let challenge = self.ask(&request);
        assert_eq!(challenge.error(), Some(401));
        let (realm, nonce) = challenge.realm_and_nonce();
        let key = long_term_key(username, &realm, password).unwrap();
        request.clear();
        Builder::new(&mut request, Class::Request, Method::Allocate, TransactionId([2; 12]))
            .attribute(REQUESTED_TRANSPORT, &[PROTOCOL_UDP, 0, 0, 0])
            .attribute(USERNAME, username.as_bytes())
            .attribute(REALM, realm.as_bytes())
            .attribute(NONCE, &nonce)
            .finish_with_integrity(&key);
        self.ask(&request).error().map_or(Ok(()), Err)
    }

    fn ask(&self, request: &[u8]) -> Response {
        self.socket.send(request).unwrap();
        let mut bytes = vec![0; 2_000];
        let length = self.socket.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        Response { bytes }
    }
}

impl Response {
    /// The number of ERROR-CODE, found by walking the attributes as a client does.
    fn error(&self) -> Option<u16> {
        let mut rest = self.bytes.get(20..)?;
        loop {
            let (&[t0, t1, l0, l1], behind) = rest.split_first_chunk()?;
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let value = behind.get(..length)?;
            if u16::from_be_bytes([t0, t1]) == ERROR_CODE {
                return Some(u16::from(value[2]) * 100 + u16::from(value[3]));
            }
            rest = behind.get(length.next_multiple_of(4)..)?;
        }
    }

    fn realm_and_nonce(&self) -> (String, Vec<u8>) {
        let message = Message::parse(&self.bytes).unwrap();
        let attributes = Attributes::parse(&message).unwrap();
        (String::from_utf8(attributes.realm.unwrap().to_vec()).unwrap(), attributes.nonce.unwrap().to_vec())
    }
}
