//! Compiles the `.proto` files beside it, without a `protoc` on the machine, and the table of who may call what.

use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;

use prost_reflect::{DescriptorPool, Value};

const FILES: &[&str] = &[
    "trunkline/options/v1/options.proto",
    "trunkline/fleet/v1/fleet.proto",
    "trunkline/node/v1/node.proto",
    "trunkline/operator/v1/operator.proto",
    "trunkline/backbone/v1/backbone.proto",
    "trunkline/store/v1/store.proto",
];

/// Messages that hold secrets: without `Debug` they cannot reach a log. What contains them has none either.
const SECRET: &[&str] = &[
    ".trunkline.store.v1",
    ".trunkline.fleet.v1.TurnKey",
    ".trunkline.fleet.v1.FleetKey",
    ".trunkline.fleet.v1.FleetKeys",
    ".trunkline.fleet.v1.Configuration",
    ".trunkline.node.v1.JoinRequest",
    ".trunkline.node.v1.ControlMessage",
    ".trunkline.operator.v1.AddNodeResponse",
    ".trunkline.operator.v1.CreateKeyResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut config = tonic_prost_build::Config::new();
    config.skip_debug(SECRET);
    tonic_prost_build::configure().compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    let descriptors = compiler.encode_file_descriptor_set();
    std::fs::write(out.join("roles.rs"), roles(&descriptors)?)?;
    let without_comments = {
        let mut compiler = protox::Compiler::new(["."])?;
        compiler
            .include_imports(true)
            .include_source_info(false)
            .open_files(FILES)?
            .encode_file_descriptor_set()
    };
    std::fs::write(out.join("descriptors.binpb"), without_comments)?;
    Ok(())
}

/// `("/trunkline.node.v1.NodeService/Join", Role::Newcomer),` for each method.
fn roles(descriptors: &[u8]) -> Result<String, Box<dyn Error>> {
    let pool = DescriptorPool::decode(descriptors)?;
    let option = pool.get_extension_by_name("trunkline.options.v1.role").ok_or("no option `role`")?;
    let mut table = String::from("&[\n");
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let options = method.options();
        let role = match options.get_extension(&option).as_ref() {
            Value::EnumNumber(number) => *number,
            other => return Err(format!("{}: role is {other:?}", method.full_name()).into()),
        };
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        writeln!(table, "    (\"{path}\", {role}),")?;
    }
    table.push_str("]\n");
    Ok(table)
}
