//! The one place of the data path that reads clocks: once per batch.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use trunkline_wire::Now;

/// Both clocks, the monotonic one counted from the process's start.
#[derive(Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// What time it is.
    pub fn now(self) -> Now {
        let monotonic_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Now { monotonic_ns, unix_s }
    }
}
