//! What a lab looks like now: who announces, which sessions are up, and where each client's packets go.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Deserialize;

use super::plan::Kind;
use super::{Lab, bird};

/// The machines that a packet goes through, the sender first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Their names.
    pub machines: Vec<String>,
    /// Why it does not go on, if it has not arrived at a site.
    pub end: Result<(), String>,
}

/// What `ip -j route` says of a route.
#[derive(Deserialize)]
struct Route {
    dev: Option<String>,
    #[serde(default)]
    nexthops: Vec<NextHop>,
}

#[derive(Deserialize)]
struct NextHop {
    dev: String,
}

impl Way {
    /// The site that it ends in.
    pub fn site(&self) -> Result<&str, String> {
        self.end.clone()?;
        Ok(self.machines.last().map_or("", String::as_str))
    }
}

impl Lab {
    /// The way of a packet from a client or peer to an anycast address, as far as the router of a site: asked from the
    /// kernel of each router on it.
    pub fn way(&self, from: &str, to: IpAddr) -> Result<Way, String> {
        let (cable, _, router) =
            self.plan.uplink(from).ok_or_else(|| format!("{from} is no client, peer or server"))?;
        let source = cable.public()[usize::from(to.is_ipv6())].to_string();
        let mut machines = vec![from.to_owned()];
        let (mut at, mut arrival) = (router.machine.clone(), router.interface.clone());
        loop {
            machines.push(at.clone());
            let is_site =
                self.plan.machine(&at).is_some_and(|machine| matches!(machine.kind, Kind::Edge { .. }));
            let next = self.next_hop(&at, &source, &arrival, to);
            match next {
                Ok((other, _)) if is_site && self.plan.servers().any(|server| server.name == other) => {
                    return Ok(Way { machines, end: Ok(()) });
                }
                Ok(_) if machines.len() > HOPS_MAX => {
                    return Ok(Way { machines, end: Err("it goes round in circles".into()) });
                }
                Ok(hop) => (at, arrival) = hop,
                Err(fault) => return Ok(Way { machines, end: Err(format!("{at}: {fault}")) }),
            }
        }
    }

    /// The next machine, and the interface that the packet arrives there on.
    fn next_hop(&self, at: &str, from: &str, arrival: &str, to: IpAddr) -> Result<(String, String), String> {
        let to = to.to_string();
        let mut command = self.entrance(at)?.command("ip");
        command.args(["-j", "route", "get", &to, "from", from, "iif", arrival]);
        let output = command.output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let routes: Vec<Route> = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let interface = routes.into_iter().find_map(|route| route.dev).ok_or("no route")?;
        let hop = self.plan.cables_of(at).find(|(_, own, _)| own.interface == interface);
        let (_, _, other) = hop.ok_or("it ends here")?;
        Ok((other.machine.clone(), other.interface.clone()))
    }

    /// The machines that a router's kernel spreads an address over; one, where it does not spread.
    pub fn paths(&self, at: &str, address: IpAddr) -> Result<Vec<String>, String> {
        let mut command = self.entrance(at)?.command("ip");
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let output = command.args([family, "-j", "route", "show", &address.to_string()]).output();
        let output = output.map_err(|error| error.to_string())?;
        let routes: Vec<Route> = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let interfaces = routes.into_iter().flat_map(|route| {
            let several = route.nexthops.into_iter().map(|hop| hop.dev);
            several.chain(route.dev).collect::<Vec<_>>()
        });
        let machine = |interface: String| {
            let mut cables = self.plan.cables_of(at);
            cables.find(|(_, own, _)| own.interface == interface).map(|(_, _, other)| other.machine.clone())
        };
        Ok(interfaces.filter_map(machine).collect())
    }

    /// Whether a site's router has a server's announcement of an address.
    pub fn announces(&self, server: &str, address: IpAddr) -> Result<bool, String> {
        let (_, _, edge) = self.plan.uplink(server).ok_or_else(|| format!("{server} is no server"))?;
        let session = bird::session_name(server, if address.is_ipv4() { 4 } else { 6 });
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let lines =
            self.birdc(&edge.machine)?.ask(&format!("show route for {address}/{prefix} protocol {session}"));
        Ok(lines.is_ok_and(|lines| lines.iter().any(|line| line.contains(&session))))
    }

    /// BGP sessions of a machine: how many are up, and how many there are.
    pub fn sessions(&self, machine: &str) -> Result<(usize, usize), String> {
        let sessions = self.birdc(machine)?.sessions()?;
        Ok((sessions.iter().filter(|session| session.state == "Established").count(), sessions.len()))
    }

    /// All of it, for a person.
    pub fn status(&self) -> Result<String, String> {
        let mut text = format!("lab {}\n", self.name);
        let anycast = self.topology.anycast.all();
        let list = anycast.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let _infallible = writeln!(text, "anycast: {list}\n\nrouters:");
        for machine in &self.plan.machines {
            if matches!(machine.kind, Kind::Router | Kind::Edge { .. }) {
                let _infallible = writeln!(text, "  {:15} {}", machine.name, self.bgp(&machine.name));
            }
        }
        text.push_str("\nservers:\n");
        for server in self.plan.servers() {
            let Kind::Server { site, server: number, weight, .. } = server.kind else { continue };
            let announced =
                anycast.iter().filter(|address| self.announces(&server.name, **address) == Ok(true));
            let _infallible = writeln!(
                text,
                "  {:15} {site}.{number}  weight {weight}  host {}  {}  announces {} of {}",
                server.name,
                server.router_id,
                self.bgp(&server.name),
                announced.count(),
                anycast.len(),
            );
        }
        text.push_str("\nclients and peers:\n");
        for host in self.plan.hosts() {
            for address in &self.topology.anycast.service {
                let way = self.way(&host.name, *address)?;
                let reached = way.site().map_or_else(|fault| format!("nothing: {fault}"), str::to_owned);
                let _infallible = writeln!(
                    text,
                    "  {:15} {address} reaches {reached}  ({})",
                    host.name,
                    way.machines.join(" → ")
                );
            }
        }
        let faults = self.faults()?;
        text.push_str(if faults.is_empty() { "\nno faults\n" } else { "\nfaults:\n" });
        for fault in faults {
            let _infallible = writeln!(text, "  {fault}");
        }
        Ok(text)
    }

    fn bgp(&self, machine: &str) -> String {
        match self.sessions(machine) {
            Ok((up, all)) => format!("BGP {up} of {all} up"),
            Err(fault) => fault,
        }
    }
}

const HOPS_MAX: usize = 32;
