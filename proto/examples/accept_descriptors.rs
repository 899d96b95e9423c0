//! Accepts the messages and services as they are now: what the compatibility test compares with from here on.
//!
//! `cargo run -p trunkline-proto --example accept_descriptors`, once for each release. What it accepts can never be
//! taken back from those who run that release.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("compatibility");
    std::fs::write(directory.join("descriptors.binpb"), trunkline_proto::DESCRIPTORS)?;
    std::fs::write(directory.join("version"), concat!(env!("CARGO_PKG_VERSION"), "\n"))
}
