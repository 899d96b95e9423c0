//! A TURN client for tests and benchmarks (RFC 8656), over UDP or TCP, with long-term credentials (RFC 8489 §9.2).
//!
//! It waits for each answer, with the retransmissions of RFC 8489 §6.2.1 over UDP, and checks what a client can
//! check: transaction, integrity of the response, and that nothing else than the server answers. It must not depend
//! on the server's own codec.

pub mod message;
mod transport;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use message::{Class, Message, MessageBuilder, Method, TransactionId, attribute, long_term_key};
use transport::Transport;

/// A user name and its password, or what an application was given as `username` and `credential`.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// USERNAME of the long-term mechanism.
    pub user: String,
    /// Its password; it never goes over the wire.
    pub password: String,
}

impl Credentials {
    /// Credentials out of their two parts.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

/// What the server granted to an Allocate request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocated {
    /// Where peers reach this client.
    pub relayed: SocketAddr,
    /// This client as the server sees it.
    pub mapped: SocketAddr,
    /// Seconds until it must be refreshed.
    pub lifetime_s: u32,
}

/// Application data that came through the relay.
#[allow(missing_docs, reason = "the fields are what their types say")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A Data indication.
    Data { peer: SocketAddr, data: Vec<u8> },
    /// A ChannelData message.
    Channel { channel: u16, data: Vec<u8> },
}

/// Why an operation of the client failed.
#[allow(missing_docs, reason = "the fields are explained with their variant")]
#[derive(Debug)]
pub enum ClientError {
    /// The socket failed.
    Io(io::Error),
    /// Nothing (or nothing acceptable) came in time.
    Timeout,
    /// The server answered with this error code and reason.
    Refused { code: u16, reason: String },
    /// The server's answer breaks the specification; the text says how.
    Malformed(&'static str),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "socket: {error}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Refused { code, reason } => write!(f, "refused: {code} {reason}"),
            Self::Malformed(what) => write!(f, "malformed answer: {what}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ClientError {
    /// The STUN error code, if the server refused.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Io(_) | Self::Timeout | Self::Malformed(_) => None,
        }
    }
}

/// One client on one 5-tuple.
#[derive(Debug)]
pub struct TurnClient {
    transport: Transport,
    credentials: Credentials,
    challenge: Option<Challenge>,
    transactions: u64,
    /// Data that arrived while an answer was awaited.
    waiting: VecDeque<Received>,
}

/// Realm and nonce of the last 401 or 438, and the key that follows from the realm.
#[derive(Debug, Clone)]
struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: [u8; 16],
}

