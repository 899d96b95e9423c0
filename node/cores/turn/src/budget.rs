//! How many bytes of unauthenticated answers a source address gets (threat 11).
//!
//! A spoofed source must not be flooded through us, so answers sent before a client proved its address are
//! budgeted per address, whatever the port; a valid nonce that comes back is that proof and fills the budget up
//! again. The table never grows: addresses that share a place share its budget, under a keyed hash.

use std::net::IpAddr;

use ahash::RandomState;
use trunkline_wire::Now;

use crate::policer::{Bucket, Rate};
use crate::quota::subscriber;

/// Places in the table: 8 bytes each.
const PLACES: usize = 16_384;

/// IP and UDP headers in front of an answer, which the victim of a reflection receives too.
const HEADER_BYTES: usize = 28;

/// The budgets of all source addresses.
pub struct Budget {
    places: Box<[Bucket]>,
    hash: RandomState,
    rate: Rate,
}

impl Budget {
    /// Budgets of `rate` bytes per address.
    #[must_use]
    pub fn new(rate: Rate, hash: RandomState) -> Self {
        Self { places: vec![Bucket::default(); PLACES].into_boxed_slice(), hash, rate }
    }

    /// Holds to another rate from now on.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// Whether an unauthenticated answer of `bytes` may go to `ip`.
    pub fn take(&mut self, now: Now, ip: IpAddr, bytes: usize) -> bool {
        let units = u64::try_from(bytes.saturating_add(HEADER_BYTES)).unwrap_or(u64::MAX);
        let rate = self.rate;
        self.place(ip).is_none_or(|bucket| bucket.take(now, rate, units))
    }

    /// `ip` proved that it receives what we send.
    pub fn replenish(&mut self, ip: IpAddr) {
        if let Some(bucket) = self.place(ip) {
            bucket.refill();
        }
    }

    fn place(&mut self, ip: IpAddr) -> Option<&mut Bucket> {
        let hash = self.hash.hash_one(subscriber(ip));
        let index = usize::try_from(hash).unwrap_or(0) & PLACES.saturating_sub(1);
        self.places.get_mut(index)
    }
}
