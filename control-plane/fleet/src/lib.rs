//! Pure planning: what the fleet is to be next, from what it is and what was seen of it.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod keys;
pub mod liveness;
pub mod rollout;
pub mod slices;
pub mod table;
pub mod upgrade;

/// Of a store that was never restored.
pub const FIRST_GENERATION: u64 = 1;

/// The version of a configuration, ordered by generation, then counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Rises when the store was restored from an older state.
    pub generation: u64,
    /// Rises with each change.
    pub counter: u64,
}

/// What a server can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Added, and has not joined yet.
    Expected,
    /// Reports.
    Live,
    /// Reports, and is to get nothing new.
    Draining,
    /// Does not report. It may serve all the same, cut off from the control plane.
    Dead,
    /// Does not report, like most of its site: the cause is likely shared. It keeps what it has and gets nothing.
    Silent,
}
