//! The system calls that no library wraps: epoll, recvmmsg, sendmmsg, and a few socket options.
//!
//! All `unsafe` of the node stands here. Everything else works with owned descriptors and slices.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

/// Turns a -1 into the error that the kernel left.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Length of a C structure as the kernel wants it.
const fn length_of<T>() -> libc::socklen_t {
    mem::size_of::<T>() as libc::socklen_t
}

/// What a registered descriptor is ready for.
#[derive(Clone, Copy)]
pub struct Ready {
    /// The token it was registered with.
    pub token: u64,
    /// Bytes can be read, or the other side is gone.
    pub readable: bool,
    /// Bytes can be written.
    pub writable: bool,
}

/// A level-triggered epoll instance; clones watch through the same one.
#[derive(Clone)]
pub struct Epoll(Rc<OwnedFd>);

/// Room for what one wait reports.
pub struct Events(Vec<libc::epoll_event>);

impl Events {
    /// Room for `count` descriptors.
    pub fn new(count: usize) -> Self {
        Self(vec![libc::epoll_event { events: 0, u64: 0 }; count])
    }

    /// One of the ready descriptors of the last [`Epoll::wait`].
    pub fn ready(&self, index: usize) -> Option<Ready> {
        let event = self.0.get(index)?;
        let bits = event.events;
        let has = |mask: libc::c_int| bits & mask as u32 != 0;
        Some(Ready {
            token: event.u64,
            readable: has(libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP),
            writable: has(libc::EPOLLOUT),
        })
    }
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl Interest {
    const fn bits(self) -> u32 {
        match self {
            Self::Read => libc::EPOLLIN as u32,
            Self::ReadWrite => (libc::EPOLLIN | libc::EPOLLOUT) as u32,
        }
    }
}

impl Epoll {
    /// An instance that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; a non-negative result is a descriptor that is ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self(Rc::new(fd)))
    }

    /// Watches a descriptor; closing it ends that.
    pub fn add(&self, fd: &impl AsRawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), token, interest)
    }

    /// Changes what a descriptor is watched for.
    pub fn modify(&self, fd: &impl AsRawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), token, interest)
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: `event` lives through the call; the kernel checks both descriptors.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) }).map(drop)
    }

    /// Waits until something is ready or `timeout` is over; returns how many descriptors are.
    pub fn wait(&self, events: &mut Events, timeout: Duration) -> io::Result<usize> {
        let ms = libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX);
        let room = libc::c_int::try_from(events.0.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most `room` events into a buffer of that many.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.0.as_mut_ptr(), room, ms) };
        match check(count) {
            Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// An event counter that wakes an epoll.
pub fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative result is a descriptor that is ours alone.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?)) }
}

/// Adds one to an event counter.
pub fn add_to_counter(fd: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the kernel reads eight bytes.
    let written = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets an event counter to zero.
pub fn clear_counter(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut count = [0_u8; 8];
    // SAFETY: the kernel writes eight bytes.
    let read = unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    if read < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Default for RawAddress {
    fn default() -> Self {
        // SAFETY: all zeroes is a valid sockaddr_storage (family AF_UNSPEC).
        Self { storage: unsafe { mem::zeroed() }, length: length_of::<libc::sockaddr_storage>() }
    }
}

impl RawAddress {
    /// Fills in an address.
    pub fn set(&mut self, address: SocketAddr) {
        match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large enough and aligned for every socket address.
                unsafe { (&raw mut self.storage).cast::<libc::sockaddr_in>().write(raw) };
                self.length = length_of::<libc::sockaddr_in>();
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut self.storage).cast::<libc::sockaddr_in6>().write(raw) };
                self.length = length_of::<libc::sockaddr_in6>();
            }
        }
    }

    /// The address; `None` for another family.
    pub fn get(&self) -> Option<SocketAddr> {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says which structure the storage holds.
                let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(raw.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id)))
            }
            _ => None,
        }
    }
}

/// Receives one datagram without waiting. The length is that of the datagram, even where the buffer is shorter.
pub fn receive_from(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
    let mut from = RawAddress::default();
    // SAFETY: the kernel writes within `buffer` and within `from.storage`, whose sizes it is told.
    let length = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT | libc::MSG_TRUNC,
            (&raw mut from.storage).cast(),
            &raw mut from.length,
        )
    };
    usize::try_from(length).map(|length| (length, from.get())).map_err(|_| io::Error::last_os_error())
}

/// Sends one datagram without waiting, from up to three pieces.
pub fn send_to(fd: BorrowedFd<'_>, to: SocketAddr, pieces: [&[u8]; 3]) -> io::Result<()> {
    let mut address = RawAddress::default();
    address.set(to);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let sent = if let [[], piece, []] = pieces {
        let (name, data) = ((&raw const address.storage).cast(), piece.as_ptr().cast());
        // SAFETY: the kernel reads `piece` and the address, whose sizes it is told.
        unsafe { libc::sendto(fd.as_raw_fd(), data, piece.len(), flags, name, address.length) }
    } else {
        let mut vectors = pieces.map(io_vector);
        // SAFETY: msghdr is plain data for which all zeroes is valid.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = (&raw mut address.storage).cast();
        header.msg_namelen = address.length;
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = vectors.len() as _;
        // SAFETY: the header points at live memory that the kernel only reads.
        unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) }
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn io_vector(piece: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() }
}

/// Preallocated headers for receiving a batch.
pub struct ReceiveBatch {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    addresses: Vec<RawAddress>,
}

