//! What a topology must hold beyond its syntax. Each complaint names the entry and the field.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Host, Quality, Site, Topology};

/// Complains about the first thing that is wrong.
pub fn check(topology: &Topology) -> Result<(), String> {
    lab_name(&topology.name).map_err(|fault| format!("name: {fault}"))?;
    names(topology)?;
    anycast(topology)?;
    if topology.bfd.interval_ms < 10 || topology.bfd.multiplier == 0 {
        return Err("bfd: interval_ms is at least 10, multiplier at least 1".into());
    }
    links(topology)?;
    sites(topology)?;
    for (kind, hosts) in [("clients", &topology.clients), ("peers", &topology.peers)] {
        if let Some(fault) = hosts.iter().find_map(|host| host_fault(topology, host)) {
            return Err(format!("{kind}: {fault}"));
        }
    }
    reachable(topology)
}

/// Whether this can be a lab's name.
pub fn lab_name(name: &str) -> Result<(), String> {
    let fits = (1..=LAB_NAME_MAX).contains(&name.len());
    // No dash: a namespace's name is prefix-LAB-MACHINE, and has to be read back.
    if fits && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Ok(());
    }
    Err(format!("{name:?} is not a name of 1 to {LAB_NAME_MAX} lower-case letters, digits and underscores"))
}

fn names(topology: &Topology) -> Result<(), String> {
    let mut seen = HashSet::new();
    let hosts = topology.clients.iter().chain(&topology.peers).map(|host| host.name.clone());
    let sites = topology.sites.iter().map(|site| site.name.clone());
    let servers = topology
        .sites
        .iter()
        .flat_map(|site| (1..=site.server_list().len()).map(|number| format!("{}-{number}", site.name)));
    let routers = topology.router_names().into_iter().map(str::to_owned);
    for name in routers.chain(sites).chain(servers).chain(hosts) {
        machine_name(&name)?;
        if !seen.insert(name.clone()) {
            return Err(format!(
                "name = {name:?} is given twice; routers, sites, servers (SITE-1, SITE-2, …), clients and peers share their names"
            ));
        }
    }
    Ok(())
}

fn machine_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let spelled = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(allowed);
    if !spelled || name.len() > MACHINE_NAME_MAX {
        return Err(format!(
            "name = {name:?}: a name begins with a letter and has at most {MACHINE_NAME_MAX} lower-case letters, digits and dashes"
        ));
    }
    // Routers name their interfaces after what is at the other end.
    if name == "lo" || ["any", "eth"].iter().any(|reserved| name.starts_with(reserved)) {
        return Err(format!("name = {name:?}: lo, any… and eth… are names of interfaces here"));
    }
    Ok(())
}

fn anycast(topology: &Topology) -> Result<(), String> {
    let all = topology.anycast.all();
    if topology.anycast.service.is_empty() {
        return Err("anycast.service: at least one address".into());
    }
    if all.iter().collect::<HashSet<_>>().len() != all.len() {
        return Err("anycast: an address is given twice".into());
    }
    match all.iter().find(|address| !is_for_anycast(address)) {
        Some(address) => Err(format!(
            "anycast: {address} is not in 198.18.0.0/16, 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24 or \
             2001:db8::/32 without 2001:db8:19::/48 (the ranges for benchmarks and documentation; the rest of them is \
             for the lab's hosts)"
        )),
        None => Ok(()),
    }
}

fn is_for_anycast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            (a, b) == (198, 18) || matches!((a, b, c), (192, 0, 2) | (198, 51, 100) | (203, 0, 113))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            (a, b) == (0x2001, 0xdb8) && c != 0x19
        }
    }
}

fn links(topology: &Topology) -> Result<(), String> {
    let mut seen = HashSet::new();
    for link in &topology.links {
        let [a, b] = &link.between;
        let fault = |text: &str| Err(format!("links: between = [{a:?}, {b:?}]: {text}"));
        if let Some(fault) = [a, b].iter().find_map(|end| router_fault(topology, Some(end))) {
            return Err(format!("links: between = [{a:?}, {b:?}]: {fault}"));
        }
        if a == b {
            return fault("a link to itself");
        }
        if !seen.insert((a.min(b), a.max(b))) {
            return fault("there is one already");
        }
        if let Some(text) = quality_fault(&link.quality()) {
            return fault(&text);
        }
    }
    Ok(())
}

fn sites(topology: &Topology) -> Result<(), String> {
    if topology.sites.is_empty() {
        return Err("sites: at least one".into());
    }
    let mut numbers = HashSet::new();
    for (place, site) in topology.sites.iter().enumerate() {
        if let Some(fault) = site_fault(topology, site) {
            return Err(format!("sites: {}: {fault}", site.name));
        }
        let number = site.number.unwrap_or(place as u16 + 1);
        if !(1..=SITE_NUMBER_MAX).contains(&number) || !numbers.insert(number) {
            return Err(format!(
                "sites: {}: number = {number} is another site's, or not in 1 to {SITE_NUMBER_MAX}",
                site.name
            ));
        }
    }
    Ok(())
}

