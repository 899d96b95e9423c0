//! Compiles the program for the kernel. Debian's clang does it; another one is named by `$CLANG`.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=c");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("steer.bpf.o");
    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror", "-c", "c/steer.bpf.c"]);
    // Where Debian keeps `asm/types.h`, which another target's search path leaves out.
    if let Ok(machine) = std::env::var("CARGO_CFG_TARGET_ARCH") {
        command.arg(format!("-I/usr/include/{machine}-linux-gnu"));
    }
    match command.arg("-o").arg(&out).status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{clang} cannot compile the flow steerer ({status}); it needs libbpf-dev and linux-libc-dev"
        ),
        Err(error) => {
            panic!("{clang} cannot be run ({error}): `apt-get install clang libbpf-dev`, or set $CLANG")
        }
    }
}
