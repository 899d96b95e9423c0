//! What every store must do, run against each of them; and what only one of them can be asked.

mod cluster;
mod embedded;
mod etcd;
mod harness;
mod lost_answers;
mod proxy;
mod suite;
mod tls;
