//! Messages as JSON under the names of the `.proto` files: every field is there, numbers are numbers, enums are their
//! names. Bytes are hexadecimal.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value as Field};
use serde_json::{Map, Value};

use crate::fault::Fault;

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(trunkline_proto::DESCRIPTORS).map_err(|error| error.to_string()));

/// A message that has a name in the `.proto` files.
pub trait Named: Message {
    /// Its full name.
    const NAME: &'static str;
}

macro_rules! named {
    ($($package:ident: $($message:ident),+;)+) => { $($(
        impl Named for trunkline_proto::$package::v1::$message {
            const NAME: &'static str = concat!("trunkline.", stringify!($package), ".v1.", stringify!($message));
        }
    )+)+ };
}

named! {
    operator: AddNodeResponse, ApplySettingsResponse, CreateKeyResponse, Event, GetSettingsResponse,
        ListAllocationsResponse, ListKeysResponse, ListNodesResponse, ListSitesResponse, ListSlicesResponse,
        MutationResponse, QueryUsageResponse, Rollout, Status, Table;
}

/// The message as JSON.
///
/// # Errors
/// Where this program does not know the message, which a test excludes.
pub fn of<M: Named>(message: &M) -> Result<Value, Fault> {
    let pool = POOL.as_ref().map_err(|error| Fault::Local(error.clone()))?;
    let unknown = || Fault::Local(format!("no message {}", M::NAME));
    let descriptor = pool.get_message_by_name(M::NAME).ok_or_else(unknown)?;
    let message = DynamicMessage::decode(descriptor, &message.encode_to_vec()[..])
        .map_err(|error| Fault::Local(error.to_string()))?;
    Ok(object(&message))
}

fn object(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    let fields = descriptor.fields().filter_map(|field| {
        // A part of a oneof that is not the one, or an optional field without a value, is not there.
        let is_absent = field.supports_presence() && !message.has_field(&field);
        let is_message = matches!(field.kind(), Kind::Message(_));
        match (is_absent, is_message) {
            (true, true) => Some((field.name().to_owned(), Value::Null)),
            (true, false) => None,
            (false, _) => Some((field.name().to_owned(), value(&field, &message.get_field(&field)))),
        }
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

fn value(field: &FieldDescriptor, value: &Field) -> Value {
    match value {
        Field::Bool(flag) => (*flag).into(),
        Field::I32(number) => (*number).into(),
        Field::I64(number) => (*number).into(),
        Field::U32(number) => (*number).into(),
        Field::U64(number) => (*number).into(),
        Field::F32(number) => (*number).into(),
        Field::F64(number) => (*number).into(),
        Field::String(text) => text.clone().into(),
        Field::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        Field::EnumNumber(number) => enum_name(field, *number),
        Field::Message(message) => object(message),
        Field::List(values) => values.iter().map(|item| self::value(field, item)).collect(),
        // No message of ours has a map.
        Field::Map(_) => Value::Null,
    }
}

fn enum_name(field: &FieldDescriptor, number: i32) -> Value {
    let Kind::Enum(descriptor) = field.kind() else { return number.into() };
    descriptor.get_value(number).map_or_else(|| number.into(), |known| known.name().into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trunkline_proto::fleet::v1::{Epoch, NodeId};
    use trunkline_proto::operator::v1::{ListNodesResponse, MutationResponse, Node, Table};

    use super::*;

    #[test]
    fn fields_have_their_proto_names_and_zeros_are_there() {
        let node = Node {
            node: Some(NodeId { site: 1, server: 2 }),
            state: trunkline_proto::operator::v1::node::State::Draining.into(),
            weight: 1.5,
            reported_ms_ago: u64::MAX,
            ..Node::default()
        };
        let shown = of(&ListNodesResponse { nodes: vec![node] }).expect("a known message");
        let node = &shown["nodes"][0];
        assert_eq!(node["node"], json!({"site": 1, "server": 2}));
        assert_eq!(node["state"], "STATE_DRAINING");
        assert_eq!(node["weight"], 1.5);
        assert_eq!(node["reported_ms_ago"], u64::MAX);
        assert_eq!(node["slices"], 0);
        assert_eq!(node["host_addresses"], json!([]));
        assert_eq!(node["report"], Value::Null);
    }

    #[test]
    fn every_named_message_is_known() {
        let epoch = Some(Epoch { generation: 1, counter: 7 });
        let shown = of(&MutationResponse { epoch, summary: "done".into() }).expect("a known message");
        assert_eq!(shown, json!({"epoch": {"generation": 1, "counter": 7}, "summary": "done"}));
        assert!(of(&Table::default()).is_ok());
        let pool = POOL.as_ref().expect("descriptors");
        for name in
            ["Event", "Rollout", "Status", "QueryUsageResponse", "ListKeysResponse", "CreateKeyResponse"]
        {
            assert!(pool.get_message_by_name(&format!("trunkline.operator.v1.{name}")).is_some(), "{name}");
        }
    }
}
