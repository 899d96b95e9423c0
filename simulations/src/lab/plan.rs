//! What a topology amounts to: machines, cables between them, and every address. Pure: the same topology gives the same
//! plan, so nothing of it has to be remembered while a lab runs.
//!
//! ```text
//! 10.SITE.SERVER.1 ─ .2     fd00:SITE:SERVER::1 ─ ::2      a site's router ─ its server (the host address)
//! 10.255.LINK.1 ─ .2        fd00:ffff:LINK::1 ─ ::2        router ─ router
//! 198.19.HOST.1 ─ .2        2001:db8:19:HOST::1 ─ ::2      router ─ client or peer
//! 192.168.1.2               fd00:192:168::2                a client behind a NAT, which has the .2 outside
//! ```
//! Interfaces of routers are called after the machine at the other end; other machines have `eth0`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::topology::{Host, Nat, Quality, Site, Topology};

/// A whole lab.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// All machines; a machine is a namespace.
    pub machines: Vec<Machine>,
    /// All cables.
    pub cables: Vec<Cable>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// Number in BGP: routers each have one, all servers share one.
    pub autonomous_system: u32,
    /// Identifier of its BIRD.
    pub router_id: Ipv4Addr,
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A router of the internet.
    Router,
    /// A site's router.
    Edge {
        /// The site's number.
        site: u16,
    },
    /// A server.
    Server {
        /// The site's number.
        site: u16,
        /// Its own.
        server: u16,
        /// Its share of flows.
        weight: f64,
        /// Whether a stand-in announces the anycast addresses.
        announce: bool,
    },
    /// A client or a peer.
    Host,
}

/// A cable with an interface at each end.
#[derive(Debug, Clone, PartialEq)]
pub struct Cable {
    /// The end nearer to the middle of the internet: always a router's.
    pub a: End,
    /// The other end.
    pub b: End,
    /// What it joins.
    pub purpose: Purpose,
    /// What carries the packets.
    pub carrier: Carrier,
    /// What crossing it counts for.
    pub cost: u32,
}

/// What a cable joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Two routers.
    Transit,
    /// A site's router and a server.
    Fabric,
    /// A router and a client or peer.
    Access,
}

/// What carries a cable's packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Carrier {
    /// A veth pair.
    Veth,
    /// A process that delays, loses and limits.
    Wire(Quality),
    /// A NAT, whose outside is at `a`.
    Nat(Nat),
}

