//! Settings as a TOML document: the fields of `trunkline.fleet.v1.Settings` with `-` for `_`. What the numbers may be,
//! the control plane says; here are only the names and types of fields.

use serde::{Deserialize, Serialize};
use trunkline_proto::fleet::v1::{Policy, Settings};

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Document {
    user_quota: u32,
    address_quota: u32,
    key_quota: u32,
    max_bandwidth_bytes_per_s: u64,
    max_packets_per_s: u64,
    max_lifetime_s: u32,
    policy: PolicyDocument,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct PolicyDocument {
    peer_allow: Vec<String>,
    peer_deny: Vec<String>,
    client_allow: Vec<String>,
    client_deny: Vec<String>,
    client_allow_asn: Vec<u32>,
    client_deny_asn: Vec<u32>,
}

/// Reads a document; fields that are not there have their defaults.
///
/// # Errors
/// The first fault with its line and column.
pub fn parse(text: &str) -> Result<Settings, String> {
    let document: Document = toml::from_str(text).map_err(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        let message = error.message().split('\n').collect::<Vec<_>>().join(", ");
        match field(text, line) {
            Some(field) if !message.contains(&field) => {
                format!("line {line}, column {column}: {field}: {message}")
            }
            _ => format!("line {line}, column {column}: {message}"),
        }
    })?;
    let policy = document.policy;
    Ok(Settings {
        user_quota: document.user_quota,
        address_quota: document.address_quota,
        key_quota: document.key_quota,
        max_bandwidth_bytes_per_s: document.max_bandwidth_bytes_per_s,
        max_packets_per_s: document.max_packets_per_s,
        max_lifetime_s: document.max_lifetime_s,
        policy: Some(Policy {
            peer_allow: policy.peer_allow,
            peer_deny: policy.peer_deny,
            client_allow: policy.client_allow,
            client_deny: policy.client_deny,
            client_allow_asn: policy.client_allow_asn,
            client_deny_asn: policy.client_deny_asn,
        }),
    })
}

/// Writes a document with every field.
///
/// # Errors
/// Where the TOML writer refuses, which a test excludes.
pub fn text(settings: &Settings, version: u64) -> Result<String, String> {
    let policy = settings.policy.clone().unwrap_or_default();
    let document = Document {
        user_quota: settings.user_quota,
        address_quota: settings.address_quota,
        key_quota: settings.key_quota,
        max_bandwidth_bytes_per_s: settings.max_bandwidth_bytes_per_s,
        max_packets_per_s: settings.max_packets_per_s,
        max_lifetime_s: settings.max_lifetime_s,
        policy: PolicyDocument {
            peer_allow: policy.peer_allow,
            peer_deny: policy.peer_deny,
            client_allow: policy.client_allow,
            client_deny: policy.client_deny,
            client_allow_asn: policy.client_allow_asn,
            client_deny_asn: policy.client_deny_asn,
        },
    };
    let document = toml::to_string_pretty(&document).map_err(|error| error.to_string())?;
    Ok(format!("# Settings of the fleet, version {version}. 0 is no limit, or the default.\n{document}"))
}

/// The field whose value stands on this line, or begins above it: the reader of TOML does not say.
fn field(text: &str, line: usize) -> Option<String> {
    let mut above = text.lines().take(line).collect::<Vec<_>>().into_iter().rev();
    let key = above.by_ref().find_map(|line| {
        let (key, _) = line.split_once('=')?;
        Some(key.trim()).filter(|key| !key.is_empty() && !key.contains(['"', '[', '#']))
    })?;
    let table = above.find_map(|line| line.trim().strip_prefix('[')?.strip_suffix(']'));
    Some(table.map_or_else(|| key.to_owned(), |table| format!("{table}.{key}")))
}

/// Line and column of a byte, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let settings = Settings {
            user_quota: 1,
            address_quota: 2,
            key_quota: 3,
            max_bandwidth_bytes_per_s: 4,
            max_packets_per_s: 5,
            max_lifetime_s: 600,
            policy: Some(Policy {
                peer_allow: vec!["10.0.0.0/8".into()],
                peer_deny: vec!["10.1.0.0/16".into()],
                client_allow: vec!["2001:db8::/32".into()],
                client_deny: vec!["192.0.2.0/24".into()],
                client_allow_asn: vec![64_496],
                client_deny_asn: vec![64_497, 64_498],
            }),
        };
        let text = text(&settings, 7).expect("a document");
        assert!(text.contains("version 7"), "{text}");
        assert_eq!(parse(&text), Ok(settings));
    }

    #[test]
    fn every_field_of_the_settings_is_in_the_document() {
        let text = text(&Settings::default(), 1).expect("a document");
        let pool = prost_reflect::DescriptorPool::decode(trunkline_proto::DESCRIPTORS).expect("descriptors");
        for message in ["Settings", "Policy"] {
            let message =
                pool.get_message_by_name(&format!("trunkline.fleet.v1.{message}")).expect("a message");
            for field in message.fields() {
                assert!(text.contains(&field.name().replace('_', "-")), "{} is not in\n{text}", field.name());
            }
        }
    }

    #[test]
    fn an_empty_document_is_the_defaults() {
        assert_eq!(parse(""), Ok(Settings { policy: Some(Policy::default()), ..Settings::default() }));
    }

    #[test]
    fn faults_name_the_field_and_the_place() {
        let cases = [
            ("user-quota = 1\nusr-quota = 2\n", "line 2, column 1", "usr-quota"),
            ("[policy]\nclient-allow = []\npeer_deny = []\n", "line 3, column 1", "peer_deny"),
            ("key-quota = -1", "line 1, column 13: key-quota", "-1"),
            ("\nkey-quota = \"1\"", "line 2, column 13", "string"),
            ("key-quota = ", "line 1, column 13", ""),
            (
                "[policy]\nclient-deny-asn = [4294967296]",
                "line 2, column 20: policy.client-deny-asn",
                "4294967296",
            ),
            ("[policy]\npeer-deny = [\n  \"10.0.0.0/8\",\n  7\n]", "line 4, column 3: policy.peer-deny", "7"),
        ];
        for (text, place, names) in cases {
            let fault = parse(text).expect_err(text);
            assert!(fault.starts_with(place), "{text:?}: {fault}");
            assert!(fault.contains(names), "{text:?}: {fault}");
            assert!(!fault.contains('\n'), "{fault}");
        }
    }
}