impl TurnClient {
    /// A client over UDP. `local` may have port 0.
    pub fn udp(local: SocketAddr, server: SocketAddr, credentials: Credentials) -> io::Result<Self> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(server)?;
        Ok(Self::over(Transport::Udp(socket), credentials))
    }

    /// A client over TCP, from whatever local address the system chooses.
    pub fn tcp(server: SocketAddr, credentials: Credentials) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, REQUEST_TIMEOUT)?;
        stream.set_nodelay(true)?;
        Ok(Self::over(Transport::tcp(stream), credentials))
    }

    fn over(transport: Transport, credentials: Credentials) -> Self {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let start = clock.map_or(0, |since| since.as_nanos() as u64);
        Self { transport, credentials, challenge: None, transactions: start, waiting: VecDeque::new() }
    }

    /// The local address of the 5-tuple.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.transport.local_address()
    }

    /// Gives up the client but keeps its socket, and with it the allocation; `None` for a TCP client.
    pub fn into_udp_socket(self) -> Option<UdpSocket> {
        match self.transport {
            Transport::Udp(socket) => Some(socket),
            Transport::Tcp { .. } => None,
        }
    }

    /// Asks for this client's address as the server sees it (RFC 8489 §7); needs no credentials.
    pub fn binding(&mut self) -> Result<SocketAddr, ClientError> {
        let transaction = self.next_transaction();
        let request = MessageBuilder::new(Method::BINDING, Class::Request, &transaction).finish();
        let answer = self.exchange(&request, Method::BINDING, &transaction)?;
        let message = checked(&answer)?;
        message.xor_address(attribute::XOR_MAPPED_ADDRESS).ok_or(ClientError::Malformed("no mapped address"))
    }

    /// Makes an allocation of the server's default lifetime and family (RFC 8656 §7.1).
    pub fn allocate(&mut self) -> Result<Allocated, ClientError> {
        self.allocate_with(|request| request)
    }

    /// Makes an allocation with further attributes, which `extend` appends to the request.
    pub fn allocate_with(
        &mut self,
        extend: impl Fn(MessageBuilder) -> MessageBuilder,
    ) -> Result<Allocated, ClientError> {
        let answer = self.request(Method::ALLOCATE, |request| {
            extend(request.attribute(attribute::REQUESTED_TRANSPORT, &TRANSPORT_UDP))
        })?;
        let message = checked(&answer)?;
        let missing = ClientError::Malformed("Allocate success lacks an address or the lifetime");
        let granted = (|| {
            Some(Allocated {
                relayed: message.xor_address(attribute::XOR_RELAYED_ADDRESS)?,
                mapped: message.xor_address(attribute::XOR_MAPPED_ADDRESS)?,
                lifetime_s: message.attribute_u32(attribute::LIFETIME)?,
            })
        })();
        granted.ok_or(missing)
    }

    /// Refreshes the allocation, or deletes it with 0; returns the lifetime granted, in seconds (RFC 8656 §8).
    pub fn refresh(&mut self, lifetime_s: u32) -> Result<u32, ClientError> {
        let answer = self.request(Method::REFRESH, |request| {
            request.attribute(attribute::LIFETIME, &lifetime_s.to_be_bytes())
        })?;
        let granted = checked(&answer)?.attribute_u32(attribute::LIFETIME);
        granted.ok_or(ClientError::Malformed("Refresh success lacks the lifetime"))
    }

    /// Permits these peers to send to the allocation (RFC 8656 §10).
    pub fn create_permission(&mut self, peers: &[IpAddr]) -> Result<(), ClientError> {
        self.request(Method::CREATE_PERMISSION, |request| {
            peers.iter().fold(request, |request, peer| {
                request.xor_address(attribute::XOR_PEER_ADDRESS, SocketAddr::new(*peer, 0))
            })
        })?;
        Ok(())
    }

    /// Binds a channel to a peer, which also permits it (RFC 8656 §12).
    pub fn channel_bind(&mut self, channel: u16, peer: SocketAddr) -> Result<(), ClientError> {
        let [high, low] = channel.to_be_bytes();
        self.request(Method::CHANNEL_BIND, |request| {
            request
                .attribute(attribute::CHANNEL_NUMBER, &[high, low, 0, 0])
                .xor_address(attribute::XOR_PEER_ADDRESS, peer)
        })?;
        Ok(())
    }

    /// Sends data to a peer in a Send indication (RFC 8656 §11.1).
    pub fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) -> io::Result<()> {
        let transaction = self.next_transaction();
        let indication = MessageBuilder::new(Method::SEND, Class::Indication, &transaction)
            .xor_address(attribute::XOR_PEER_ADDRESS, peer)
            .attribute(attribute::DATA, data)
            .finish();
        self.transport.send(&indication)
    }

    /// Sends data to a bound channel's peer (RFC 8656 §12.4).
    pub fn send_channel(&mut self, channel: u16, data: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(4 + data.len() + 3);
        frame.extend_from_slice(&channel.to_be_bytes());
        frame.extend_from_slice(&(data.len() as u16).to_be_bytes());
        frame.extend_from_slice(data);
        if self.transport.is_stream() {
            frame.resize(frame.len().next_multiple_of(4), 0);
        }
        self.transport.send(&frame)
    }

    /// Sends bytes as they are: for tests of what a server makes of them.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.transport.send(bytes)
    }

    /// Waits for data from a peer; [`ClientError::Timeout`] if none comes.
    pub fn receive(&mut self, timeout: Duration) -> Result<Received, ClientError> {
        if let Some(received) = self.waiting.pop_front() {
            return Ok(received);
        }
        let deadline = Instant::now() + timeout;
        while let Some(bytes) = self.transport.receive(deadline)? {
            if let Some(received) = application_data(&bytes) {
                return Ok(received);
            }
        }
        Err(ClientError::Timeout)
    }

    /// Sends an authenticated request, answering 401 once and 438 as often as a nonce may go stale; returns the
    /// bytes of the success response.
    pub fn request(
        &mut self,
        method: Method,
        attributes: impl Fn(MessageBuilder) -> MessageBuilder,
    ) -> Result<Vec<u8>, ClientError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let transaction = self.next_transaction();
            let mut request = attributes(MessageBuilder::new(method, Class::Request, &transaction));
            if let Some(challenge) = &self.challenge {
                request = authenticate(request, &self.credentials.user, challenge);
            }
            let answer = self.exchange(&request.finish(), method, &transaction)?;
            match checked(&answer) {
                Ok(message) => {
                    let key = self.challenge.as_ref().map(|challenge| challenge.key);
                    if key.is_some_and(|key| !message.integrity_holds(&key)) {
                        return Err(ClientError::Malformed("success response without right integrity"));
                    }
                    return Ok(answer);
                }
                Err(refused) => self.learn_challenge(&answer, refused, attempt)?,
            }
        }
    }

    /// Takes realm and nonce from a 401 or 438; any other refusal, or too many of these, goes to the caller.
    fn learn_challenge(
        &mut self,
        answer: &[u8],
        refused: ClientError,
        attempt: u32,
    ) -> Result<(), ClientError> {
        let retry = match refused.code() {
            Some(401) => self.challenge.is_none(),
            Some(438) => attempt <= STALE_NONCES_MAX,
            Some(_) | None => false,
        };
        if !retry {
            return Err(refused);
        }
        let message = Message::parse(answer).ok_or(ClientError::Malformed("not a STUN message"))?;
        let (realm, nonce) = (message.attribute(attribute::REALM), message.attribute(attribute::NONCE));
        let (Some(realm), Some(nonce)) = (realm, nonce) else {
            return Err(ClientError::Malformed("challenge without realm or nonce"));
        };
        let realm_text = std::str::from_utf8(realm);
        let realm_text = realm_text.map_err(|_| ClientError::Malformed("realm is not UTF-8"))?;
        let key = long_term_key(&self.credentials.user, realm_text, &self.credentials.password);
        self.challenge = Some(Challenge { realm: realm.to_vec(), nonce: nonce.to_vec(), key });
        Ok(())
    }

    /// Sends one request until an answer to it comes; other messages that are data are kept for later.
    fn exchange(
        &mut self,
        request: &[u8],
        method: Method,
        transaction: &TransactionId,
    ) -> Result<Vec<u8>, ClientError> {
        let give_up = Instant::now() + REQUEST_TIMEOUT;
        let mut interval = RETRANSMISSION_FIRST;
        while Instant::now() < give_up {
            self.transport.send(request)?;
            let patience = if self.transport.is_stream() { REQUEST_TIMEOUT } else { interval };
            let deadline = give_up.min(Instant::now() + patience);
            while let Some(bytes) = self.transport.receive(deadline)? {
                if answers(&bytes, method, transaction) {
                    return Ok(bytes);
                }
                self.waiting.extend(application_data(&bytes));
            }
            interval *= 2;
        }
        Err(ClientError::Timeout)
    }

    fn next_transaction(&mut self) -> TransactionId {
        self.transactions = self.transactions.wrapping_add(1);
        let mut transaction = *b"lab:........";
        transaction[4..].copy_from_slice(&self.transactions.to_be_bytes());
        transaction
    }
}

