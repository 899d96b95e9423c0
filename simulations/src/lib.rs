//! The lab of Trunkline: everything that runs the real server from outside.
//!
//! Nothing here is linked into the product. Tests in `tests/` and binaries in `src/bin/` build small
//! networks out of kernel namespaces, start servers and clients in them, and look at what comes out. They
//! need root (or `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`) and `iproute2`; [`netns::require_root`] says so in
//! words.

pub mod bench;
pub mod cluster;
pub mod lab;
pub mod mmdb;
pub mod netns;
pub mod process;
pub mod server;
pub mod tidy;
pub mod trial;
pub mod turn_client;