fn site_fault(topology: &Topology, site: &Site) -> Option<String> {
    let servers = site.server_list();
    if !(1..=SERVERS_MAX).contains(&servers.len()) {
        return Some(format!("servers: 1 to {SERVERS_MAX}, not {}", servers.len()));
    }
    if servers.iter().any(|server| !(0.0..=1000.0).contains(&server.weight)) {
        return Some("servers: a weight is between 0 and 1000".into());
    }
    router_fault(topology, site.at.as_deref()).or_else(|| quality_fault(&site.link))
}

fn host_fault(topology: &Topology, host: &Host) -> Option<String> {
    let fault = router_fault(topology, host.at.as_deref()).or_else(|| quality_fault(&host.link));
    let nat = || {
        (host.nat.is_some() && host.link.needs_wire())
            .then(|| "nat and link: the NAT is the link; give the delay to the router's own link".to_owned())
    };
    fault.or_else(nat).map(|fault| format!("{}: {fault}", host.name))
}

fn router_fault(topology: &Topology, at: Option<&str>) -> Option<String> {
    let names = topology.router_names();
    let name = at.filter(|name| !names.contains(name))?;
    Some(format!("no router {name:?}; there are: {}", names.join(", ")))
}

fn quality_fault(quality: &Quality) -> Option<String> {
    let within = |name: &str, value: Option<f64>, low: f64, high: f64| {
        let value = value.filter(|value| !(low..=high).contains(value))?;
        Some(format!("{name} = {value} is not between {low} and {high}"))
    };
    within("delay_ms", quality.delay_ms, 0.0, 10_000.0)
        .or_else(|| within("jitter_ms", quality.jitter_ms, 0.0, 10_000.0))
        .or_else(|| within("loss", quality.loss, 0.0, 1.0))
        .or_else(|| within("rate_mbit", quality.rate_mbit, 0.001, 100_000.0))
        .or_else(|| within("cost", quality.cost.map(f64::from), 1.0, f64::from(COST_MAX)))
}

/// A router that no link leads to would leave its sites and clients alone, and `lab up` would not notice.
fn reachable(topology: &Topology) -> Result<(), String> {
    let names = topology.router_names();
    let mut reached: HashSet<&str> = names.first().copied().into_iter().collect();
    for _ in &names {
        for link in &topology.links {
            let [a, b] = [link.between[0].as_str(), link.between[1].as_str()];
            if reached.contains(a) || reached.contains(b) {
                reached.extend([a, b]);
            }
        }
    }
    match names.iter().find(|name| !reached.contains(*name)) {
        Some(alone) => Err(format!("links: none leads from {} to {alone}", names[0])),
        None => Ok(()),
    }
}

const LAB_NAME_MAX: usize = 24;
/// A name of an interface (IFNAMSIZ).
const MACHINE_NAME_MAX: usize = 15;
const SITE_NUMBER_MAX: u16 = 254;
const SERVERS_MAX: usize = 64;
const COST_MAX: u32 = 100_000;

#[cfg(test)]
mod tests {
    use super::super::Topology;

    const SITE: &str = "name = \"x\"\nsites = [{ name = \"ams\", servers = 2 }]\n";

    fn fault(more: &str) -> String {
        Topology::parse(&format!("{SITE}{more}")).expect_err("this must be refused")
    }

    #[test]
    fn smallest_file_is_enough_and_the_documented_one_is_understood() {
        Topology::parse(SITE).expect("the smallest file");
        let text = include_str!("../../../README.md");
        let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let topology = Topology::parse(example.expect("an example")).expect("the example of README.md");
        assert_eq!(topology.links[0].quality().route_cost(), 2000);
        assert_eq!(topology.sites[0].link.route_cost(), 100);
    }

    #[test]
    fn each_mistake_is_named_with_its_place() {
        for (more, words) in [
            ("sise = 1", &["sise", "line 3"][..]),
            ("clients = [{ name = \"a\", att = \"b\" }]", &["att", "line 3"]),
            ("clients = [{ name = \"a\", at = \"b\" }]", &["clients: a", "no router \"b\"", "internet"]),
            ("clients = [{ name = \"ams-2\" }]", &["ams-2", "twice"]),
            ("clients = [{ name = \"eth1\" }]", &["eth1", "interfaces"]),
            ("clients = [{ name = \"a\", link = { loss = 2 } }]", &["clients: a", "loss = 2"]),
            ("clients = [{ name = \"a\", nat = { mapping = \"odd\" } }]", &["odd", "endpoint-independent"]),
            ("anycast = { service = [\"8.8.8.8\"] }", &["anycast", "8.8.8.8"]),
            ("anycast = { service = [] }", &["anycast.service"]),
            ("routers = [{ name = \"a\" }, { name = \"b\" }]", &["links", "a to b"]),
            ("links = [{ between = [\"internet\", \"x\"] }]", &["links", "no router \"x\""]),
            ("bfd = { interval_ms = 1 }", &["bfd", "interval_ms"]),
        ] {
            let said = fault(more);
            assert!(words.iter().all(|word| said.contains(word)), "{more}: {said}");
        }
        let said = Topology::parse("name = \"x\"\nsites = [{ name = \"a\", servers = \"two\" }]");
        assert!(said.expect_err("two is no number").contains("a number of servers, or a list"));
    }
}
