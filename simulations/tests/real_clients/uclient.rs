//! coturn's own test client, `turnutils_uclient`, against our server.

use trunkline_simulations::process::{Running, Stream};

use crate::site::{PEER_V4, PEER_V6, SERVER_V4, SERVER_V6, Site};

/// How the client reaches the server.
#[derive(Debug, Clone, Copy)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

/// How the client's data reaches the relay.
#[derive(Debug, Clone, Copy)]
pub enum Method {
    Channels,
    SendIndications,
}

/// Whom the client talks to.
#[derive(Debug, Clone, Copy)]
pub enum Route {
    /// `turnutils_peer`, which sends everything back.
    EchoingPeer,
    /// Another allocation of the same server.
    ClientToClient,
}

/// The address family of the server, the relay and the peer.
#[derive(Debug, Clone, Copy)]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// One way of using the relay.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub transport: Transport,
    pub method: Method,
    pub route: Route,
    pub family: Family,
}

impl Usage {
    /// Every combination.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            for method in [Method::Channels, Method::SendIndications] {
                for route in [Route::EchoingPeer, Route::ClientToClient] {
                    for family in [Family::Ipv4, Family::Ipv6] {
                        all.push(Self { transport, method, route, family });
                    }
                }
            }
        }
        all
    }

    /// The plainest combination, for trials about something else.
    pub fn plain(route: Route) -> Self {
        Self { transport: Transport::Udp, method: Method::Channels, route, family: Family::Ipv4 }
    }

    /// The name of its trial.
    pub fn name(self) -> String {
        let method = match self.method {
            Method::Channels => "channels",
            Method::SendIndications => "send_indications",
        };
        let route = match self.route {
            Route::EchoingPeer => "to_a_peer",
            Route::ClientToClient => "client_to_client",
        };
        format!("uclient_{}_{method}_{route}_{}", self.transport.name(), self.family.name())
    }

    fn arguments(self) -> Vec<&'static str> {
        let mut arguments = vec!["-m", CLIENTS_TEXT, "-n", MESSAGES_TEXT];
        arguments.extend_from_slice(match self.transport {
            Transport::Udp => &[],
            Transport::Tcp => &["-t"],
            Transport::Tls => &["-t", "-S"],
        });
        if matches!(self.method, Method::SendIndications) {
            arguments.push("-s");
        }
        if matches!(self.family, Family::Ipv6) {
            arguments.push("-x");
        }
        arguments.extend_from_slice(match (self.route, self.family) {
            (Route::ClientToClient, _) => &["-y"],
            (Route::EchoingPeer, Family::Ipv4) => &["-e", PEER_V4],
            (Route::EchoingPeer, Family::Ipv6) => &["-e", PEER_V6],
        });
        arguments
    }

    fn server(self) -> &'static str {
        match self.family {
            Family::Ipv4 => SERVER_V4,
            Family::Ipv6 => SERVER_V6,
        }
    }

    /// Clients that talk to each other come in pairs, and every client opens a second, RTCP-like connection
    /// then.
    fn messages_expected(self) -> u64 {
        match self.route {
            Route::EchoingPeer => CLIENTS * MESSAGES,
            Route::ClientToClient => 2 * CLIENTS * MESSAGES,
        }
    }
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// Runs the client and demands that every message that it sent came back.
pub fn relay_everything(site: &Site, usage: Usage, credentials: &[&str]) -> Result<(), String> {
    let _peer = match usage.route {
        Route::EchoingPeer => Some(start_peer(site)?),
        Route::ClientToClient => None,
    };
    let (code, client) = run(site, usage, credentials)?;
    let check = || -> Result<(), String> {
        let totals = Totals::parse(&client)?;
        if code != 0 {
            return Err(format!("turnutils_uclient ended with exit code {code}"));
        }
        if totals.sent != usage.messages_expected() {
            return Err(format!("{} messages sent instead of {}", totals.sent, usage.messages_expected()));
        }
        if totals.received != totals.sent || totals.lost != 0 {
            return Err(format!("{totals:?}: not everything was relayed"));
        }
        Ok(())
    };
    check().map_err(|fault| format!("{fault}\n{}", client.log()))
}

/// Runs the client and demands that it fails and prints `message`.
pub fn be_refused(site: &Site, usage: Usage, credentials: &[&str], message: &str) -> Result<(), String> {
    let _peer = start_peer(site)?;
    let (code, client) = run(site, usage, credentials)?;
    if code == 0 || Totals::parse(&client).is_ok_and(|totals| totals.received > 0) {
        return Err(format!("the client was served\n{}", client.log()));
    }
    if !client.log().contains(message) {
        return Err(format!("the client did not say {message:?}\n{}", client.log()));
    }
    Ok(())
}

fn run(site: &Site, usage: Usage, credentials: &[&str]) -> Result<(i32, Running), String> {
    let mut arguments = usage.arguments();
    arguments.extend_from_slice(credentials);
    arguments.push(usage.server());
    site.run_client("turnutils_uclient", "turnutils_uclient", &arguments)
}

fn start_peer(site: &Site) -> Result<Running, String> {
    let mut command = site.peer.command("turnutils_peer");
    command.args(["-L", PEER_V4, "-L", PEER_V6, "-p", PEER_PORT_TEXT]);
    let peer = Running::start("turnutils_peer", &mut command).map_err(|error| error.to_string())?;
    wait_for_udp_port(site, PEER_PORT).map_err(|fault| format!("{fault}\n{}", peer.log()))?;
    Ok(peer)
}

/// `turnutils_peer` does not say when it listens, so its sockets are looked for in the peer's namespace.
fn wait_for_udp_port(site: &Site, port: u16) -> Result<(), String> {
    let wanted = format!(":{port:04X} ");
    for _ in 0..PEER_START_POLLS {
        let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
        let listens = |table: &str| std::fs::read_to_string(table).is_ok_and(|text| text.contains(&wanted));
        let all = site.peer.enter(|| tables.iter().all(|table| listens(table)));
        if all.map_err(|error| error.to_string())? {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Err(format!("nothing listens on UDP port {port} of the peer"))
}

/// The last figures that the client prints.
#[derive(Debug)]
struct Totals {
    sent: u64,
    received: u64,
    lost: u64,
}

impl Totals {
    fn parse(client: &Running) -> Result<Self, String> {
        let lines = client.lines(Stream::Out);
        let last = |key: &str| lines.iter().rev().find_map(|line| number_after(line, key));
        let all = (last("tot_send_msgs="), last("tot_recv_msgs="), last("Total lost packets "));
        let (Some(sent), Some(received), Some(lost)) = all else {
            return Err("turnutils_uclient printed no totals".to_owned());
        };
        Ok(Self { sent, received, lost })
    }
}

fn number_after(line: &str, key: &str) -> Option<u64> {
    let rest = line.split_once(key)?.1;
    let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

const CLIENTS: u64 = 2;
const CLIENTS_TEXT: &str = "2";
const MESSAGES: u64 = 25;
const MESSAGES_TEXT: &str = "25";
const PEER_PORT: u16 = 3480;
const PEER_PORT_TEXT: &str = "3480";
const PEER_START_POLLS: u32 = 250;
