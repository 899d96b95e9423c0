//! The readable ones among many sockets: a thin layer over epoll.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Sockets that are watched, each under a number of the caller's.
pub struct Poll {
    epoll: OwnedFd,
    events: Box<[libc::epoll_event]>,
}

/// How long [`Poll::wait`] may take.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// Only what is readable now.
    None,
    /// Up to so many milliseconds.
    Milliseconds(i32),
    /// Until something is readable.
    Unbounded,
}

impl Poll {
    /// Room for `events_max` readable sockets per call.
    pub fn new(events_max: usize) -> io::Result<Self> {
        // SAFETY: epoll_create1 touches no memory of ours.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nothing else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; events_max].into() })
    }

    /// Watches a socket for reading: it is reported for as long as there is something to read. Closing the socket
    /// ends that.
    pub fn watch(&self, socket: RawFd, number: usize) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number as u64 };
        // SAFETY: the event outlives the call, and the kernel copies it.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The numbers of sockets that are readable.
    pub fn wait(&mut self, patience: Patience) -> io::Result<impl Iterator<Item = usize> + '_> {
        let timeout_ms = match patience {
            Patience::None => 0,
            Patience::Milliseconds(milliseconds) => milliseconds,
            Patience::Unbounded => -1,
        };
        // SAFETY: the kernel writes at most as many events as the slice holds.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                timeout_ms,
            )
        };
        let error = io::Error::last_os_error();
        if count < 0 && error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        let ready = &self.events[..count.max(0) as usize];
        Ok(ready.iter().map(|event| event.u64 as usize))
    }
}
