//! The steering table of a site: a keyed hash of the 5-tuple finds the row of a flow.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

use crate::row::{NOBODY, Row};

/// Rows unless it is said otherwise.
pub const ROWS_DEFAULT: u32 = 16_384;
/// Fewest rows.
pub const ROWS_MIN: u32 = 1_024;
/// Most rows.
pub const ROWS_MAX: u32 = 65_536;

/// What names a client's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// The client's end.
    pub client: SocketAddr,
    /// Our end.
    pub service: SocketAddr,
}

/// Why rows are not a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFault {
    /// Not a power of two from [`ROWS_MIN`] to [`ROWS_MAX`].
    RowCount(usize),
    /// This row has no current owner.
    NoOwner(usize),
}

/// The rows of a site and the key of the hash, which is a secret: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SteeringTable {
    rows: Vec<Row>,
    hash_key: [u8; 16],
}

impl SteeringTable {
    /// A table of these rows.
    ///
    /// # Errors
    /// [`TableFault`].
    pub fn new(rows: Vec<Row>, hash_key: [u8; 16]) -> Result<Self, TableFault> {
        let count = rows.len();
        let bounds = ROWS_MIN as usize..=ROWS_MAX as usize;
        if !count.is_power_of_two() || !bounds.contains(&count) {
            return Err(TableFault::RowCount(count));
        }
        match rows.iter().position(|row| row.current == NOBODY) {
            Some(index) => Err(TableFault::NoOwner(index)),
            None => Ok(Self { rows, hash_key }),
        }
    }

    /// The index of a flow's row. The hash is keyed: nobody outside can aim at a row.
    #[must_use]
    pub fn row_of(&self, flow: &FiveTuple) -> u32 {
        let mut hash = SipHasher24::new_with_key(&self.hash_key);
        hash.write_u8(flow.protocol);
        for end in [flow.client, flow.service] {
            match end.ip() {
                IpAddr::V4(ip) => hash.write(&ip.octets()),
                IpAddr::V6(ip) => hash.write(&ip.octets()),
            }
            hash.write(&end.port().to_be_bytes());
        }
        let mask = self.rows.len().saturating_sub(1) as u64;
        u32::try_from(hash.finish() & mask).unwrap_or(0)
    }

    /// A row.
    #[must_use]
    pub fn row(&self, index: u32) -> Option<Row> {
        self.rows.get(index as usize).copied()
    }

    /// All rows.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_spread_over_rows_and_the_key_decides() {
        let rows = vec![Row::of(1); ROWS_MIN as usize];
        let (one, other) =
            (SteeringTable::new(rows.clone(), [1; 16]).unwrap(), SteeringTable::new(rows, [2; 16]).unwrap());
        let flow = |port| FiveTuple {
            protocol: 17,
            client: SocketAddr::from(([192, 0, 2, 1], port)),
            service: SocketAddr::from(([198, 51, 100, 1], 3_478)),
        };
        let mut hits = vec![0; ROWS_MIN as usize];
        let mut same = 0;
        for port in 1..=20_480 {
            hits[one.row_of(&flow(port)) as usize] += 1;
            same += u32::from(one.row_of(&flow(port)) == other.row_of(&flow(port)));
        }
        assert!(hits.iter().all(|hits| *hits < 60), "20 on average, at most {:?}", hits.iter().max());
        assert!(same < 100, "{same} of 20,480 in the same row under another key");
    }

    #[test]
    fn rows_that_are_no_table_are_refused() {
        let fault = |count: usize| SteeringTable::new(vec![Row::of(1); count], [0; 16]).err();
        assert_eq!(fault(1_000), Some(TableFault::RowCount(1_000)));
        assert_eq!(fault(512), Some(TableFault::RowCount(512)));
        let mut rows = vec![Row::of(1); 1_024];
        rows[7] = Row::default();
        assert_eq!(SteeringTable::new(rows, [0; 16]).err(), Some(TableFault::NoOwner(7)));
    }
}
