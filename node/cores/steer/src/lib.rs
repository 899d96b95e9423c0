//! Steering tables and slices: who owns a flow, and who owns a relay port.

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

pub mod classify;
pub mod parse;
mod row;
mod steerer;
mod table;
mod verdict;
mod way;

pub use row::{Chain, NOBODY, Row};
pub use steerer::{Flows, Known, Role, Slices, Steerer, TcpState};
pub use table::{FiveTuple, ROWS_DEFAULT, ROWS_MAX, ROWS_MIN, SteeringTable, TableFault, fallback};
pub use verdict::{Reason, Verdict};
pub use way::Dead;
