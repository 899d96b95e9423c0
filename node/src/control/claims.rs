//! Which slices this server says it uses.
//!
//! It uses exactly those that the configuration in force gives it. One that is to be given back is named until no port
//! of it is in use, and that is the only way in which this server gives a slice back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use trunkline_control_plane::records::node_id;
use trunkline_proto::fleet::v1::Configuration;
use trunkline_proto::fleet::v1::slice::State;
use trunkline_proto::node::v1::SliceClaim;
use trunkline_wire::NodeId;

/// The claims of `node` with this configuration in force, while ports of `in_use` are leased or reserved.
#[must_use]
pub fn claims(configuration: &Configuration, node: NodeId, in_use: &[(IpAddr, usize)]) -> Vec<SliceClaim> {
    let in_use: BTreeSet<(String, usize)> =
        in_use.iter().map(|(ip, index)| (ip.to_string(), *index)).collect();
    let is_used = |address: &str, index: u32| {
        usize::try_from(index).is_ok_and(|index| in_use.contains(&(address.to_owned(), index)))
    };
    let ours =
        configuration.slices.iter().filter(|slice| slice.owner.as_ref().and_then(node_id) == Some(node));
    let claimed = ours.filter(|slice| match slice.state() {
        State::Owned => true,
        State::Draining => is_used(&slice.address, slice.index),
        State::Unspecified | State::Quarantine | State::Free => false,
    });
    claimed
        .map(|slice| SliceClaim { address: slice.address.clone(), index: slice.index, lease: slice.lease })
        .collect()
}

#[cfg(test)]
mod tests {
    use trunkline_proto::fleet::v1::Slice;

    use super::*;

    const NODE: NodeId = NodeId { site: 1, server: 2 };

    fn slice(index: u32, state: State, server: u32) -> Slice {
        let owner = (server != 0).then_some(trunkline_proto::fleet::v1::NodeId { site: 1, server });
        Slice { address: "192.0.2.1".into(), index, state: state.into(), owner, lease: u64::from(index) * 10 }
    }

    #[test]
    fn a_draining_slice_is_claimed_while_a_port_of_it_is_in_use() {
        let configuration = Configuration {
            slices: vec![
                slice(9, State::Owned, 2),
                slice(10, State::Draining, 2),
                slice(11, State::Draining, 2),
                slice(12, State::Owned, 3),
                slice(13, State::Quarantine, 0),
                slice(14, State::Free, 0),
            ],
            ..Configuration::default()
        };
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let named = |in_use: &[(IpAddr, usize)]| {
            let claims = claims(&configuration, NODE, in_use);
            claims.iter().map(|claim| (claim.index, claim.lease)).collect::<Vec<_>>()
        };
        assert_eq!(named(&[(ip, 10), (ip, 12), (ip, 13)]), [(9, 90), (10, 100)]);
        assert_eq!(named(&[]), [(9, 90)]);
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        assert_eq!(named(&[(other, 11)]), [(9, 90)], "another address's slice of the same index");
    }
}
