//! BIRD's configuration of each machine.
//!
//! Every session is eBGP, one for each address family, with BFD. Distance travels in MED: whoever learns a route adds the
//! link's cost, and prefers the smallest sum by its local preference. A site's router merges the paths to its servers;
//! routers of the internet take one best path each, as those between networks do, so that a client's packets all go to
//! one site. A route with GRACEFUL_SHUTDOWN (RFC 8326) is taken only where there is no other.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::plan::{Kind, Machine, Plan, Purpose};
use super::topology::{Anycast, Bfd};

/// The configuration of a machine that speaks BGP.
pub fn configuration(plan: &Plan, machine: &Machine, anycast: &Anycast, bfd: Bfd, log: &str) -> String {
    let mut text = head(machine, anycast, bfd, log);
    match machine.kind {
        Kind::Server { .. } => text.push_str(ANNOUNCED_INTERFACES),
        Kind::Router | Kind::Edge { .. } => text.push_str(&forwarding(machine)),
        Kind::Host => return text,
    }
    for (cable, own, other) in plan.cables_of(&machine.name) {
        let Some(neighbour) = plan.machine(&other.machine).filter(|other| other.kind.speaks_bgp()) else {
            continue;
        };
        let filters = filters(machine, neighbour, cable.purpose, cable.cost);
        let sessions: [(IpAddr, IpAddr); 2] =
            [(own.v4.into(), other.v4.into()), (own.v6.into(), other.v6.into())];
        for (local, remote) in sessions {
            let family = if local.is_ipv4() { 4 } else { 6 };
            let session = session_name(&neighbour.name, family);
            let _infallible = writeln!(
                text,
                "protocol bgp {session} from neighbour {{ local {local} as {}; neighbor {remote} as {}; \
                 ipv{family} {{ {} }}; }}",
                machine.autonomous_system,
                neighbour.autonomous_system,
                filters.replace("ANYCAST", if family == 4 { "ANYCAST4" } else { "ANYCAST6" }),
            );
        }
    }
    text
}

/// What BIRD calls the session with a neighbour.
pub fn session_name(neighbour: &str, family: u8) -> String {
    format!("bgp{family}_{}", neighbour.replace('-', "_"))
}

fn head(machine: &Machine, anycast: &Anycast, bfd: Bfd, log: &str) -> String {
    let Bfd { interval_ms, multiplier } = bfd;
    format!(
        "# {name}: written by `lab up`.\n\
         router id {id};\n\
         log \"{log}\" all;\n\
         define ANYCAST4 = [ {four} ];\n\
         define ANYCAST6 = [ {six} ];\n\
         protocol device {{ scan time 10; }}\n\
         protocol bfd {{ interface \"*\" {{ min rx interval {interval_ms} ms; min tx interval {interval_ms} ms; \
         idle tx interval {interval_ms} ms; multiplier {multiplier}; }}; }}\n\
         template bgp neighbour {{ hold time 12; keepalive time 4; connect delay time 1; connect retry time 1; \
         error wait time 1,2; error forget time 5; bfd on; }}\n",
        name = machine.name,
        id = machine.router_id,
        four = prefixes(anycast, IpAddr::is_ipv4, "198.18.0.0/32"),
        six = prefixes(anycast, IpAddr::is_ipv6, "2001:db8:18::/128"),
    )
}

/// A set in BIRD's syntax; it has no empty one, so that `none` stands for it.
fn prefixes(anycast: &Anycast, of_family: fn(&IpAddr) -> bool, none: &str) -> String {
    let all = anycast.all().into_iter().filter(of_family);
    let all: Vec<String> =
        all.map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })).collect();
    if all.is_empty() { none.to_owned() } else { all.join(", ") }
}

fn forwarding(machine: &Machine) -> String {
    let merge = if matches!(machine.kind, Kind::Edge { .. }) { " merge paths yes limit 64;" } else { "" };
    let kernel = |family: u8| {
        format!(
            "protocol kernel kernel{family} {{ ipv{family} {{ import none; export where source = RTS_BGP; }};{merge} \
             scan time 30; }}\n"
        )
    };
    format!(
        "protocol direct connected {{ ipv4; ipv6; interface -\"lo\", \"*\"; }}\n{}{}",
        kernel(4),
        kernel(6)
    )
}

fn filters(machine: &Machine, neighbour: &Machine, purpose: Purpose, cost: u32) -> String {
    match (machine.kind, neighbour.kind, purpose) {
        (Kind::Server { .. }, _, _) => "import none; export filter { if net !~ ANYCAST then reject; \
             if proto = \"draining\" then bgp_community.add((65535, 0)); accept; };"
            .to_owned(),
        (_, Kind::Server { .. }, _) => format!(
            "import filter {{ if net !~ ANYCAST then reject; bgp_med = 0; bgp_local_pref = {NEAREST}; \
             {SHUTDOWN_IS_LAST} accept; }}; export none;"
        ),
        _ => format!(
            "import filter {{ if defined(bgp_med) then bgp_med = bgp_med + {cost}; else bgp_med = {cost}; \
             bgp_local_pref = {NEAREST} - bgp_med; {SHUTDOWN_IS_LAST} accept; }}; \
             export filter {{ if source = RTS_DEVICE then {{ bgp_med = 0; accept; }} \
             if source = RTS_BGP then {{ bgp_med = bgp_med; accept; }} reject; }};"
        ),
    }
}

/// An interface `any…` announces the anycast addresses on it for as long as it is there; one that begins with `anydrain`
/// asks the routers to take it as the last resort, even while there is another one.
const ANNOUNCED_INTERFACES: &str = "\
protocol direct announced { ipv4; ipv6; interface -\"anydrain*\", \"any*\"; }\n\
protocol direct draining { ipv4 { preference 250; }; ipv6 { preference 250; }; interface \"anydrain*\"; }\n";
const SHUTDOWN_IS_LAST: &str = "if (65535, 0) ~ bgp_community then bgp_local_pref = 0;";
/// Above any sum of costs.
const NEAREST: u32 = 1_000_000_000;
