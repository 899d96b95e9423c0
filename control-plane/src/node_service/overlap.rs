//! Relay addresses that two servers would use at once. The ports of a relay address belong to one server, or to all that
//! share it by slices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use trunkline_proto::node::v1::Hello;
use trunkline_proto::store::v1::NodeRecord;
use trunkline_wire::NodeId;

/// What is wrong between the server that says hello and another, and what to do about it.
pub(super) fn find(node: NodeId, hello: &Hello, other: NodeId, record: &NodeRecord) -> Option<String> {
    let (own, shared) = (parsed(&hello.own_relay_addresses), parsed(&hello.relay_addresses));
    let (its, it_shares) = (parsed(&record.own_relay_addresses), parsed(&record.relay_addresses));
    // Each machine has its own loopback: two servers that name it need not meet. Who shares one, however, says that the
    // servers are on one machine.
    if let Some(ip) = own.intersection(&its).find(|ip| !ip.is_loopback()) {
        return Some(format!(
            "own_relay_addresses: {ip} is a relay address of node {other} alone, and of node {node} as well; give node \
             {node} another with --relay-address, let both share it with --shared-relay-address, or remove node \
             {other} if it is gone"
        ));
    }
    if let Some(ip) = own.intersection(&it_shares).next() {
        return Some(format!(
            "own_relay_addresses: {ip} is a relay address that node {other} shares by slices; start node {node} with \
             --shared-relay-address {ip} or give it another with --relay-address"
        ));
    }
    shared.intersection(&its).next().map(|ip| {
        format!(
            "relay_addresses: {ip} is a relay address of node {other} alone, so node {node} cannot share it; start \
             node {other} with --shared-relay-address {ip}, or give node {node} another"
        )
    })
}

/// What is not an address was refused before.
fn parsed(addresses: &[String]) -> BTreeSet<IpAddr> {
    addresses
        .iter()
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|ip| ip.to_canonical())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: NodeId = NodeId { site: 1, server: 2 };
    const KNOWN: NodeId = NodeId { site: 1, server: 1 };

    /// `own` and `shared` of the one that says hello, then of the one that is known.
    fn between(own: &[&str], shared: &[&str], its: &[&str], it_shares: &[&str]) -> Option<String> {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let hello =
            Hello { own_relay_addresses: texts(own), relay_addresses: texts(shared), ..Hello::default() };
        let record = NodeRecord {
            own_relay_addresses: texts(its),
            relay_addresses: texts(it_shares),
            ..NodeRecord::default()
        };
        find(NEW, &hello, KNOWN, &record)
    }

    #[test]
    fn an_address_belongs_to_one_server_or_is_shared_by_all_that_use_it() {
        for (own, shared, its, it_shares) in [
            (&["192.0.2.1"][..], &[][..], &["192.0.2.1"][..], &[][..]),
            (&["192.0.2.1"], &[], &[], &["192.0.2.1"]),
            (&[], &["192.0.2.1"], &["192.0.2.1"], &[]),
            (&["2001:db8::1"], &[], &["2001:DB8:0::1"], &[]),
            (&["::ffff:192.0.2.1"], &[], &["192.0.2.1"], &[]),
        ] {
            let text = between(own, shared, its, it_shares).expect("an overlap");
            assert!(text.contains("node 1.1") && text.contains("node 1.2"), "{text}");
        }
        assert_eq!(between(&["192.0.2.1"], &["192.0.2.3"], &["192.0.2.2"], &["192.0.2.3"]), None);
    }

    #[test]
    fn loopback_is_each_machines_own_until_it_is_shared() {
        assert_eq!(between(&["127.0.0.1", "::1"], &[], &["127.0.0.1", "::1"], &[]), None);
        assert_eq!(between(&[], &["127.0.0.1"], &[], &["127.0.0.1"]), None);
        assert!(between(&["127.0.0.1"], &[], &[], &["127.0.0.1"]).is_some());
        assert!(between(&[], &["::1"], &["::1"], &[]).is_some());
    }
}
