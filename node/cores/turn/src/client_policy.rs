//! Which clients are served: by their network, and by the autonomous system that announces it.
//!
//! It is asked where something of a client arrives that has no allocation; a flow with a live allocation is not
//! looked up again. What a source was told is kept in a table of fixed size, so that a flood from a denied network
//! costs one look-up in it for each packet, and no memory.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use ipnet::IpNet;

use crate::ranges::{Ranges, canonical};

/// Tells the autonomous system of an address.
pub trait AutonomousSystems: Send + Sync {
    /// Its number; `None` when it is not known.
    fn number_of(&self, ip: IpAddr) -> Option<u32>;
}

/// What an operator says about clients. A denial wins over a permission; where anything is permitted, everything
/// else is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRules {
    /// Served.
    pub allow: Vec<IpNet>,
    /// Not served.
    pub deny: Vec<IpNet>,
    /// Autonomous systems that are served.
    pub allow_asn: Vec<u32>,
    /// Autonomous systems that are not.
    pub deny_asn: Vec<u32>,
}

/// The rules in a form that is quick to ask. The default serves everybody.
#[derive(Clone, Default)]
pub struct ClientPolicy {
    allow: Ranges,
    deny: Ranges,
    /// In order.
    allow_asn: Vec<u32>,
    deny_asn: Vec<u32>,
    systems: Option<Arc<dyn AutonomousSystems>>,
}

impl ClientPolicy {
    /// A policy of these rules. Without `systems` no address is of any autonomous system.
    #[must_use]
    pub fn new(rules: ClientRules, systems: Option<Arc<dyn AutonomousSystems>>) -> Self {
        let in_order = |mut numbers: Vec<u32>| {
            numbers.sort_unstable();
            numbers
        };
        Self {
            allow: Ranges::new(&rules.allow),
            deny: Ranges::new(&rules.deny),
            allow_asn: in_order(rules.allow_asn),
            deny_asn: in_order(rules.deny_asn),
            systems,
        }
    }

    /// Whether everybody is served.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.deny.is_empty() && self.deny_asn.is_empty() && self.permits_everybody()
    }

    /// Whether clients at this address are served.
    #[must_use]
    pub fn admits(&self, ip: IpAddr) -> bool {
        let plain = canonical(ip);
        // A rule may name an encoding's own range, such as 2002::/16.
        let within = |ranges: &Ranges| ranges.hold(plain) || (plain != ip && ranges.hold(ip));
        if within(&self.deny) {
            return false;
        }
        let number = self.system_of(plain);
        let named = |numbers: &[u32]| number.is_some_and(|number| numbers.binary_search(&number).is_ok());
        !named(&self.deny_asn) && (self.permits_everybody() || within(&self.allow) || named(&self.allow_asn))
    }

    fn permits_everybody(&self) -> bool {
        self.allow.is_empty() && self.allow_asn.is_empty()
    }

    fn system_of(&self, ip: IpAddr) -> Option<u32> {
        let asks = !self.allow_asn.is_empty() || !self.deny_asn.is_empty();
        self.systems.as_ref().filter(|_| asks)?.number_of(ip)
    }
}

/// Verdicts that are kept: sources that talk at the same time, and one in this many is looked up twice.
const VERDICTS: usize = 8_192;

/// A shard's policy with the verdicts it gave lately. A source takes the place of another under a keyed hash.
pub(crate) struct Gate {
    policy: Arc<ClientPolicy>,
    /// Empty while everybody is served.
    verdicts: Box<[Option<(IpAddr, bool)>]>,
    hash: RandomState,
}

impl Gate {
    /// Serves everybody.
    pub fn new(hash: RandomState) -> Self {
        Self { policy: Arc::default(), verdicts: Box::default(), hash }
    }

    /// Goes over to another policy; `false` when it is the one it has.
    pub fn set(&mut self, policy: &Arc<ClientPolicy>) -> bool {
        if Arc::ptr_eq(&self.policy, policy) {
            return false;
        }
        let places = if policy.is_open() { 0 } else { VERDICTS };
        self.verdicts = vec![None; places].into_boxed_slice();
        self.policy = Arc::clone(policy);
        true
    }

    /// The policy.
    pub const fn policy(&self) -> &Arc<ClientPolicy> {
        &self.policy
    }

    /// Whether there is anybody who is not served.
    pub fn is_closed_to_some(&self) -> bool {
        !self.verdicts.is_empty()
    }

    /// Whether clients at this address are served.
    pub fn admits(&mut self, ip: IpAddr) -> bool {
        let hash = usize::try_from(self.hash.hash_one(ip)).unwrap_or(0);
        let place = hash.checked_rem(self.verdicts.len()).and_then(|place| self.verdicts.get_mut(place));
        let Some(place) = place else { return true };
        match place {
            Some((known, verdict)) if *known == ip => *verdict,
            Some(_) | None => {
                let verdict = self.policy.admits(ip);
                *place = Some((ip, verdict));
                verdict
            }
        }
    }
}
