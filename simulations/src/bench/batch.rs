//! Preallocated buffers for recvmmsg and sendmmsg: many datagrams per system call, none of them copied in between.
//!
//! A slot holds one datagram. What was received into a slot can be sent from it again. IPv4 only, as the lab is.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::RawFd;
use std::time::Duration;

/// Slots for datagrams of up to [`SLOT_BYTES`].
pub struct Batch {
    messages: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    addresses: Box<[libc::sockaddr_in]>,
    controls: Box<[Control]>,
    buffers: Box<[[u8; SLOT_BYTES]]>,
    ancillary: Ancillary,
}

/// What is wanted of a received datagram besides its bytes; each costs a little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ancillary {
    /// Nothing.
    None,
    /// Where it came from.
    Source,
    /// When it arrived, if the socket has SO_TIMESTAMPNS.
    Timestamp,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

impl Batch {
    /// Allocates `slots` slots, all empty.
    pub fn new(slots: usize, ancillary: Ancillary) -> Self {
        let mut buffers = vec![[0; SLOT_BYTES]; slots].into_boxed_slice();
        let vectors =
            buffers.iter_mut().map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 0 });
        let mut vectors: Box<[libc::iovec]> = vectors.collect();
        let messages = vectors.iter_mut().map(|vector| {
            // SAFETY: mmsghdr is plain data for which all zero bytes are a valid value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        });
        let messages = messages.collect();
        let addresses = vec![socket_address(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); slots].into();
        let controls = vec![Control([0; CONTROL_BYTES]); slots].into();
        Self { messages, vectors, addresses, controls, buffers, ancillary }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.messages.len()
    }

    /// Fills slots from `range.start` on with what the socket has; returns how many datagrams there were, at most
    /// the length of `range` and 0 if there are none now.
    pub fn receive(&mut self, socket: RawFd, range: Range<usize>) -> io::Result<usize> {
        for slot in range.clone() {
            self.expect(slot);
        }
        let messages = &mut self.messages[range];
        // SAFETY: every header points to a buffer, an address and a control area of this batch, which outlive the
        // call, are as long as the header says, and are borrowed mutably here.
        let count = unsafe {
            libc::recvmmsg(
                socket,
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count >= 0 {
            return Ok(count as usize);
        }
        none_if_harmless(io::Error::last_os_error())
    }

    /// Sends the datagrams in `range` in order; returns how many the kernel took before it would block.
    pub fn send(&mut self, socket: RawFd, range: Range<usize>) -> io::Result<usize> {
        let mut sent = 0;
        let messages = &mut self.messages[range];
        while sent < messages.len() {
            let rest = &mut messages[sent..];
            // SAFETY: every header points to a buffer and, if it has a name, to an address of this batch; both
            // outlive the call, and the kernel only reads them.
            let count = unsafe {
                libc::sendmmsg(socket, rest.as_mut_ptr(), rest.len() as libc::c_uint, libc::MSG_DONTWAIT)
            };
            if count > 0 {
                sent += count as usize;
                continue;
            }
            let error = io::Error::last_os_error();
            let refused_before = error.raw_os_error() == Some(libc::ECONNREFUSED);
            if !refused_before {
                none_if_harmless(error)?;
                break;
            }
        }
        Ok(sent)
    }

    /// The received (or prepared) datagram of a slot.
    pub fn bytes(&self, slot: usize) -> &[u8] {
        &self.buffers[slot][..self.messages[slot].msg_len as usize]
    }

    /// Where a received datagram came from; needs [`Ancillary::Source`].
    pub fn source(&self, slot: usize) -> SocketAddrV4 {
        let address = &self.addresses[slot];
        let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
        SocketAddrV4::new(ip, u16::from_be(address.sin_port))
    }

    /// When the kernel got a received datagram, on the clock of CLOCK_REALTIME; needs [`Ancillary::Timestamp`].
    pub fn timestamp(&self, slot: usize) -> Option<Duration> {
        let header = &self.messages[slot].msg_hdr;
        // SAFETY: the kernel filled the control area that the header describes; CMSG_FIRSTHDR checks its length,
        // and only one control message is asked for.
        let control = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
        if (control.cmsg_level, control.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
            return None;
        }
        // SAFETY: a message of this type carries one timespec; it may be unaligned.
        let time: libc::timespec =
            unsafe { libc::CMSG_DATA(control).cast::<libc::timespec>().read_unaligned() };
        Some(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Turns a received datagram around: it will be sent to `destination`, or to the socket's peer.
    pub fn readdress(&mut self, slot: usize, destination: Option<libc::sockaddr_in>) {
        let length = self.messages[slot].msg_len as usize;
        self.address(slot, length, destination);
    }

    /// Prepares a datagram: `write` fills the buffer and returns the length.
    pub fn prepare(
        &mut self,
        slot: usize,
        destination: Option<libc::sockaddr_in>,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let length = write(&mut self.buffers[slot]);
        self.address(slot, length, destination);
    }

    fn expect(&mut self, slot: usize) {
        let message = &mut self.messages[slot];
        self.vectors[slot].iov_len = SLOT_BYTES;
        let header = &mut message.msg_hdr;
        (header.msg_name, header.msg_namelen) = (std::ptr::null_mut(), 0);
        (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
        match self.ancillary {
            Ancillary::None => {}
            Ancillary::Source => {
                header.msg_name = (&raw mut self.addresses[slot]).cast();
                header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            Ancillary::Timestamp => {
                header.msg_control = (&raw mut self.controls[slot]).cast();
                header.msg_controllen = CONTROL_BYTES as _;
            }
        }
    }

    fn address(&mut self, slot: usize, length: usize, destination: Option<libc::sockaddr_in>) {
        let message = &mut self.messages[slot];
        message.msg_len = length as libc::c_uint;
        self.vectors[slot].iov_len = length;
        let header = &mut message.msg_hdr;
        (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
        (header.msg_name, header.msg_namelen) = (std::ptr::null_mut(), 0);
        if let Some(destination) = destination {
            self.addresses[slot] = destination;
            header.msg_name = (&raw mut self.addresses[slot]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
    }
}

/// The kernel's form of an address.
pub fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// An earlier datagram that bounced (ECONNREFUSED) and an empty or full socket are no errors of this call.
fn none_if_harmless(error: io::Error) -> io::Result<usize> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED | libc::ENOBUFS) => Ok(0),
        Some(_) | None => Err(error),
    }
}

/// One Ethernet frame's worth of datagram, rounded up.
pub const SLOT_BYTES: usize = 2048;
/// Room for one control message with a timespec.
const CONTROL_BYTES: usize = 64;