/// One datagram of a [`ReceiveBatch`].
#[derive(Clone, Copy)]
pub struct Received {
    /// Its length, at most that of its slot.
    pub length: usize,
    /// Who sent it.
    pub from: Option<SocketAddr>,
    /// It was longer than its slot.
    pub truncated: bool,
}

impl ReceiveBatch {
    /// Room for `count` datagrams.
    pub fn new(count: usize) -> Self {
        // SAFETY: both are plain data for which all zeroes is valid.
        let (header, vector) = unsafe { (mem::zeroed::<libc::mmsghdr>(), mem::zeroed::<libc::iovec>()) };
        Self {
            headers: vec![header; count],
            vectors: vec![vector; count],
            addresses: vec![RawAddress::default(); count],
        }
    }

    /// Receives as many datagrams as there are, one in each `slot_bytes` of `memory`, without waiting.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, memory: &mut [u8], slot_bytes: usize) -> io::Result<usize> {
        let parts = self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.addresses);
        let mut count: libc::c_uint = 0;
        for (((header, vector), address), slot) in parts.zip(memory.chunks_exact_mut(slot_bytes)) {
            *vector = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot_bytes };
            header.msg_hdr.msg_name = (&raw mut address.storage).cast();
            header.msg_hdr.msg_namelen = length_of::<libc::sockaddr_storage>();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        // SAFETY: the first `count` headers point at live vectors, addresses and slots, each with its true size.
        let received = check(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        })?;
        Ok(usize::try_from(received).unwrap_or(0))
    }

    /// One datagram of the last [`ReceiveBatch::receive`].
    pub fn received(&self, index: usize) -> Option<Received> {
        let (header, address) = self.headers.get(index).zip(self.addresses.get(index))?;
        Some(Received {
            length: header.msg_len as usize,
            from: address.get(),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }
}

/// Preallocated headers for sending a batch through one socket.
pub struct SendBatch {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<[libc::iovec; 3]>,
    addresses: Vec<RawAddress>,
    count: usize,
}

impl SendBatch {
    /// Room for `count` datagrams.
    pub fn new(count: usize) -> Self {
        // SAFETY: both are plain data for which all zeroes is valid.
        let (header, vector) = unsafe { (mem::zeroed::<libc::mmsghdr>(), mem::zeroed::<libc::iovec>()) };
        Self {
            headers: vec![header; count],
            vectors: vec![[vector; 3]; count],
            addresses: vec![RawAddress::default(); count],
            count: 0,
        }
    }

    /// Sends datagrams of up to three pieces each, in order, without waiting; `failed` hears of each that the
    /// kernel refused. Takes at most as many as there is room for.
    pub fn send<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        datagrams: impl Iterator<Item = (SocketAddr, [&'a [u8]; 3])>,
        mut failed: impl FnMut(&io::Error),
    ) {
        self.count = 0;
        let places = self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.addresses);
        for ((to, pieces), ((header, vectors), address)) in datagrams.zip(places) {
            address.set(to);
            *vectors = pieces.map(io_vector);
            // An empty piece costs the kernel a little: leave those at the end out.
            let used = pieces.iter().rposition(|piece| !piece.is_empty()).map_or(0, |last| last + 1);
            header.msg_hdr.msg_name = (&raw mut address.storage).cast();
            header.msg_hdr.msg_namelen = address.length;
            header.msg_hdr.msg_iov = vectors.as_mut_ptr();
            header.msg_hdr.msg_iovlen = used as _;
            self.count += 1;
        }
        let mut first = 0;
        while let Some(rest) = self.headers.get_mut(first..self.count).filter(|rest| !rest.is_empty()) {
            let room = libc::c_uint::try_from(rest.len()).unwrap_or(libc::c_uint::MAX);
            let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
            // SAFETY: each header points at vectors and an address that live in `self`, and those at the pieces,
            // which the caller's borrow keeps alive; the kernel only reads them.
            match check(unsafe { libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), room, flags) }) {
                Ok(sent) => first += usize::try_from(sent).unwrap_or(0).max(1),
                Err(error) => {
                    failed(&error);
                    first += 1;
                }
            }
        }
    }
}

/// Sets an integer socket option.
fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one integer.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length_of::<libc::c_int>())
    })
    .map(drop)
}

/// Whether packets that leave forbid fragmentation (the DF bit; for IPv6, no fragmenting by the sender).
pub fn set_dont_fragment(fd: BorrowedFd<'_>, is_ipv4: bool, dont_fragment: bool) -> io::Result<()> {
    if is_ipv4 {
        let mode = if dont_fragment { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
        set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)
    } else {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, libc::c_int::from(dont_fragment))
    }
}

/// Asks for a large buffer, beyond the system's limit where we may.
pub fn set_buffers(fd: BorrowedFd<'_>, bytes: libc::c_int) {
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        if set_option(fd, libc::SOL_SOCKET, forced, bytes).is_err() {
            // A smaller buffer only drops sooner under load; the socket works.
            let _ = set_option(fd, libc::SOL_SOCKET, plain, bytes);
        }
    }
}

/// One instruction of a classic BPF socket filter.
pub type FilterInstruction = libc::sock_filter;

/// Lets a socket receive only what `program` accepts.
pub fn attach_filter(fd: BorrowedFd<'_>, program: &mut [FilterInstruction]) -> io::Result<()> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies `len` instructions from `filter`, which live through the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            length_of::<libc::sock_fprog>(),
        )
    })
    .map(drop)
}
