//! `usage`: who relayed how much.

use clap::{Args, ValueEnum};
use trunkline_proto::node::v1::UsageEntry;
use trunkline_proto::operator::v1::query_usage_request::GroupBy;
use trunkline_proto::operator::v1::{QueryUsageRequest, QueryUsageResponse};

use crate::fault::Fault;
use crate::output::{self, Columns, Output, bytes};
use crate::session::Session;
use crate::time;

/// Which usage to show.
#[derive(Debug, Args)]
pub struct Usage {
    /// From when, rounded down to the hour: 24h, 2026-11-22, 2026-11-22T21:00 (UTC) [default: 24 hours ago].
    #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
    from: Option<u64>,
    /// Up to when, rounded down to the hour and not included [default: now].
    #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
    to: Option<u64>,
    /// Of this key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Of this user.
    #[arg(long)]
    user: Option<String>,
    /// Sums of each key, user or hour [default: a line for each key, user and hour].
    #[arg(long, value_name = "WHAT")]
    by: Option<By>,
    /// As comma-separated values, with a line of names.
    #[arg(long)]
    csv: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Key,
    User,
    Hour,
}

/// Runs `usage`.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn run(session: &mut Session, output: Output, usage: Usage) -> Result<(), Fault> {
    let group_by = match usage.by {
        None => GroupBy::Unspecified,
        Some(By::Key) => GroupBy::Key,
        Some(By::User) => GroupBy::User,
        Some(By::Hour) => GroupBy::Hour,
    };
    let request = QueryUsageRequest {
        from_unix_s: usage.from.unwrap_or_default(),
        to_unix_s: usage.to.unwrap_or_default(),
        key_id: usage.key.unwrap_or_default(),
        user: usage.user.unwrap_or_default(),
        group_by: group_by.into(),
    };
    let answer = session.ask(request, async |client, request| client.query_usage(request).await).await?;
    if usage.csv {
        return output::print(&csv(&answer));
    }
    output.message(&answer, text)
}

fn text(answer: &QueryUsageResponse) -> String {
    let mut columns = Columns::new(&[
        "HOUR (UTC)",
        "KEY",
        "USER",
        ">TO PEER",
        ">TO CLIENT",
        ">PACKETS TO PEER",
        ">PACKETS TO CLIENT",
        ">ALLOCATIONS",
    ]);
    for entry in &answer.entries {
        let hour = time::moment(entry.hour_unix_s);
        columns.row([
            hour.get(..16).unwrap_or(&hour).to_owned(),
            entry.key_id.clone(),
            entry.user.clone(),
            bytes(entry.bytes_to_peer),
            bytes(entry.bytes_to_client),
            entry.packets_to_peer.to_string(),
            entry.packets_to_client.to_string(),
            entry.allocations.to_string(),
        ]);
    }
    columns.or_none("Nothing was relayed.")
}

/// RFC 4180, with the names of the .proto file.
fn csv(answer: &QueryUsageResponse) -> String {
    let mut text = String::from(
        "hour_unix_s,key_id,user,bytes_to_peer,bytes_to_client,packets_to_peer,packets_to_client,allocations\r\n",
    );
    for entry in &answer.entries {
        text.push_str(&record(entry));
    }
    text
}

fn record(entry: &UsageEntry) -> String {
    format!(
        "{},{},{},{},{},{},{},{}\r\n",
        entry.hour_unix_s,
        field(&entry.key_id),
        field(&entry.user),
        entry.bytes_to_peer,
        entry.bytes_to_client,
        entry.packets_to_peer,
        entry.packets_to_client,
        entry.allocations
    )
}

/// Quoted where it must be. A user chose the name: a spreadsheet must not take it for a formula.
fn field(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let guarded = if is_formula { format!("'{text}") } else { text.to_owned() };
    if guarded.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", guarded.replace('"', "\"\""))
    } else {
        guarded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_they_must_be() {
        let entry = UsageEntry {
            key_id: "ab12".into(),
            user: "a,\"b\"\nc".into(),
            hour_unix_s: 3_600,
            bytes_to_peer: 1,
            ..UsageEntry::default()
        };
        let text = csv(&QueryUsageResponse { entries: vec![entry] });
        let mut lines = text.split("\r\n");
        assert_eq!(lines.next().map(|line| line.matches(',').count()), Some(7));
        assert_eq!(lines.next(), Some("3600,ab12,\"a,\"\"b\"\"\nc\",1,0,0,0,0"));
    }

    #[test]
    fn a_users_name_is_no_formula() {
        assert_eq!(field("=HYPERLINK(1,2)"), "\"'=HYPERLINK(1,2)\"");
        assert_eq!(field("alice"), "alice");
    }

    #[test]
    fn hours_are_shown_without_seconds() {
        let entry = UsageEntry { hour_unix_s: 1_000_000_800, user: "alice".into(), ..UsageEntry::default() };
        let text = text(&QueryUsageResponse { entries: vec![entry] });
        assert!(text.contains("2001-09-09 02:00 "), "{text}");
    }
}
