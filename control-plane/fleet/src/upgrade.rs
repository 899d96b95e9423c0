//! A rolling upgrade: which servers may be drained and started anew next, so that no site is ever without enough.

use std::collections::BTreeMap;

use trunkline_wire::NodeId;

use crate::Condition;

/// A server in an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// As it is now.
    pub condition: Condition,
    /// It runs the new version.
    pub is_new: bool,
}

/// The servers to drain next: one of each site where all others are live, the lowest number first. A site with a dead
/// or draining server waits.
#[must_use]
pub fn next(servers: &BTreeMap<NodeId, Upgraded>) -> Vec<NodeId> {
    let mut sites: BTreeMap<u16, Vec<(NodeId, Upgraded)>> = BTreeMap::new();
    for (node, server) in servers.iter().filter(|(_, server)| server.condition != Condition::Expected) {
        sites.entry(node.site).or_default().push((*node, *server));
    }
    let of_site = |servers: Vec<(NodeId, Upgraded)>| {
        let is_whole = servers.iter().all(|(_, server)| server.condition == Condition::Live);
        servers.into_iter().find(|(_, server)| !server.is_new).filter(|_| is_whole).map(|(node, _)| node)
    };
    sites.into_values().filter_map(of_site).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_of_each_whole_site_is_next() {
        let node = |site, server| NodeId { site, server };
        let live = Upgraded { condition: Condition::Live, is_new: false };
        let servers = BTreeMap::from([
            (node(1, 1), Upgraded { is_new: true, ..live }),
            (node(1, 2), live),
            (node(1, 3), live),
            (node(2, 1), live),
            (node(2, 2), Upgraded { condition: Condition::Dead, ..live }),
            (node(3, 1), Upgraded { is_new: true, ..live }),
        ]);
        assert_eq!(next(&servers), [node(1, 2)]);
    }
}
