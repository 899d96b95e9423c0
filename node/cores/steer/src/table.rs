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
    fallbacks: Vec<[u16; 2]>,
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
            None => {
                let owner = |index: usize| rows.get(index).map_or(NOBODY, |row| row.current);
                let fallbacks = (0..count).map(|index| fallback(index, count, owner)).collect();
                Ok(Self { rows, fallbacks, hash_key })
            }
        }
    }

    /// The keyed hash of a flow: nobody outside can aim at a row.
    #[must_use]
    pub fn hash(&self, flow: &FiveTuple) -> u64 {
        let mut hash = SipHasher24::new_with_key(&self.hash_key);
        hash.write(&[flow.protocol]);
        for end in [flow.client, flow.service] {
            write_ip(&mut hash, end.ip());
            hash.write(&end.port().to_be_bytes());
        }
        hash.finish()
    }

    /// The keyed hash of what the fragments of one packet have in common.
    #[must_use]
    pub fn fragment_hash(&self, protocol: u8, source: IpAddr, destination: IpAddr, id: u32) -> u64 {
        let mut hash = SipHasher24::new_with_key(&self.hash_key);
        hash.write(&[protocol]);
        write_ip(&mut hash, source);
        write_ip(&mut hash, destination);
        hash.write(&id.to_be_bytes());
        hash.finish()
    }

    /// The index of the row of a hash.
    #[must_use]
    pub fn index(&self, hash: u64) -> u32 {
        let mask = self.rows.len().saturating_sub(1) as u64;
        u32::try_from(hash & mask).unwrap_or(0)
    }

    /// The index of a flow's row.
    #[must_use]
    pub fn row_of(&self, flow: &FiveTuple) -> u32 {
        self.index(self.hash(flow))
    }

    /// Who takes a row's new flows when its owner does not answer: the first of the two that does. Every server of the site
    /// names the same, each server about as often as it has rows.
    #[must_use]
    pub fn fallback(&self, index: u32) -> [u16; 2] {
        self.fallbacks.get(index as usize).copied().unwrap_or_default()
    }

    /// A row.
    #[must_use]
    pub fn row(&self, index: u32) -> Option<Row> {
        self.rows.get(index as usize).copied()
    }

    /// The secret of the hash.
    #[must_use]
    pub const fn hash_key(&self) -> &[u8; 16] {
        &self.hash_key
    }

    /// All rows.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

fn write_ip(hash: &mut SipHasher24, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => hash.write(&ip.octets()),
        IpAddr::V6(ip) => hash.write(&ip.octets()),
    }
}

/// Who takes over a row's new flows, see [`SteeringTable::fallback`]: the owners of other rows, found by a walk over all of
/// them that depends on the row.
#[must_use]
pub fn fallback(index: usize, count: usize, owner: impl Fn(usize) -> u16) -> [u16; 2] {
    let mut others = [NOBODY; 2];
    let mut place = index as u64;
    for _ in 0..WALK_MAX {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = owner(usize::try_from((place >> 32).checked_rem(count as u64).unwrap_or(0)).unwrap_or(0));
        if other == owner(index) || others.contains(&other) {
            continue;
        }
        match &mut others {
            [NOBODY, _] => others = [other, NOBODY],
            [_, second] => {
                *second = other;
                break;
            }
        }
    }
    others
}

/// Rows that are looked at for two other owners: with three servers of equal weight two are missed in one of 10⁷ rows.
const WALK_MAX: usize = 40;

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

    #[test]
    fn fallbacks_are_two_others_and_follow_the_weights() {
        let rows: Vec<Row> =
            (0..16_384).map(|index| Row::of(if index % 4 == 0 { 1 } else { 2 + index % 2 })).collect();
        let table = SteeringTable::new(rows, [1; 16]).unwrap();
        let mut takers = [0_u32; 4];
        for index in 0..16_384 {
            let (current, [first, second]) = (table.row(index).unwrap().current, table.fallback(index));
            assert!(first != current && second != current && first != second && first != NOBODY);
            if current == 1 {
                takers[usize::from(first)] += 1;
            }
        }
        // Of the rows of 1, servers 2 and 3 take as their numbers of rows are: 1 to 3 (4,096 of 2, 8,192 of 3).
        assert!(takers[3] > takers[2] && takers[2] > 800, "{takers:?}");
        let alone = SteeringTable::new(vec![Row::of(1); 1_024], [1; 16]).unwrap();
        assert_eq!(alone.fallback(3), [NOBODY; 2]);
    }
}
