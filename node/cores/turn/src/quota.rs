//! How many allocations a user, an address and a key may have, over all shards of the node.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::credentials::User;

/// Allocations at once; zero means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// For one user.
    pub per_user: u32,
    /// For one client address; of IPv6 for one /64.
    pub per_address: u32,
    /// For one key.
    pub per_key: u32,
}

#[derive(Default)]
struct Counts {
    quotas: Quotas,
    users: HashMap<String, u32>,
    addresses: HashMap<IpAddr, u32>,
    keys: HashMap<String, u32>,
}

/// The counts of a node. Locked once for an allocation's start and once for its end, never for a packet.
pub struct Ledger {
    counts: Mutex<Counts>,
}

/// One allocation's place in the ledger; dropping it gives the place back.
pub struct Charge {
    ledger: Arc<Ledger>,
    user: Arc<User>,
    address: IpAddr,
}

/// A quota is used up; answered with 486.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaReached;

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(quotas: Quotas) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::new(Counts { quotas, ..Counts::default() }) })
    }

    /// Holds new allocations to other quotas from now on; those that there are stay.
    pub fn set_quotas(&self, quotas: Quotas) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).quotas = quotas;
    }

    /// Charges one allocation to the user, its key, and the client's address.
    ///
    /// # Errors
    /// [`QuotaReached`]; then nothing is charged.
    pub fn charge(self: &Arc<Self>, user: &Arc<User>, address: IpAddr) -> Result<Charge, QuotaReached> {
        let address = subscriber(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |count: Option<&u32>, quota| quota != 0 && count.is_some_and(|count| *count >= quota);
        let (key, quotas) = (user.key_id.as_ref(), counts.quotas);
        if full(counts.users.get(&user.quota_name), quotas.per_user)
            || full(counts.addresses.get(&address), quotas.per_address)
            || key.is_some_and(|key| full(counts.keys.get(key), quotas.per_key))
        {
            return Err(QuotaReached);
        }
        add(&mut counts.users, &user.quota_name);
        add(&mut counts.addresses, &address);
        if let Some(key) = key {
            add(&mut counts.keys, key);
        }
        Ok(Charge { ledger: Arc::clone(self), user: Arc::clone(user), address })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut counts = self.ledger.counts.lock().unwrap_or_else(PoisonError::into_inner);
        subtract(&mut counts.users, &self.user.quota_name);
        subtract(&mut counts.addresses, &self.address);
        if let Some(key) = &self.user.key_id {
            subtract(&mut counts.keys, key);
        }
    }
}

/// What one subscriber cannot change at will: an IPv4 address, or the /64 that every subscriber of IPv6 has at least.
pub(crate) fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

fn add<K: Eq + Hash + Clone>(counts: &mut HashMap<K, u32>, key: &K) {
    match counts.get_mut(key) {
        Some(count) => *count = count.saturating_add(1),
        None => {
            counts.insert(key.clone(), 1);
        }
    }
}

fn subtract<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, key: Option<&str>) -> Arc<User> {
        Arc::new(User {
            username: name.into(),
            key_id: key.map(Into::into),
            quota_name: name.into(),
            expires_unix_s: None,
        })
    }

    #[test]
    fn each_quota_holds_and_is_given_back() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        let ledger = Ledger::new(Quotas { per_user: 2, per_address: 3, per_key: 3 });
        let first = ledger.charge(&user("a", Some("k")), address);
        let _second = ledger.charge(&user("a", Some("k")), address).ok().unwrap();
        assert!(ledger.charge(&user("a", Some("k")), other).is_err(), "user quota");
        let _third = ledger.charge(&user("b", Some("k")), address).ok().unwrap();
        assert!(ledger.charge(&user("c", None), address).is_err(), "address quota");
        assert!(ledger.charge(&user("c", Some("k")), other).is_err(), "key quota");
        drop(first);
        assert!(ledger.charge(&user("a", Some("k")), other).is_ok());
    }

    #[test]
    fn an_empty_ledger_holds_no_memory_of_users() {
        let ledger = Ledger::new(Quotas::default());
        drop(ledger.charge(&user("a", Some("k")), "192.0.2.1".parse().unwrap()));
        let counts = ledger.counts.lock().unwrap();
        assert!(counts.users.is_empty() && counts.addresses.is_empty() && counts.keys.is_empty());
    }
}
