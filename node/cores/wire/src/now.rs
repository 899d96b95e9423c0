//! Time as an argument: cores are told what time it is and never ask.

/// One reading of the clocks, taken once per batch by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Nanoseconds since an arbitrary start; never goes back. Every lifetime is measured with it.
    pub monotonic_ns: u64,
    /// Seconds since 1970-01-01 UTC. Only credentials and nonces look at it.
    pub unix_s: u64,
}

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;

impl Now {
    /// The monotonic time `seconds` from now, in nanoseconds.
    #[must_use]
    pub const fn after_s(self, seconds: u64) -> u64 {
        self.monotonic_ns.saturating_add(seconds.saturating_mul(NS_PER_S))
    }

    /// Whether a monotonic deadline in nanoseconds has been reached.
    #[must_use]
    pub const fn reached(self, deadline_ns: u64) -> bool {
        self.monotonic_ns >= deadline_ns
    }

    /// Both clocks moved forward by `seconds`.
    #[must_use]
    pub const fn plus_s(self, seconds: u64) -> Self {
        Self { monotonic_ns: self.after_s(seconds), unix_s: self.unix_s.saturating_add(seconds) }
    }
}
