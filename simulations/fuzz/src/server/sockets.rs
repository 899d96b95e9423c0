//! Relay sockets that only remember what was opened, and refuse as a run asks them to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use trunkline_turn::{OpenError, RelaySockets};
use trunkline_wire::{AllocationId, RelayId};

/// How opening a socket of one family goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Well.
    #[default]
    Willing,
    /// The first port tried is in use.
    FirstInUse,
    /// Every port tried is in use.
    AllInUse,
    /// There are no more sockets.
    Exhausted,
}

impl Mood {
    pub(crate) const ALL: [Self; 4] = [Self::Willing, Self::FirstInUse, Self::AllInUse, Self::Exhausted];
}

/// The sockets of a run.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// IPv4, IPv6.
    pub moods: [Mood; 2],
    /// Ports tried in this operation, by family.
    tried: [usize; 2],
    /// Every address tried in this run.
    pub tried_ever: BTreeSet<SocketAddr>,
    opened: u64,
    open: BTreeMap<u64, (SocketAddr, AllocationId)>,
}

impl Sockets {
    pub(crate) fn begin_operation(&mut self) {
        self.tried = [0; 2];
    }

    /// Socket and allocation of an open address.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<(RelayId, AllocationId)> {
        self.open
            .iter()
            .find(|(_, (at, _))| *at == address)
            .map(|(id, (_, allocation))| (RelayId(*id), *allocation))
    }

    /// Every open address, in order.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.open.values().map(|(at, _)| *at).collect();
        addresses.sort();
        addresses
    }
}

impl RelaySockets for Sockets {
    fn open(&mut self, at: SocketAddr, allocation: AllocationId) -> Result<RelayId, OpenError> {
        assert!(self.at(at).is_none(), "{at} is opened twice");
        let family = usize::from(at.is_ipv6());
        self.tried[family] += 1;
        self.tried_ever.insert(at);
        match self.moods[family] {
            Mood::Exhausted => return Err(OpenError::Exhausted),
            Mood::AllInUse => return Err(OpenError::InUse),
            Mood::FirstInUse if self.tried[family] == 1 => return Err(OpenError::InUse),
            Mood::FirstInUse | Mood::Willing => {}
        }
        self.opened += 1;
        self.open.insert(self.opened, (at, allocation));
        Ok(RelayId(self.opened))
    }

    fn close(&mut self, relay: RelayId) {
        assert!(self.open.remove(&relay.0).is_some(), "{relay:?} is closed twice");
    }
}
