//! What was released stays readable: the messages and services of now against those of `compatibility/`, which are of
//! the version in `compatibility/version`. `cargo run -p trunkline-proto --example accept_descriptors` accepts new ones.

mod breaks;

use breaks::breaks;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto, descriptor_proto,
};

fn released() -> FileDescriptorSet {
    let bytes: &[u8] = include_bytes!("../../compatibility/descriptors.binpb");
    FileDescriptorSet::decode(bytes).expect("a descriptor set")
}

fn current() -> FileDescriptorSet {
    FileDescriptorSet::decode(trunkline_proto::DESCRIPTORS).expect("a descriptor set")
}

#[test]
fn nothing_that_was_released_has_changed() {
    let found = breaks(&released(), &current());
    assert!(found.is_empty(), "{} breaks:\n  {}", found.len(), found.join("\n  "));
}

#[test]
fn the_released_set_has_every_package() {
    let packages: Vec<String> = released().file.iter().map(|file| file.package().to_owned()).collect();
    for package in ["options", "fleet", "node", "operator", "backbone", "store"] {
        assert!(packages.contains(&format!("trunkline.{package}.v1")), "{package}");
    }
}

fn file<'a>(set: &'a mut FileDescriptorSet, package: &str) -> &'a mut FileDescriptorProto {
    set.file.iter_mut().find(|file| file.package() == package).expect("a file")
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    let file = file(set, "trunkline.fleet.v1");
    file.message_type.iter_mut().find(|message| message.name() == name).expect("a message")
}

fn epoch_counter(set: &mut FileDescriptorSet) -> &mut FieldDescriptorProto {
    message(set, "Epoch").field.iter_mut().find(|field| field.name() == "counter").expect("a field")
}

fn slice_state(set: &mut FileDescriptorSet) -> &mut EnumDescriptorProto {
    message(set, "Slice").enum_type.first_mut().expect("an enum")
}

fn node_service(set: &mut FileDescriptorSet) -> &mut ServiceDescriptorProto {
    file(set, "trunkline.node.v1").service.first_mut().expect("a service")
}

type Change = fn(&mut FileDescriptorSet);

/// What a careless change does, and a word of what is said about it.
const BREAKS: &[(&str, &str, Change)] = &[
    ("another number", "counter", |set| epoch_counter(set).number = Some(3)),
    ("another type", "type", |set| epoch_counter(set).set_type(Type::Int64)),
    ("another label", "label", |set| epoch_counter(set).set_label(Label::Repeated)),
    ("another name", "name", |set| epoch_counter(set).name = Some("count".to_owned())),
    ("presence", "optional", |set| epoch_counter(set).proto3_optional = Some(true)),
    ("into a oneof", "oneof", |set| epoch_counter(set).oneof_index = Some(0)),
    ("another message", "type", |set| {
        let field = &mut message(set, "Configuration").field[0];
        field.type_name = Some(".trunkline.fleet.v1.NodeId".to_owned());
    }),
    ("a field removed", "reserved", |set| message(set, "Epoch").field.truncate(1)),
    ("a message removed", "Epoch", |set| {
        file(set, "trunkline.fleet.v1").message_type.retain(|message| message.name() != "Epoch");
    }),
    ("an enum value removed", "reserved", |set| slice_state(set).value.truncate(2)),
    ("an enum value renumbered", "STATE_FREE", |set| slice_state(set).value[4].number = Some(9)),
    ("an enum removed", "State", |set| message(set, "Slice").enum_type.clear()),
    ("a method removed", "Join", |set| node_service(set).method.retain(|method| method.name() != "Join")),
    ("a method's request", "request", |set| {
        node_service(set).method[0].input_type = Some(".trunkline.node.v1.Hello".to_owned());
    }),
    ("a method's answer", "response", |set| {
        node_service(set).method[0].output_type = Some(".trunkline.node.v1.Hello".to_owned());
    }),
    ("a stream", "stream", |set| node_service(set).method[0].server_streaming = Some(true)),
    ("a service removed", "NodeService", |set| file(set, "trunkline.node.v1").service.clear()),
    ("a package removed", "trunkline.backbone.v1", |set| {
        set.file.retain(|file| file.package() != "trunkline.backbone.v1");
    }),
];

#[test]
fn each_kind_of_break_is_found() {
    for (what, word, change) in BREAKS {
        let mut changed = released();
        change(&mut changed);
        let found = breaks(&released(), &changed);
        assert!(found.iter().any(|line| line.contains(word)), "{what}: {found:?}");
    }
}

/// Removes `Epoch.counter` with the given reservations.
fn without_counter(number: bool, name: bool) -> FileDescriptorSet {
    let mut set = released();
    let epoch = message(&mut set, "Epoch");
    epoch.field.truncate(1);
    if number {
        epoch.reserved_range.push(descriptor_proto::ReservedRange { start: Some(2), end: Some(3) });
    }
    if name {
        epoch.reserved_name.push("counter".to_owned());
    }
    set
}

#[test]
fn a_field_goes_only_when_its_number_and_name_are_reserved_for_ever() {
    assert!(breaks(&released(), &without_counter(true, true)).is_empty());
    assert!(!breaks(&released(), &without_counter(true, false)).is_empty());
    assert!(!breaks(&released(), &without_counter(false, true)).is_empty());
    assert!(!breaks(&without_counter(true, true), &without_counter(false, true)).is_empty());
    assert!(!breaks(&without_counter(true, true), &without_counter(true, false)).is_empty());
}

#[test]
fn what_is_added_breaks_nothing() {
    let mut grown = released();
    let mut field = epoch_counter(&mut grown).clone();
    field.name = Some("reason".to_owned());
    field.number = Some(3);
    message(&mut grown, "Epoch").field.push(field);
    let mut method = node_service(&mut grown).method[0].clone();
    method.name = Some("Leave".to_owned());
    node_service(&mut grown).method.push(method);
    assert_eq!(breaks(&released(), &grown), Vec::<String>::new());
}
