//! The servers that a packet is sent to until one owns its flow.

use std::collections::HashSet;

use trunkline_wire::gue::Hops;

use crate::classify::Class;
use crate::row::{NOBODY, Row};

/// Servers of the site that do not answer, as the servers that probe each other see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dead(HashSet<u16>);

impl Dead {
    /// These servers.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = u16>) -> Self {
        Self(servers.into_iter().collect())
    }

    /// Whether a server is worth sending to.
    #[must_use]
    pub fn spares(&self, server: u16) -> bool {
        server != NOBODY && !self.0.contains(&server)
    }
}

/// Where a packet without a known flow goes from the server it landed on. No hops: it stays.
///
/// A member of a flow visits the row's owner, those before it, the one to come, and the one that takes over for a dead
/// owner: one before it if that one answers, else the row's fallback. An opener asks the one to come and the owners before first, so that a repeated Allocate finds its flow, and ends
/// at the owner, who takes it. `me` stands in the way only as that last one.
#[must_use]
pub fn of(class: Class, row: Row, fallback: [u16; 2], dead: &Dead, me: u16) -> Hops {
    let [first, second] = row.previous;
    let [stand_in, other] = fallback;
    let takers = [row.current, first, second, stand_in, other];
    let taker = takers.into_iter().find(|server| dead.spares(*server)).unwrap_or(me);
    let mut hops = Hops::default();
    let mut add = |server: u16| {
        if dead.spares(server) && server != me && !hops.hold(server) {
            hops.push(server);
        }
    };
    match class {
        Class::Opener => {
            for server in [row.next, first, second] {
                if server != taker {
                    add(server);
                }
            }
            if taker != me || !hops.servers().is_empty() {
                hops.push(taker);
            }
        }
        Class::Stateless => add(taker),
        Class::Ice(owner) => add(owner.server),
        Class::Member => [taker, first, second, row.next, stand_in].into_iter().for_each(add),
    }
    hops
}
