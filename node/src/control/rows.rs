//! Which rows of the site's steering table the live flows fall on, for the planner that moves rows.

use std::collections::BTreeMap;

use trunkline_proto::fleet::v1;
use trunkline_steer::{FiveTuple, Row, SteeringTable};
use trunkline_turn::ServiceFlow;
use trunkline_wire::Transport;

/// The table of a configuration; `None` where the site has none yet, or it is not whole.
#[must_use]
pub fn table(message: &v1::SteeringTable) -> Option<SteeringTable> {
    let (rows, rest) = message.rows.as_chunks::<ROW_BYTES>();
    let rows = rows.iter().map(|row| Row::from_bytes(*row)).collect();
    let hash_key = <[u8; 16]>::try_from(&message.hash_key[..]).ok().filter(|_| rest.is_empty())?;
    SteeringTable::new(rows, hash_key).ok()
}

/// Rows that have flows, in order, and how many each has.
#[must_use]
pub fn flows_by_row(table: &SteeringTable, flows: &[ServiceFlow]) -> (Vec<u32>, Vec<u32>) {
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for flow in flows {
        let count = counts.entry(table.row_of(&five_tuple(flow))).or_default();
        *count = count.saturating_add(1);
    }
    counts.into_iter().unzip()
}

fn five_tuple(flow: &ServiceFlow) -> FiveTuple {
    let protocol = match flow.transport {
        Transport::Udp => IPPROTO_UDP,
        Transport::Tcp | Transport::Tls => IPPROTO_TCP,
    };
    FiveTuple { client: flow.client, service: flow.service, protocol }
}

/// As `SteeringTable.rows` says.
const ROW_BYTES: usize = 8;
/// Numbers of protocols (IANA).
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(rows: usize) -> v1::SteeringTable {
        let row = Row { current: 1, ..Row::default() };
        v1::SteeringTable {
            rows: row.to_bytes().repeat(rows),
            hash_key: vec![9; 16],
            ..v1::SteeringTable::default()
        }
    }

    #[test]
    fn every_flow_is_counted_on_its_row() {
        let table = table(&message(1_024)).unwrap();
        let flow = |port: u16, transport| ServiceFlow {
            client: std::net::SocketAddr::new([192, 0, 2, 7].into(), port),
            service: "198.51.100.1:3478".parse().unwrap(),
            transport,
        };
        let flows: Vec<_> = (1_000..1_100).map(|port| flow(port, Transport::Udp)).collect();
        let (rows, counts) = flows_by_row(&table, &flows);
        assert_eq!((counts.iter().sum::<u32>(), rows.len()), (100, counts.len()));
        assert!(rows.is_sorted() && rows.iter().all(|row| *row < 1_024));
        let one = [flow(5, Transport::Tls), flow(5, Transport::Tcp)];
        assert_eq!(flows_by_row(&table, &one).1, [2], "TLS is TCP on the way here");
    }

    #[test]
    fn what_is_no_table_has_no_rows() {
        assert!(table(&v1::SteeringTable { hash_key: vec![], ..message(1_024) }).is_none());
        let mut torn = message(1_024);
        torn.rows.pop();
        assert!(table(&torn).is_none());
    }
}
