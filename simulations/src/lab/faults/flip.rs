//! A client's route changes: its packets go to another site than the nearest, all of them or every other one.
//!
//! Each router between the client and the site gets a rule for the client's addresses, with a table of its own for the
//! anycast addresses; nothing changes for anybody else. For every other packet, the last router that both ways share marks
//! and splits them, and only routers behind it get the rule.

use std::collections::BTreeMap;

use super::super::Lab;
use super::super::plan::{Kind, Plan, Purpose};
use super::Undo;

/// One client's own way through one router.
struct Detour<'a> {
    /// The client's networks: IPv4, IPv6.
    sources: [String; 2],
    number: u32,
    router: &'a str,
    next: &'a str,
}

impl Lab {
    pub(super) fn flip(&mut self, client: &str, site: &str) -> Result<String, String> {
        let path = self.path(client, site)?;
        let mut undo = vec![];
        // From the site backwards: no packet takes the new way before all of it is there.
        for hop in path.windows(2).rev() {
            let detour = self.detour(client, &hop[0], &hop[1])?;
            undo.extend(self.lead(&detour, "")?);
        }
        undo.reverse();
        self.keep_fault("flip", client, format!("packets of {client} go to {site}"), undo)
    }

    pub(super) fn flip_per_packet(&mut self, client: &str, site: &str) -> Result<String, String> {
        // An earlier flip would be mistaken for the way that the packets take by themselves.
        self.heal_kind("flip", client).ok();
        let path = self.path(client, site)?;
        let address = self.topology.anycast.service.first().copied().ok_or("no service address")?;
        let usual = self.way(client, address)?;
        let here = usual.site()?.to_owned();
        let shared = path.iter().zip(usual.machines.iter().skip(1)).take_while(|(a, b)| a == b).count();
        if here == site || shared == 0 {
            return Err(format!("{client} reaches {site} by itself"));
        }
        let mut undo = vec![];
        for (place, hop) in path.windows(2).enumerate().skip(shared - 1).rev() {
            let detour = self.detour(client, &hop[0], &hop[1])?;
            if place == shared - 1 {
                undo.extend(self.lead(&detour, &format!("fwmark {} ", detour.number))?);
                undo.push(self.mark_every_other(&detour)?);
            } else {
                undo.extend(self.lead(&detour, "")?);
            }
        }
        undo.reverse();
        let what = format!("every other packet of {client} goes to {site}, the others to {here}");
        self.keep_fault("flip", client, what, undo)
    }

    fn path(&self, client: &str, site: &str) -> Result<Vec<String>, String> {
        let is_site = |machine: &&super::super::plan::Machine| matches!(machine.kind, Kind::Edge { .. });
        if !self.plan.machines.iter().filter(is_site).any(|machine| machine.name == site) {
            return Err(format!("{site} is no site"));
        }
        let (_, _, router) =
            self.plan.uplink(client).ok_or_else(|| format!("{client} is no client or peer"))?;
        cheapest_path(&self.plan, &router.machine, site).ok_or_else(|| format!("no way leads to {site}"))
    }

    fn detour<'a>(&self, client: &str, router: &'a str, next: &'a str) -> Result<Detour<'a>, String> {
        let (cable, _, _) = self.plan.uplink(client).ok_or_else(|| format!("{client} has no uplink"))?;
        Ok(Detour { sources: cable.networks(), number: self.next_fault()?, router, next })
    }

    /// Makes a router send the anycast packets of these sources to its neighbour. Steps that undo it, the last one first.
    fn lead(&self, detour: &Detour<'_>, condition: &str) -> Result<Vec<Undo>, String> {
        let Detour { sources, number, router, next } = detour;
        let cable = self.plan.cables_of(router).find(|(_, _, other)| other.machine == **next);
        let (_, own, other) = cable.ok_or_else(|| format!("no link between {router} and {next}"))?;
        let (table, priority) = (TABLES + number, PRIORITIES - number);
        let mut undo = vec![];
        for (family, source, gateway) in
            [("-4", &sources[0], other.v4.to_string()), ("-6", &sources[1], other.v6.to_string())]
        {
            let is_of_family = |address: &&std::net::IpAddr| address.is_ipv6() == (family == "-6");
            for address in self.topology.anycast.all().iter().filter(is_of_family) {
                let add = format!(
                    "ip {family} route add {address} via {gateway} dev {} table {table}",
                    own.interface
                );
                self.run_in(router, &add.split(' ').map(str::to_owned).collect::<Vec<_>>())?;
            }
            let rule = format!("priority {priority} from {source} {condition}lookup {table}");
            let add = format!("ip {family} rule add {rule}");
            self.run_in(router, &add.split(' ').map(str::to_owned).collect::<Vec<_>>())?;
            undo.push(Undo::run(router, &format!("ip {family} route flush table {table}")));
            undo.push(Undo::run(router, &format!("ip {family} rule delete {rule}")));
        }
        Ok(undo)
    }

    fn mark_every_other(&self, detour: &Detour<'_>) -> Result<Undo, String> {
        let Detour { sources: [v4, v6], number, router, .. } = detour;
        let rules = format!(
            "table inet flip{number} {{ chain arriving {{ type filter hook prerouting priority -150; \
             ip saddr {v4} numgen inc mod 2 == 1 meta mark set {number}; \
             ip6 saddr {v6} numgen inc mod 2 == 1 meta mark set {number}; }}; }}"
        );
        self.run_in(router, &["nft".to_owned(), rules])?;
        Ok(Undo::run(router, &format!("nft delete table inet flip{number}")))
    }
}

/// The routers from one to another over the links with the smallest sum of costs.
fn cheapest_path(plan: &Plan, from: &str, to: &str) -> Option<Vec<String>> {
    let mut best: BTreeMap<&str, (u32, Vec<String>)> = BTreeMap::new();
    best.insert(from, (0, vec![from.to_owned()]));
    // As often as there are machines: by then every cost is final.
    for _ in &plan.machines {
        for cable in plan.cables.iter().filter(|cable| cable.purpose == Purpose::Transit) {
            for [near, far] in [[&cable.a, &cable.b], [&cable.b, &cable.a]] {
                let Some((cost, path)) = best.get(near.machine.as_str()).cloned() else { continue };
                let cost = cost + cable.cost;
                if best.get(far.machine.as_str()).is_none_or(|(known, _)| cost < *known) {
                    let path = path.into_iter().chain([far.machine.clone()]).collect();
                    best.insert(&far.machine, (cost, path));
                }
            }
        }
    }
    best.remove(to).map(|(_, path)| path)
}

/// Routing tables from here on belong to faults.
const TABLES: u32 = 10_000;
/// The rule of a later fault comes first; all come before the main table's (32,766).
const PRIORITIES: u32 = 20_000;
