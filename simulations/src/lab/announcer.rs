//! A stand-in for what a healthy node does: it holds an interface with the anycast addresses for as long as it lives.
//!
//! The interface is a TUN that is not persistent, so it goes away with the process, however that ends, and BIRD withdraws.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use crate::netns::ip_batch;

/// Announces `addresses` on an interface of the network that this process is in, until it is killed.
pub fn main(interface: &str, addresses: &[IpAddr]) -> Result<(), String> {
    let _held = open_tun(interface).map_err(|error| format!("{interface}: {error}"))?;
    let mut lines = vec![format!("link set {interface} up")];
    for address in addresses {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        lines.push(format!("address add {address}/{prefix} dev {interface}"));
    }
    ip_batch(None, &lines).map_err(|error| error.to_string())?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

fn open_tun(interface: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data for which all zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is too long"));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq, which outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
