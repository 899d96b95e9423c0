//! What of an older descriptor set a newer one breaks, on the wire or in a program.

use std::collections::BTreeMap;

use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
};

/// One line for each break.
pub fn breaks(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (Index::of(old), Index::of(new));
    let mut found = Vec::new();
    each(&old.messages, &new.messages, &mut found, message_breaks);
    each(&old.enums, &new.enums, &mut found, enum_breaks);
    each(&old.methods, &new.methods, &mut found, method_breaks);
    found
}

/// Everything by its full name; our packages alone.
#[derive(Default)]
struct Index<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    methods: BTreeMap<String, &'a MethodDescriptorProto>,
}

impl<'a> Index<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut index = Self::default();
        for file in set.file.iter().filter(|file| file.package().starts_with("trunkline.")) {
            let package = file.package();
            file.message_type.iter().for_each(|message| index.message(package, message));
            file.enum_type.iter().for_each(|one| index.enumeration(package, one));
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{package}.{}.{}", service.name(), method.name());
                    index.methods.insert(name, method);
                }
            }
        }
        index
    }

    fn message(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.message(&name, nested));
        message.enum_type.iter().for_each(|nested| self.enumeration(&name, nested));
        self.messages.insert(name, message);
    }

    fn enumeration(&mut self, scope: &str, one: &'a EnumDescriptorProto) {
        self.enums.insert(format!("{scope}.{}", one.name()), one);
    }
}

fn each<T>(
    old: &BTreeMap<String, &T>,
    new: &BTreeMap<String, &T>,
    found: &mut Vec<String>,
    compare: fn(&T, &T) -> Vec<String>,
) {
    for (name, old) in old {
        match new.get(name) {
            None => found.push(format!("{name} was removed")),
            Some(new) => found.extend(compare(old, new).into_iter().map(|line| format!("{name}: {line}"))),
        }
    }
}

fn message_breaks(old: &DescriptorProto, new: &DescriptorProto) -> Vec<String> {
    let mut found = Vec::new();
    let is_reserved = |message: &DescriptorProto, number: i32| {
        message.reserved_range.iter().any(|range| (range.start()..range.end()).contains(&number))
    };
    for field in &old.field {
        let (name, number) = (field.name(), field.number());
        match new.field.iter().find(|other| other.number() == number) {
            Some(other) => found.extend(field_breaks((old, field), (new, other))),
            None if is_reserved(new, number) && new.reserved_name.iter().any(|reserved| reserved == name) => {
            }
            None => {
                found.push(format!("{name} = {number} was removed, and number and name are not reserved"))
            }
        }
    }
    for range in &old.reserved_range {
        for number in (range.start()..range.end()).filter(|number| !is_reserved(new, *number)).take(1) {
            found.push(format!("number {number} is not reserved any more"));
        }
    }
    found.extend(names_freed(&old.reserved_name, &new.reserved_name));
    found
}

type FieldOf<'a> = (&'a DescriptorProto, &'a FieldDescriptorProto);

fn field_breaks((old_message, old): FieldOf<'_>, (new_message, new): FieldOf<'_>) -> Vec<String> {
    let oneof = |message: &DescriptorProto, field: &FieldDescriptorProto| {
        let index = usize::try_from(field.oneof_index?).ok()?;
        Some(message.oneof_decl.get(index).map_or("?", |oneof| oneof.name()).to_owned())
    };
    let mut found = Vec::new();
    let mut differs = |what: &str, is_different: bool| {
        if is_different {
            found.push(format!("{} = {} has another {what}", old.name(), old.number()));
        }
    };
    differs("name", old.name() != new.name());
    differs("type", (old.r#type(), old.type_name()) != (new.r#type(), new.type_name()));
    differs("label", old.label() != new.label());
    differs("optional", old.proto3_optional() != new.proto3_optional());
    differs("oneof", oneof(old_message, old) != oneof(new_message, new));
    differs("name in JSON", old.json_name() != new.json_name());
    found
}

fn enum_breaks(old: &EnumDescriptorProto, new: &EnumDescriptorProto) -> Vec<String> {
    let is_reserved = |one: &EnumDescriptorProto, number: i32| {
        // In an enum both ends are included.
        one.reserved_range.iter().any(|range| (range.start()..=range.end()).contains(&number))
    };
    let has = |value: &EnumValueDescriptorProto| {
        new.value.iter().any(|other| other.number() == value.number() && other.name() == value.name())
    };
    let mut found = Vec::new();
    for value in old.value.iter().filter(|value| !has(value)) {
        let (name, number) = (value.name(), value.number());
        let is_taken = new.value.iter().any(|other| other.number() == number);
        let is_named = new.reserved_name.iter().any(|reserved| reserved == name);
        if is_taken {
            found.push(format!("{name} = {number} has another name"));
        } else if !(is_reserved(new, number) && is_named) {
            found.push(format!("{name} = {number} was removed, and number and name are not reserved"));
        }
    }
    for range in &old.reserved_range {
        for number in (range.start()..=range.end()).filter(|number| !is_reserved(new, *number)).take(1) {
            found.push(format!("number {number} is not reserved any more"));
        }
    }
    found.extend(names_freed(&old.reserved_name, &new.reserved_name));
    found
}

fn method_breaks(old: &MethodDescriptorProto, new: &MethodDescriptorProto) -> Vec<String> {
    let mut found = Vec::new();
    let mut differs = |what: &str, is_different: bool| {
        if is_different {
            found.push(format!("another {what}"));
        }
    };
    differs("request", old.input_type() != new.input_type());
    differs("response", old.output_type() != new.output_type());
    differs("stream of requests", old.client_streaming() != new.client_streaming());
    differs("stream of responses", old.server_streaming() != new.server_streaming());
    found
}

fn names_freed<'a>(old: &'a [String], new: &'a [String]) -> impl Iterator<Item = String> + 'a {
    old.iter()
        .filter(|name| !new.contains(name))
        .map(|name| format!("the name {name} is not reserved any more"))
}
