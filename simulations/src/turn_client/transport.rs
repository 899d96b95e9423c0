//! How the client's messages travel: one per datagram, or framed by their own length in a stream (RFC 8656 §12.5).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

#[derive(Debug)]
pub(super) enum Transport {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, unread: Vec<u8> },
}

impl Transport {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self::Tcp { stream, unread: Vec::new() }
    }

    pub(super) fn is_stream(&self) -> bool {
        match self {
            Self::Udp(_) => false,
            Self::Tcp { .. } => true,
        }
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp { stream, .. } => stream.local_addr(),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(bytes).map(drop),
            Self::Tcp { stream, .. } => stream.write_all(bytes),
        }
    }

    /// The next message, or `None` at the deadline. A stream that the server closed is `UnexpectedEof`.
    pub(super) fn receive(&mut self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Udp(socket) => {
                let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
                let Some(left) = left_until(deadline) else { return Ok(None) };
                socket.set_read_timeout(Some(left))?;
                let Some(length) = unless_timed_out(socket.recv(&mut buffer))? else { return Ok(None) };
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Self::Tcp { stream, unread } => receive_framed(stream, unread, deadline),
        }
    }
}

fn receive_framed(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(length) = framed_length(unread).filter(|length| *length <= unread.len()) {
            let rest = unread.split_off(length);
            return Ok(Some(std::mem::replace(unread, rest)));
        }
        let Some(left) = left_until(deadline) else { return Ok(None) };
        stream.set_read_timeout(Some(left))?;
        match unless_timed_out(stream.read(&mut buffer))? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(length) => unread.extend_from_slice(&buffer[..length]),
            None => return Ok(None),
        }
    }
}

/// Length of the message at the front of a stream: ChannelData is padded to four bytes there.
fn framed_length(bytes: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    let is_channel_data = bytes.first()? & 0xC0 == 0x40;
    Some(if is_channel_data { 4 + length.next_multiple_of(4) } else { 20 + length })
}

fn left_until(deadline: Instant) -> Option<std::time::Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

fn unless_timed_out(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Ok(length) => Ok(Some(length)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(None),
            _other => Err(error),
        },
    }
}

const DATAGRAM_BYTES_MAX: usize = 65_535;
