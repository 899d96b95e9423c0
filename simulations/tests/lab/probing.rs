//! Datagrams from a client, and servers that answer them with their names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trunkline_simulations::lab::Lab;

/// Programs on every server of a lab that answer on the service addresses, until dropped.
pub struct Echoes {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echoes {
    /// Starts them. They answer with `LAB/SERVER` in front of what they were sent.
    pub fn start(lab: &Lab) -> Result<Self, String> {
        let mut echoes = Self { stop: Arc::default(), threads: vec![] };
        for server in lab.plan().servers() {
            for address in &lab.topology().anycast.service {
                let entrance = lab.entrance(&server.name)?;
                let bound = entrance.enter(|| UdpSocket::bind((*address, PORT)));
                let socket = bound.and_then(|socket| socket).map_err(|error| error.to_string())?;
                socket
                    .set_read_timeout(Some(Duration::from_millis(50)))
                    .map_err(|error| error.to_string())?;
                let (stop, name) = (Arc::clone(&echoes.stop), format!("{}/{} ", lab.name(), server.name));
                echoes.threads.push(std::thread::spawn(move || answer(&socket, &name, &stop)));
            }
        }
        Ok(echoes)
    }
}

impl Drop for Echoes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn answer(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let reply = [name.as_bytes(), &buffer[..length]].concat();
            socket.send_to(&reply, from).ok();
        }
    }
}

/// Sends three datagrams on each flow, that is from each of these ports: the server that answered them all. A flow
/// that gets no answer, or answers of two servers, is a fault.
pub fn flows(lab: &Lab, client: &str, to: IpAddr, ports: Range<u16>) -> Result<Vec<String>, String> {
    let one = |port: u16| -> Result<String, String> {
        let socket = connected(to, port)?;
        let mut servers: Vec<String> = vec![];
        for number in 0..3 {
            let text = format!("{port} {number}");
            socket.send(text.as_bytes()).map_err(|error| error.to_string())?;
            let answer = receive(&socket).ok_or_else(|| format!("flow {port} to {to}: no answer"))?;
            let server = answer.strip_suffix(&format!(" {text}"));
            servers.push(server.ok_or_else(|| format!("flow {port}: odd answer {answer}"))?.to_owned());
        }
        servers.dedup();
        match servers.as_slice() {
            [one] => Ok(one.clone()),
            several => Err(format!("flow {port} to {to} reached {several:?}")),
        }
    };
    let entered = lab.entrance(client)?.enter(|| ports.map(one).collect());
    entered.map_err(|error| error.to_string())?
}

/// Sends many datagrams on one flow: how many answers came from each server.
pub fn burst(lab: &Lab, client: &str, to: IpAddr, count: usize) -> Result<BTreeMap<String, usize>, String> {
    let run = || {
        let socket = connected(to, 0)?;
        let mut received = vec![];
        for number in 0..count {
            socket.send(number.to_string().as_bytes()).map_err(|error| error.to_string())?;
            // Slowly, and reading meanwhile: no buffer on the way fills, whoever has the processor.
            std::thread::sleep(Duration::from_micros(300));
            socket.set_nonblocking(true).map_err(|error| error.to_string())?;
            received.extend(std::iter::from_fn(|| receive(&socket)));
            socket.set_nonblocking(false).map_err(|error| error.to_string())?;
        }
        received.extend(std::iter::from_fn(|| receive(&socket)));
        let mut answers = BTreeMap::new();
        for answer in received {
            let server = answer.split(' ').next().unwrap_or_default().to_owned();
            *answers.entry(server).or_insert(0) += 1;
        }
        Ok(answers)
    };
    lab.entrance(client)?.enter(run).map_err(|error| error.to_string())?
}

/// How many flows each server has.
pub fn tally(servers: &[String]) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    servers.iter().for_each(|server| *tally.entry(server.as_str()).or_insert(0) += 1);
    tally
}

/// Waits until twenty new flows of a client all reach servers whose names begin so, and says how long that took.
pub fn wait_until_reached(lab: &Lab, client: &str, to: IpAddr, beginning: &str) -> Result<Duration, String> {
    let beginning = format!("{}/{beginning}", lab.name());
    let since = Instant::now();
    loop {
        let reached = flows(lab, client, to, 30_000..30_020);
        match reached {
            Ok(servers) if servers.iter().all(|server| server.starts_with(&beginning)) => {
                return Ok(since.elapsed());
            }
            other if since.elapsed() > PATIENCE => {
                return Err(format!("{client} should reach {beginning}…, not {other:?}"));
            }
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Waits until a hundred flows of a client are all answered, by that many servers, and keep to them. A flow whose server
/// changes or does not answer is no fault before that.
pub fn wait_until_spread_over(lab: &Lab, client: &str, to: IpAddr, servers: usize) -> Result<(), String> {
    let since = Instant::now();
    loop {
        match flows(lab, client, to, 31_000..31_100) {
            Ok(reached) if tally(&reached).len() == servers => return Ok(()),
            other if since.elapsed() > PATIENCE => {
                return Err(format!("flows should reach {servers} servers, not {other:?}"));
            }
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The service addresses of a lab: IPv4, IPv6.
pub fn services(lab: &Lab) -> Result<[IpAddr; 2], String> {
    let address = |wanted| lab.service_address(wanted).ok_or("a lab without service addresses");
    Ok([address(IpAddr::is_ipv4)?, address(IpAddr::is_ipv6)?])
}

/// An error unless it holds.
pub fn demand(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn connected(to: IpAddr, port: u16) -> Result<UdpSocket, String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, port)).and_then(|socket| {
        socket.connect(SocketAddr::new(to, PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    });
    socket.map_err(|error| format!("socket to {to}: {error}"))
}

fn receive(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 256];
    // An ICMP error counts as no answer.
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(10);
