//! One TCP or TLS connection of a client: bytes in, bytes out, both bounded.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use rustls::ServerConnection;
use trunkline_wire::{ClientFlow, StreamId};

use super::sys::Interest;

/// Bytes that may wait for a client that reads too slowly. Half a second at 4 Mbit/s; beyond it packets are
/// dropped, as a full router would.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// Bytes of an unfinished frame that are kept for a client without an allocation. An Allocate with the longest
/// USERNAME, REALM and NONCE (RFC 8489 §14) has 2,200.
const STRANGER_FRAME_BYTES_MAX: usize = 4_096;

/// A client's connection.
pub struct Stream {
    /// Its id.
    pub id: StreamId,
    /// Its 5-tuple.
    pub flow: ClientFlow,
    /// Whether an allocation was ever made over it.
    pub authenticated: bool,
    /// What its descriptor is watched for.
    pub interest: Interest,
    socket: TcpStream,
    tls: Option<Box<ServerConnection>>,
    /// The front of a frame whose end has not come yet.
    partial: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that are gone already.
    sent: usize,
    /// Lengths of the messages in `output` that TLS has not taken yet. Each becomes a record of its own: clients
    /// are out there that expect one message from one read of a TLS connection.
    messages: VecDeque<u32>,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Bytes in the slot, from its start.
    pub bytes: usize,
    /// The other side will send no more.
    pub ended: bool,
    /// There is more that no readiness event will tell of: read again.
    pub more: bool,
}

/// A stranger's frame is larger than any request.
#[derive(Debug)]
pub struct FrameTooLarge;

/// The client reads too slowly.
#[derive(Debug)]
pub struct QueueFull;

impl Stream {
    /// An accepted connection, non-blocking.
    pub fn new(id: StreamId, flow: ClientFlow, socket: TcpStream, tls: Option<ServerConnection>) -> Self {
        Self {
            id,
            flow,
            authenticated: false,
            interest: Interest::Read,
            socket,
            tls: tls.map(Box::new),
            partial: Vec::new(),
            output: Vec::new(),
            sent: 0,
            messages: VecDeque::new(),
        }
    }

    /// The socket, for registering it.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Fills a slot with the partial frame kept from last time and what came since.
    pub fn read(&mut self, slot: &mut [u8]) -> io::Result<Filled> {
        let kept = self.partial.len().min(slot.len());
        let (front, room) = slot.split_at_mut(kept);
        front.copy_from_slice(self.partial.get(..kept).unwrap_or_default());
        self.partial.clear();
        let (read, ended, more) = match &mut self.tls {
            None => {
                let (read, ended) = read_some(&mut self.socket, room)?;
                (read, ended, false)
            }
            Some(tls) => read_tls(tls, &mut self.socket, room)?,
        };
        Ok(Filled { bytes: kept + read, ended, more })
    }

    /// Keeps the front of a frame for the next [`Stream::read`]; of a stranger's, no more than a request has.
    pub fn keep(&mut self, partial: &[u8]) -> Result<(), FrameTooLarge> {
        if !self.authenticated && partial.len() > STRANGER_FRAME_BYTES_MAX {
            return Err(FrameTooLarge);
        }
        self.partial.extend_from_slice(partial);
        Ok(())
    }

    /// Queues one message. All of it or nothing: a cut message would garble everything behind it.
    pub fn queue(&mut self, pieces: [&[u8]; 3]) -> Result<(), QueueFull> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.output.len() - self.sent + length > OUTPUT_BYTES_MAX {
            return Err(QueueFull);
        }
        if self.sent > self.output.len() - self.sent {
            self.forget_sent();
        }
        for piece in pieces {
            self.output.extend_from_slice(piece);
        }
        if self.tls.is_some() {
            self.messages.push_back(u32::try_from(length).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// Writes what the socket takes and says what to watch it for.
    pub fn pump(&mut self) -> io::Result<Interest> {
        loop {
            if let Some(tls) = &mut self.tls {
                while tls.wants_write() {
                    match tls.write_tls(&mut self.socket) {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            return Ok(Interest::ReadWrite);
                        }
                        Err(error) => return Err(error),
                    }
                }
                if tls.is_handshaking() {
                    return Ok(Interest::Read);
                }
            }
            let waiting = self.output.get(self.sent..).unwrap_or_default();
            if waiting.is_empty() {
                self.output.clear();
                self.sent = 0;
                return Ok(Interest::Read);
            }
            let written = match &mut self.tls {
                Some(tls) => {
                    let message = self.messages.pop_front().map_or(waiting.len(), |length| length as usize);
                    let written = tls.writer().write(waiting.get(..message).unwrap_or(waiting))?;
                    if written < message {
                        self.messages.push_front(u32::try_from(message - written).unwrap_or(u32::MAX));
                    }
                    written
                }
                None => match self.socket.write(waiting) {
                    Ok(written) => written,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Interest::ReadWrite),
                    Err(error) => return Err(error),
                },
            };
            self.sent += written;
        }
    }

    /// Moves what still waits to the front, so that the buffer does not grow while the client reads slowly. Done when
    /// more has been sent than waits, it moves each byte once at most.
    fn forget_sent(&mut self) {
        self.output.drain(..self.sent.min(self.output.len()));
        self.sent = 0;
    }
}

/// One read: how many bytes, and whether the stream ended.
fn read_some(from: &mut impl Read, into: &mut [u8]) -> io::Result<(usize, bool)> {
    match from.read(into) {
        Ok(0) => Ok((0, !into.is_empty())),
        Ok(read) => Ok((read, false)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok((0, false))
        }
        Err(error) => Err(error),
    }
}

/// One read of the socket through TLS: plaintext bytes, whether the stream ended, whether plaintext is left.
fn read_tls(
    tls: &mut ServerConnection,
    socket: &mut TcpStream,
    room: &mut [u8],
) -> io::Result<(usize, bool, bool)> {
    let ended = match tls.read_tls(socket) {
        Ok(0) => true,
        Ok(_) => false,
        // Its plaintext buffer is full: what lies in it is drained below, and we are called again.
        Err(error)
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::Other) =>
        {
            false
        }
        Err(error) => return Err(error),
    };
    let state = match tls.process_new_packets() {
        Ok(state) => state,
        Err(error) => {
            // The alert that tells the client why is waiting to be written.
            let _ = tls.write_tls(socket);
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
    };
    let mut read = 0;
    while let Some(rest) = room.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match tls.reader().read(rest) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok((read, true, false)),
            Err(error) => return Err(error),
        }
    }
    let left = state.plaintext_bytes_to_read() > read;
    Ok((read, ended || state.peer_has_closed(), left))
}
