//! How long one core takes to plan a change in a large fleet: `cargo run --release -p trunkline-fleet --example plan_large_fleet`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use trunkline_fleet::slices::{self, SliceMember, Slices};
use trunkline_fleet::table::{self, Limits, Server, SiteTable};
use trunkline_fleet::{Condition, Epoch};
use trunkline_steer::NOBODY;
use trunkline_wire::NodeId;

type Sites = BTreeMap<u16, (SiteTable, BTreeMap<u16, Server>)>;

fn main() {
    let mut sites = sites();
    let mut members = members();
    let mut slices = Slices::new();
    // Until every server has its first slice.
    for counter in 1..=4 {
        slices.extend(slices::plan(&slices, &members, NOW, Epoch { generation: 1, counter }));
        report(&slices, &mut members, counter);
    }
    println!("{SITES} sites of {SERVERS} servers, {ROWS} rows each, {ADDRESSES} relay addresses, one core");
    plan("nothing changed", &sites, &slices, &members);
    server(&mut sites).weight_micro = 800_000;
    plan("one server's weight changed", &sites, &slices, &members);
    server(&mut sites).condition = Condition::Dead;
    plan("one server died", &sites, &slices, &members);
    println!("peak memory of the process: {}", peak_memory());
}

fn plan(what: &str, sites: &Sites, slices: &Slices, members: &BTreeMap<NodeId, SliceMember>) {
    let began = Instant::now();
    let next_epoch = Epoch { generation: 1, counter: 9 };
    let mut moved = 0;
    for (table, servers) in sites.values() {
        let next = table::plan(Some(table), servers, ROWS, NOW, next_epoch, &Limits::default());
        moved += next.map_or(0, |next| next.rows.iter().filter(|planned| planned.row.next != NOBODY).count());
    }
    let changed = slices::plan(slices, members, NOW, next_epoch).len();
    let took = began.elapsed().as_secs_f64() * 1_000.0;
    println!("{what}: {took:.0} ms, {moved} rows move, {changed} relay addresses change");
}

fn sites() -> Sites {
    let server = |number| {
        let row_flows =
            (0..ROWS as u32).filter(|row| row % u32::from(SERVERS) == u32::from(number)).map(|row| (row, 7));
        (
            number,
            Server {
                condition: Condition::Live,
                weight_micro: 1_000_000,
                acknowledged: None,
                row_flows: row_flows.collect(),
            },
        )
    };
    let servers: BTreeMap<u16, Server> = (1..=SERVERS).map(server).collect();
    let first = table::plan(None, &servers, ROWS, NOW, Epoch::default(), &Limits::default());
    let first = first.unwrap_or_default();
    (1..=SITES).map(|site| (site, (first.clone(), servers.clone()))).collect()
}

/// Each address is shared by a 64th of the sites.
fn members() -> BTreeMap<NodeId, SliceMember> {
    let nodes = (1..=SITES).flat_map(|site| (1..=SERVERS).map(move |server| NodeId { site, server }));
    let member = |node: NodeId| {
        let address = IpAddr::V4(Ipv4Addr::from(0xC633_6400 + u32::from(node.site) % ADDRESSES));
        let member = SliceMember {
            can_take: true,
            relay_addresses: BTreeSet::from([address]),
            reported: Some(Epoch::default()),
            ..SliceMember::default()
        };
        (node, member)
    };
    nodes.map(member).collect()
}

fn report(slices: &Slices, members: &mut BTreeMap<NodeId, SliceMember>, counter: u64) {
    for (address, table) in slices {
        for (index, slice) in table {
            if let Some(member) = slice.owner.and_then(|owner| members.get_mut(&owner)) {
                member.claims.insert((*address, *index), slice.lease);
            }
        }
    }
    for member in members.values_mut() {
        member.reported = Some(Epoch { generation: 1, counter });
        member.ports_in_use_permille = 500;
    }
}

fn server(sites: &mut Sites) -> &mut Server {
    let servers = sites.get_mut(&1).map(|(_, servers)| servers);
    servers.and_then(|servers| servers.get_mut(&1)).expect("the first server of the first site")
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned()
}

const SITES: u16 = 330;
const SERVERS: u16 = 32;
const ROWS: usize = 16_384;
const ADDRESSES: u32 = 64;
const NOW: u64 = 1_700_000_000;