/// Appends the attributes of the long-term credential mechanism, integrity last.
fn authenticate(request: MessageBuilder, user: &str, challenge: &Challenge) -> MessageBuilder {
    request
        .attribute(attribute::USERNAME, user.as_bytes())
        .attribute(attribute::REALM, &challenge.realm)
        .attribute(attribute::NONCE, &challenge.nonce)
        .integrity(&challenge.key)
}

fn answers(bytes: &[u8], method: Method, transaction: &TransactionId) -> bool {
    Message::parse(bytes).is_some_and(|message| {
        message.method() == method
            && matches!(message.class(), Class::Success | Class::Error)
            && message.transaction() == transaction
    })
}

fn checked(answer: &[u8]) -> Result<Message<'_>, ClientError> {
    let message = Message::parse(answer).ok_or(ClientError::Malformed("not a STUN message"))?;
    if message.class() == Class::Success {
        return Ok(message);
    }
    let refused = message.error_code().ok_or(ClientError::Malformed("error response without a code"))?;
    Err(ClientError::Refused { code: refused.0, reason: refused.1 })
}

fn application_data(bytes: &[u8]) -> Option<Received> {
    if bytes.first()? & 0xC0 == 0x40 {
        let channel = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
        let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
        return Some(Received::Channel { channel, data: bytes.get(4..4 + length)?.to_vec() });
    }
    let message = Message::parse(bytes)?;
    if (message.method(), message.class()) != (Method::DATA, Class::Indication) {
        return None;
    }
    let peer = message.xor_address(attribute::XOR_PEER_ADDRESS)?;
    Some(Received::Data { peer, data: message.attribute(attribute::DATA)?.to_vec() })
}

/// REQUESTED-TRANSPORT for UDP (RFC 8656 §18.7).
pub const TRANSPORT_UDP: [u8; 4] = [17, 0, 0, 0];
/// First retransmission timeout over UDP (RFC 8489 §6.2.1).
const RETRANSMISSION_FIRST: Duration = Duration::from_millis(500);
/// Shorter than the 39.5 s of RFC 8489: in the lab, silence for this long is a finding.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
const STALE_NONCES_MAX: u32 = 3;