/// An end of a cable.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The machine.
    pub machine: String,
    /// The interface's name there.
    pub interface: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Plan {
    /// Plans a lab.
    pub fn of(topology: &Topology) -> Self {
        let mut plan = Self { machines: vec![], cables: vec![] };
        for (number, name) in (1_u8..).zip(topology.router_names()) {
            let autonomous_system = ROUTERS_AS + u32::from(number);
            plan.add(name, Kind::Router, autonomous_system, Ipv4Addr::new(10, 255, 255, number));
        }
        for link in &topology.links {
            let [a, b] = &link.between;
            plan.join_routers(a, b, link.quality());
        }
        for (site, place) in topology.sites.iter().zip(1..) {
            plan.add_site(site, site.number.unwrap_or(place), topology.router_of(site.at.as_deref()));
        }
        for (host, number) in topology.clients.iter().chain(&topology.peers).zip(1..) {
            plan.add_host(host, number, topology.router_of(host.at.as_deref()));
        }
        plan
    }

    /// A machine by name.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    /// The cable between two machines.
    pub fn cable(&self, one: &str, other: &str) -> Option<&Cable> {
        self.cables.iter().find(|cable| {
            let ends = [cable.a.machine.as_str(), cable.b.machine.as_str()];
            ends == [one, other] || ends == [other, one]
        })
    }

    /// A machine's cables, each as (cable, its own end, the other end).
    pub fn cables_of<'a>(&'a self, machine: &'a str) -> impl Iterator<Item = (&'a Cable, &'a End, &'a End)> {
        self.cables.iter().filter_map(move |cable| match machine {
            name if name == cable.a.machine => Some((cable, &cable.a, &cable.b)),
            name if name == cable.b.machine => Some((cable, &cable.b, &cable.a)),
            _ => None,
        })
    }

    /// The one cable of a server, client or peer, as (cable, its end, the router's end).
    pub fn uplink<'a>(&'a self, machine: &'a str) -> Option<(&'a Cable, &'a End, &'a End)> {
        self.cables_of(machine).find(|(cable, _, _)| cable.purpose != Purpose::Transit)
    }

    /// All servers.
    pub fn servers(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| matches!(machine.kind, Kind::Server { .. }))
    }

    /// All clients and peers.
    pub fn hosts(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.kind == Kind::Host)
    }

    /// The servers behind a site's router.
    pub fn servers_behind<'a>(&'a self, edge: &'a str) -> impl Iterator<Item = &'a End> {
        let fabric = self.cables_of(edge).filter(|(cable, _, _)| cable.purpose == Purpose::Fabric);
        fabric.map(|(_, _, server)| server)
    }

    /// The routers' ends towards servers. A server that sends packets back by XDP_TX needs a program that passes
    /// everything on each of these.
    pub fn fabric_ends(&self) -> impl Iterator<Item = &End> {
        self.cables.iter().filter(|cable| cable.purpose == Purpose::Fabric).map(|cable| &cable.a)
    }

    fn add(&mut self, name: &str, kind: Kind, autonomous_system: u32, router_id: Ipv4Addr) {
        self.machines.push(Machine { name: name.to_owned(), kind, autonomous_system, router_id });
    }

    fn join_routers(&mut self, a: &str, b: &str, quality: Quality) {
        let number = self.cables.iter().filter(|cable| cable.purpose == Purpose::Transit).count() as u16 + 1;
        let end = |machine: &str, interface: &str, last: u8| End {
            machine: machine.to_owned(),
            interface: interface.to_owned(),
            v4: Ipv4Addr::new(10, 255, number as u8, last),
            v6: Ipv6Addr::new(0xfd00, 0xffff, number, 0, 0, 0, 0, last.into()),
        };
        let (a, b) = (end(a, b, 1), end(b, a, 2));
        self.cables.push(Cable::new(a, b, Purpose::Transit, quality));
    }

    fn add_site(&mut self, site: &Site, number: u16, router: &str) {
        let octet = number as u8;
        let edge_as = EDGES_AS + u32::from(number);
        self.add(&site.name, Kind::Edge { site: number }, edge_as, Ipv4Addr::new(10, octet, 0, 1));
        self.join_routers(router, &site.name, site.link);
        for (server, place) in site.server_list().into_iter().zip(1_u16..) {
            let name = format!("{}-{place}", site.name);
            let (weight, announce) = (server.weight, server.announce);
            let kind = Kind::Server { site: number, server: place, weight, announce };
            let end = |machine: &str, interface: &str, last: u8| End {
                machine: machine.to_owned(),
                interface: interface.to_owned(),
                v4: Ipv4Addr::new(10, octet, place as u8, last),
                v6: Ipv6Addr::new(0xfd00, number, place, 0, 0, 0, 0, last.into()),
            };
            let (a, b) = (end(&site.name, &name, 1), end(&name, ONLY_INTERFACE, 2));
            self.add(&name, kind, SERVERS_AS, b.v4);
            self.cables.push(Cable::new(a, b, Purpose::Fabric, Quality::default()));
        }
    }

    fn add_host(&mut self, host: &Host, number: u16, router: &str) {
        self.add(&host.name, Kind::Host, 0, Ipv4Addr::UNSPECIFIED);
        let end = |machine: &str, interface: &str, last: u8| End {
            machine: machine.to_owned(),
            interface: interface.to_owned(),
            v4: Ipv4Addr::new(198, 19, number as u8, last),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0x19, number, 0, 0, 0, last.into()),
        };
        let (a, mut b) = (end(router, &host.name, 1), end(&host.name, ONLY_INTERFACE, 2));
        if host.nat.is_some() {
            (b.v4, b.v6) = INSIDE_NAT;
        }
        let mut cable = Cable::new(a, b, Purpose::Access, host.link);
        if let Some(nat) = host.nat {
            cable.carrier = Carrier::Nat(nat);
        }
        self.cables.push(cable);
    }
}

impl Cable {
    fn new(a: End, b: End, purpose: Purpose, quality: Quality) -> Self {
        let carrier = if quality.needs_wire() { Carrier::Wire(quality) } else { Carrier::Veth };
        Self { a, b, purpose, carrier, cost: quality.route_cost() }
    }

