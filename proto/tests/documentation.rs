//! Everything in the `.proto` files says what it is, in which unit; every method says who may call it.

use std::path::Path;

use prost_reflect::{DescriptorPool, Kind};
use protox::Compiler;

/// The files as they are, with their comments.
fn pool() -> DescriptorPool {
    let mut compiler = Compiler::new([env!("CARGO_MANIFEST_DIR")]).expect("a compiler");
    compiler.include_imports(true).include_source_info(true);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("trunkline");
    for package in std::fs::read_dir(&root).expect("packages").map(|entry| entry.expect("an entry").path()) {
        for file in std::fs::read_dir(package.join("v1")).expect("files") {
            compiler.open_file(file.expect("an entry").path()).expect("a file that compiles");
        }
    }
    DescriptorPool::decode(&compiler.encode_file_descriptor_set()[..]).expect("descriptors")
}

/// Full names of what has no comment in front of it, or behind it on its line.
fn undocumented(pool: &DescriptorPool) -> Vec<String> {
    let mut found = Vec::new();
    for file in pool.files().filter(|file| file.package_name().starts_with("trunkline.")) {
        let info = file.file_descriptor_proto().source_code_info.clone().unwrap_or_default();
        let commented: Vec<&[i32]> = info
            .location
            .iter()
            .filter(|location| {
                let text = [location.leading_comments(), location.trailing_comments()].concat();
                !text.trim().is_empty()
            })
            .map(|location| location.path.as_slice())
            .collect();
        let mut look = |path: &[i32], name: &str| {
            if !commented.contains(&path) {
                found.push(name.to_owned());
            }
        };
        for service in file.services() {
            for method in service.methods() {
                look(method.path(), method.full_name());
            }
        }
        for message in pool.all_messages().filter(|message| message.parent_file() == file) {
            look(message.path(), message.full_name());
            message.fields().for_each(|field| look(field.path(), field.full_name()));
        }
        for one in pool.all_enums().filter(|one| one.parent_file() == file) {
            look(one.path(), one.full_name());
            one.values().for_each(|value| look(value.path(), value.full_name()));
        }
    }
    found
}

#[test]
fn everything_says_what_it_is() {
    let found = undocumented(&pool());
    assert!(found.is_empty(), "{} without a comment:\n  {}", found.len(), found.join("\n  "));
}

#[test]
fn a_missing_comment_is_found() {
    let file = protox::file::File::from_source(
        "trunkline/x.proto",
        "syntax = \"proto3\"; package trunkline.x; // Not theirs.\n\nmessage A { uint32 b = 1; // Of b.\n }\n",
    )
    .expect("a file");
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_proto(file.file_descriptor_proto().clone()).expect("descriptors");
    assert_eq!(undocumented(&pool), ["trunkline.x.A"]);
}

#[test]
fn every_method_says_who_may_call_it() {
    let pool = pool();
    let role = pool.get_extension_by_name("trunkline.options.v1.role").expect("the option");
    assert!(matches!(role.kind(), Kind::Enum(_)));
    let mut methods = 0;
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let least = method.options().get_extension(&role).as_enum_number();
        assert!(least.is_some_and(|role| role > 0), "{} may be called by nobody", method.full_name());
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let listed = trunkline_proto::METHOD_ROLES.iter().find(|(listed, _)| *listed == path);
        assert_eq!(listed.map(|(_, role)| *role), least, "{path}");
        methods += 1;
    }
    assert_eq!(methods, trunkline_proto::METHOD_ROLES.len());
}

#[test]
fn the_files_on_disk_are_the_ones_that_are_compiled() {
    let compiled = DescriptorPool::decode(trunkline_proto::DESCRIPTORS).expect("descriptors");
    let names = |pool: &DescriptorPool| {
        let mut names: Vec<String> = pool.files().map(|file| file.name().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&pool()), names(&compiled));
}
