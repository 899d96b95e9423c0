//! Operators' questions about this server's allocations.

use trunkline_control_plane::records::{node_id, node_message};
use trunkline_proto::fleet::v1::{Allocation, AllocationFilter};
use trunkline_proto::node::v1::question::Question as Asked;
use trunkline_proto::node::v1::{Answer, Question};
use trunkline_turn::AllocationSummary;
use trunkline_wire::NodeId;

use crate::allocation_name;
use crate::shard::Shards;

/// Answers a question.
pub async fn answer(node: NodeId, shards: &Shards, question: Question) -> Answer {
    let id = question.id;
    match question.question {
        Some(Asked::ListAllocations(filter)) => {
            let allocations = chosen(node, shards.allocations().await, &filter);
            Answer { id, allocations, closed: false }
        }
        Some(Asked::CloseAllocation(name)) => {
            let closed = match allocation_name::parse(&name) {
                Some((shard, allocation)) => shards.close_allocation(shard, allocation).await,
                None => false,
            };
            if closed {
                tracing::info!(allocation = name, "allocation ended by an operator");
            }
            Answer { id, allocations: vec![], closed }
        }
        None => Answer { id, ..Answer::default() },
    }
}

/// The oldest that match, as many as are wanted.
fn chosen(node: NodeId, all: Vec<AllocationSummary>, filter: &AllocationFilter) -> Vec<Allocation> {
    if filter.node.is_some_and(|wanted| node_id(&wanted) != Some(node)) {
        return vec![];
    }
    let limit = if filter.limit == 0 { LIMIT_DEFAULT } else { filter.limit.min(LIMIT_MAX) };
    let mut found: Vec<_> = all.into_iter().filter(|allocation| matches(filter, allocation)).collect();
    found.sort_by_key(|allocation| (std::cmp::Reverse(allocation.age_s), allocation.shard, allocation.id));
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    found.into_iter().map(|allocation| message(node, allocation)).collect()
}

fn matches(filter: &AllocationFilter, allocation: &AllocationSummary) -> bool {
    let name_behind_expiry = allocation.username.split_once(':').map(|(_, name)| name);
    let is_user = filter.user.is_empty()
        || allocation.username == filter.user
        || name_behind_expiry == Some(filter.user.as_str());
    let is_key = filter.key_id.is_empty() || allocation.key_id.as_deref() == Some(filter.key_id.as_str());
    let mut addresses = allocation.relays.iter().chain([&allocation.client]);
    let is_at = |at: &std::net::SocketAddr| {
        at.to_string() == filter.address || at.ip().to_canonical().to_string() == filter.address
    };
    is_user && is_key && (filter.address.is_empty() || addresses.any(is_at))
}

fn message(node: NodeId, allocation: AllocationSummary) -> Allocation {
    Allocation {
        node: Some(node_message(node)),
        id: allocation_name::text(allocation.shard, allocation.id),
        username: allocation.username,
        key_id: allocation.key_id.unwrap_or_default(),
        client: allocation.client.to_string(),
        transport: allocation.transport.name().to_owned(),
        relayed: allocation.relays.iter().map(ToString::to_string).collect(),
        age_s: allocation.age_s,
        expires_in_s: allocation.expires_in_s,
        bytes_to_peer: allocation.to_peer.bytes,
        bytes_to_client: allocation.to_client.bytes,
        permissions: u32::try_from(allocation.permissions).unwrap_or(u32::MAX),
        channels: u32::try_from(allocation.channels).unwrap_or(u32::MAX),
    }
}

/// As `AllocationFilter.limit` says.
const LIMIT_DEFAULT: u32 = 1_000;
/// An answer of so many stays within what a replica takes.
const LIMIT_MAX: u32 = 10_000;

#[cfg(test)]
mod tests {
    use trunkline_turn::Traffic;
    use trunkline_wire::{AllocationId, Transport};

    use super::*;

    const NODE: NodeId = NodeId { site: 1, server: 2 };

    fn allocation(username: &str, key: &str, client: &str, age_s: u64) -> AllocationSummary {
        AllocationSummary {
            id: AllocationId { index: u32::try_from(age_s).unwrap(), generation: 1 },
            shard: 3,
            username: username.to_owned(),
            key_id: (!key.is_empty()).then(|| key.to_owned()),
            transport: Transport::Udp,
            client: client.parse().unwrap(),
            relays: vec!["192.0.2.1:50000".parse().unwrap()],
            expires_in_s: 9,
            age_s,
            permissions: 1,
            channels: 0,
            to_peer: Traffic { packets: 1, bytes: 10 },
            to_client: Traffic::default(),
        }
    }

    #[test]
    fn every_field_of_a_filter_narrows_and_the_oldest_come_first() {
        let all = vec![
            allocation("2000:k1:bob", "k1", "198.51.100.1:4000", 5),
            allocation("alice", "", "198.51.100.2:4000", 7),
            allocation("3000:k1:bob", "k1", "[::ffff:198.51.100.3]:4000", 6),
        ];
        let ages = |filter: AllocationFilter| {
            chosen(NODE, all.clone(), &filter).iter().map(|found| found.age_s).collect::<Vec<_>>()
        };
        let by = AllocationFilter::default;
        assert_eq!(ages(by()), [7, 6, 5]);
        assert_eq!(ages(AllocationFilter { limit: 2, ..by() }), [7, 6]);
        assert_eq!(ages(AllocationFilter { user: "k1:bob".into(), ..by() }), [6, 5]);
        assert_eq!(ages(AllocationFilter { user: "2000:k1:bob".into(), ..by() }), [5]);
        assert_eq!(ages(AllocationFilter { user: "bob".into(), ..by() }), [0_u64; 0]);
        assert_eq!(ages(AllocationFilter { key_id: "k1".into(), ..by() }), [6, 5]);
        assert_eq!(ages(AllocationFilter { address: "198.51.100.3".into(), ..by() }), [6]);
        assert_eq!(ages(AllocationFilter { address: "198.51.100.2:4000".into(), ..by() }), [7]);
        assert_eq!(ages(AllocationFilter { address: "192.0.2.1".into(), ..by() }), [7, 6, 5]);
        let other = NodeId { site: 1, server: 3 };
        assert_eq!(ages(AllocationFilter { node: Some(node_message(other)), ..by() }), [0_u64; 0]);
        let named = chosen(NODE, all.clone(), &by());
        assert_eq!((named[0].id.as_str(), named[0].transport.as_str()), ("3-7-1", "udp"));
    }
}