    /// Both ends.
    pub fn ends(&self) -> [&End; 2] {
        [&self.a, &self.b]
    }

    /// The largest packet it carries. Inside a site encapsulated packets of 1,500 bytes have to fit.
    pub fn mtu(&self) -> u16 {
        if self.purpose == Purpose::Fabric { 1600 } else { 1500 }
    }

    /// The networks at its `a` end: a host's own as its router sees it, NAT or not.
    pub fn networks(&self) -> [String; 2] {
        let [a, b, c, _] = self.a.v4.octets();
        let mut v6 = self.a.v6.segments();
        v6[7] = 0;
        [format!("{}/{V4_PREFIX}", Ipv4Addr::new(a, b, c, 0)), format!("{}/{V6_PREFIX}", Ipv6Addr::from(v6))]
    }

    /// The addresses that a NAT has outside: those that its client would have without it.
    pub fn public(&self) -> [IpAddr; 2] {
        let [a, b, c, _] = self.a.v4.octets();
        let mut v6 = self.a.v6.segments();
        v6[7] = 2;
        [Ipv4Addr::new(a, b, c, 2).into(), Ipv6Addr::from(v6).into()]
    }
}

impl End {
    /// Both addresses as `ip address` takes them.
    pub fn addresses(&self) -> [String; 2] {
        [format!("{}/{V4_PREFIX}", self.v4), format!("{}/{V6_PREFIX}", self.v6)]
    }
}

impl Kind {
    /// Whether BIRD runs on it.
    pub fn speaks_bgp(&self) -> bool {
        !matches!(self, Self::Host)
    }

    /// Whether it passes packets on.
    pub fn forwards(&self) -> bool {
        matches!(self, Self::Router | Self::Edge { .. })
    }
}

const ONLY_INTERFACE: &str = "eth0";
const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 64;
const INSIDE_NAT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 168, 1, 2), Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, 2));
/// Numbers for private use (RFC 6996). One for all servers, so that routes of several can be merged.
const SERVERS_AS: u32 = 65_000;
const EDGES_AS: u32 = 64_512;
const ROUTERS_AS: u32 = 65_100;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn example(text: &str) -> Plan {
        Plan::of(&Topology::parse(text).expect("an example"))
    }

    #[test]
    fn no_address_interface_or_router_id_is_given_twice() {
        for text in
            [include_str!("../../topologies/one_site.toml"), include_str!("../../topologies/two_sites.toml")]
        {
            let plan = example(text);
            let ends: Vec<&End> = plan.cables.iter().flat_map(Cable::ends).collect();
            let different = |of: fn(&&End) -> String| ends.iter().map(of).collect::<HashSet<_>>().len();
            assert_eq!(different(|end| end.v4.to_string()), ends.len());
            assert_eq!(different(|end| end.v6.to_string()), ends.len());
            assert_eq!(different(|end| format!("{} {}", end.machine, end.interface)), ends.len());
            let speakers = plan.machines.iter().filter(|machine| machine.kind.speaks_bgp());
            let ids: Vec<Ipv4Addr> = speakers.map(|machine| machine.router_id).collect();
            assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        }
    }

    #[test]
    fn a_cable_is_what_its_quality_asks_for() {
        let plan = example(
            "name = \"x\"\nsites = [{ name = \"ams\", number = 7, servers = 1, link = { delay_ms = 3 } }]\n\
             clients = [{ name = \"a\", nat = {} }]",
        );
        let way = plan.cable("ams", "internet").expect("the site's link");
        assert!(matches!(way.carrier, Carrier::Wire(_)) && way.cost == 300 && way.mtu() == 1500);
        let fabric = plan.cable("ams", "ams-1").expect("the server's link");
        assert!(fabric.carrier == Carrier::Veth && fabric.mtu() == 1600);
        assert_eq!(fabric.b.addresses(), ["10.7.1.2/24", "fd00:7:1::2/64"]);
        let access = plan.cable("a", "internet").expect("the client's link");
        assert!(matches!(access.carrier, Carrier::Nat(_)));
        assert_eq!(access.public().map(|address| address.to_string()), ["198.19.1.2", "2001:db8:19:1::2"]);
        assert_eq!(plan.fabric_ends().map(|end| end.interface.as_str()).collect::<Vec<_>>(), ["ams-1"]);
    }
}
