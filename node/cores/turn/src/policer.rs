//! Rates: the policer of an allocation and the budget of a source.
//!
//! Both are a generic cell rate algorithm (ITU-T I.371 annex A): one number, the time at which the bucket would be
//! full again, and no timer.

use trunkline_wire::Now;
use trunkline_wire::now::NS_PER_S;

/// A rate and how much of it may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second; zero means no limit.
    pub per_s: u64,
    /// Units that may come at once.
    pub burst: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { per_s: 0, burst: 0 };

    /// Time that `units` take at this rate, in nanoseconds.
    fn cost_ns(self, units: u64) -> u64 {
        units.saturating_mul(NS_PER_S).checked_div(self.per_s).unwrap_or(0)
    }
}

/// What has been used of a [`Rate`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    full_again_at_ns: u64,
}

impl Bucket {
    /// Takes `units` if the rate allows; otherwise takes nothing.
    pub fn take(&mut self, now: Now, rate: Rate, units: u64) -> bool {
        if rate.per_s == 0 {
            return true;
        }
        let after = self.full_again_at_ns.max(now.monotonic_ns).saturating_add(rate.cost_ns(units));
        let fits = after.saturating_sub(now.monotonic_ns) <= rate.cost_ns(rate.burst);
        if fits {
            self.full_again_at_ns = after;
        }
        fits
    }

    /// Makes the bucket full at once.
    pub fn refill(&mut self) {
        self.full_again_at_ns = 0;
    }
}

/// Bandwidth and packet rate of one direction of an allocation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policer {
    bytes: Bucket,
    packets: Bucket,
}

/// The limits a [`Policer`] holds an allocation to, each direction by itself.
#[derive(Clone, Copy, Debug)]
pub struct PolicerLimits {
    /// Payload bytes.
    pub bytes: Rate,
    /// Packets.
    pub packets: Rate,
}

impl Policer {
    /// Whether a packet of `bytes` payload bytes may pass.
    pub fn admit(&mut self, now: Now, limits: &PolicerLimits, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.packets.take(now, limits.packets, 1) && self.bytes.take(now, limits.bytes, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let rate = Rate { per_s: 100, burst: 10 };
        let mut bucket = Bucket::default();
        let start = Now { monotonic_ns: 5 * NS_PER_S, unix_s: 0 };
        assert_eq!((0..50).filter(|_| bucket.take(start, rate, 1)).count(), 10);
        let mut passed = 0;
        for ms in 0..1_000_u64 {
            let now = Now { monotonic_ns: start.monotonic_ns + ms * 1_000_000, unix_s: 0 };
            passed += u64::from(bucket.take(now, rate, 1));
        }
        assert!((98..=101).contains(&passed), "{passed}");
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let rate = Rate { per_s: 1_000, burst: 1_000 };
        let mut bucket = Bucket::default();
        let now = Now { monotonic_ns: 0, unix_s: 0 };
        assert!(!bucket.take(now, rate, 1_001));
        assert!(bucket.take(now, rate, 1_000));
        assert!(!bucket.take(now, rate, 1));
        bucket.refill();
        assert!(bucket.take(now, rate, 1_000));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(Now { monotonic_ns: 0, unix_s: 0 }, Rate::UNLIMITED, u64::MAX));
    }
}
