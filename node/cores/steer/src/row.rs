//! One row of a steering table: who owns its flows, who did before, and who will.

/// No server. Servers are numbered from 1 within their site.
pub const NOBODY: u16 = 0;

/// One row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Gets the flows that begin.
    pub current: u16,
    /// Becomes current in the second phase of a move; until then only a trailing hop.
    pub next: u16,
    /// Who owned the row before, the latest first: flows that began then are still theirs.
    pub previous: [u16; 2],
}

/// The servers that a packet of a row visits until one owns its flow, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    hops: [u16; 4],
    len: usize,
}

impl Row {
    /// A row that has always been this server's.
    #[must_use]
    pub const fn of(current: u16) -> Self {
        Self { current, next: NOBODY, previous: [NOBODY; 2] }
    }

    /// Big-endian: current, next, previous 1, previous 2.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        let ([a, b], [c, d]) = (self.current.to_be_bytes(), self.next.to_be_bytes());
        let [first, second] = self.previous;
        let ([e, f], [g, h]) = (first.to_be_bytes(), second.to_be_bytes());
        [a, b, c, d, e, f, g, h]
    }

    /// The inverse of [`Row::to_bytes`].
    #[must_use]
    pub const fn from_bytes([a, b, c, d, e, f, g, h]: [u8; 8]) -> Self {
        Self {
            current: u16::from_be_bytes([a, b]),
            next: u16::from_be_bytes([c, d]),
            previous: [u16::from_be_bytes([e, f]), u16::from_be_bytes([g, h])],
        }
    }

    /// Where its packets go: to the current owner, the previous ones, and last to the one that is to come, which a
    /// server with a newer table has made current already.
    #[must_use]
    pub fn chain(self) -> Chain {
        let [first, second] = self.previous;
        let mut chain = Chain::default();
        for hop in [self.current, first, second, self.next] {
            chain.add(hop);
        }
        chain
    }

    /// The first phase of a move: `next` is told to everybody.
    #[must_use]
    pub const fn publishing(self, next: u16) -> Self {
        Self { next, ..self }
    }

    /// The second phase: `next` is current, and the owner before it is remembered. Without a `next` it stays as it is.
    #[must_use]
    pub fn moved(self) -> Self {
        if self.next == NOBODY || self.next == self.current {
            return Self { next: NOBODY, ..self };
        }
        let [first, second] = self.previous;
        let mut before = [self.current, first, second].into_iter().filter(|server| *server != self.next);
        let previous = [before.next().unwrap_or(NOBODY), before.next().unwrap_or(NOBODY)];
        Self { current: self.next, next: NOBODY, previous }
    }
}

impl Chain {
    /// The servers in the order in which they are visited.
    pub fn hops(&self) -> impl Iterator<Item = u16> + '_ {
        self.hops.iter().copied().take(self.len)
    }

    fn add(&mut self, hop: u16) {
        let is_new = hop != NOBODY && !self.hops().any(|known| known == hop);
        if let Some(place) = self.hops.get_mut(self.len).filter(|_| is_new) {
            *place = hop;
            self.len = self.len.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows() -> impl Strategy<Value = Row> {
        (0_u16..5, 0_u16..5, 0_u16..5, 0_u16..5).prop_map(|(current, next, a, b)| Row {
            current,
            next,
            previous: [a, b],
        })
    }

    proptest! {
        #[test]
        fn bytes_and_back(row in rows()) {
            prop_assert_eq!(Row::from_bytes(row.to_bytes()), row);
        }

        #[test]
        fn a_chain_visits_no_server_twice_and_at_most_four(row in rows()) {
            let hops: Vec<u16> = row.chain().hops().collect();
            let mut distinct = hops.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(hops.len(), distinct.len());
            prop_assert!(hops.len() <= 4 && !hops.contains(&NOBODY));
        }

        /// Servers may be one phase apart: whoever owned flows before the move is in the chain of every server.
        #[test]
        fn an_owner_of_the_last_two_moves_is_in_the_chain_of_either_phase(current in 1_u16..5, first in 1_u16..5, second in 1_u16..5) {
            let start = Row::of(current);
            let mut owners = vec![current];
            let mut row = start;
            for next in [first, second] {
                let published = row.publishing(next);
                let done = published.moved();
                for owner in &owners {
                    prop_assert!(published.chain().hops().any(|hop| hop == *owner), "{owner} in {published:?}");
                    prop_assert!(done.chain().hops().any(|hop| hop == *owner), "{owner} in {done:?}");
                }
                // A flow that began at a server with the newer table is reached from one with the older.
                prop_assert!(published.chain().hops().any(|hop| hop == done.current));
                row = done;
                owners.push(next);
            }
        }
    }
}
