//! Target: the TURN server under a sequence of operations with jumps of time, beside a small reference model.
//!
//! Several clients on several 5-tuples allocate, refresh, permit, bind, send, disconnect; peers answer; time passes;
//! sockets run out; credentials expire and are revoked; the server drains. After every operation the answer's code,
//! signature and values, what is relayed where, the reason counted for what is not, and what is left open must be
//! those of the [`model`]. In the end time alone must have freed everything.

mod delivery;
mod message;
mod model;
mod operation;
mod relaying;
mod requests;
mod scene;
mod sockets;
mod trial;

use crate::bytes::Bytes;
use operation::Operation;
use trial::Trial;

/// Longest run; a fuzzer's input of 2 KiB can hold more operations.
const OPERATIONS_MAX: usize = 200;

/// Whether there is an IPv6 relay address, then operations.
pub fn run(input: &[u8]) {
    let mut input = Bytes::new(input);
    let mut trial = Trial::new(!input.flag());
    for _ in 0..OPERATIONS_MAX {
        let Some(operation) = Operation::decode(&mut input) else { break };
        trial.apply(&operation);
    }
    trial.finish();
}
