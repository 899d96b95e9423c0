//! Compiles the `.proto` files beside it, without a `protoc` on the machine.

use std::error::Error;

const FILES: &[&str] = &["trunkline/store/v1/store.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    // Records hold secrets: without `Debug` they cannot reach a log.
    prost_build::Config::new().skip_debug(["."]).compile_fds(descriptors)?;
    Ok(())
}
