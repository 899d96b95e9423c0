//! Replicas over one store: who leads, what servers are told, and what a leader that lost its term can still do.

#[allow(dead_code, reason = "the tests of the store use all of it")]
#[path = "../store/cluster.rs"]
mod cluster;
mod etcd_loss;
mod fleet;
mod leading;
mod planning;
