//! `policy`: whom the edge serves and whom it reaches. Each change is a change of the settings.

use clap::{Args, Subcommand};
use trunkline_proto::fleet::v1::{Policy, Settings};
use trunkline_proto::operator::v1::GetSettingsResponse;

use crate::commands::config::{self, Stages};
use crate::fault::Fault;
use crate::output::{Columns, Output};
use crate::session::Session;

/// Policies; without a subcommand they are shown.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: Option<PolicyCommand>,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Shows the lists.
    Show,
    /// Peers that may be reached although they are denied by default: private ranges, for example.
    #[command(after_help = "Example:\n  trunklinectl policy allow-peer add 10.20.0.0/16")]
    AllowPeer(Ranges),
    /// Peers that may not be reached; wins over allow-peer.
    DenyPeer(Ranges),
    /// Where this list or allow-asn is not empty, only its clients are served.
    AllowClient(Ranges),
    /// Clients that are not served; wins over allow-client.
    DenyClient(Ranges),
    /// Autonomous systems whose clients are served, looked up in each server's --asn-database.
    AllowAsn(Numbers),
    /// Autonomous systems whose clients are not served.
    DenyAsn(Numbers),
}

#[derive(Debug, Args)]
struct Ranges {
    /// What to do with the list.
    #[arg(value_enum)]
    action: Action,
    /// Networks: 192.0.2.0/24, 2001:db8::/32.
    #[arg(value_name = "CIDR", required = true)]
    ranges: Vec<String>,
    #[command(flatten)]
    stages: Stages,
}

#[derive(Debug, Args)]
struct Numbers {
    /// What to do with the list.
    #[arg(value_enum)]
    action: Action,
    /// Numbers of autonomous systems: 64496 or AS64496.
    #[arg(value_name = "ASN", required = true, value_parser = parse_asn)]
    numbers: Vec<u32>,
    #[command(flatten)]
    stages: Stages,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Action {
    /// Into the list.
    Add,
    /// Out of the list.
    Remove,
}

/// Runs `policy`.
///
/// # Errors
/// What the control plane refused, or that it does not answer; or that the roll-out stopped.
pub async fn run(session: &mut Session, output: Output, policy: PolicyArgs) -> Result<(), Fault> {
    match policy.command.unwrap_or(PolicyCommand::Show) {
        PolicyCommand::Show => output.message(&config::ask(session).await?, text),
        PolicyCommand::AllowPeer(what) => {
            ranges(session, output, what, |policy| &mut policy.peer_allow).await
        }
        PolicyCommand::DenyPeer(what) => ranges(session, output, what, |policy| &mut policy.peer_deny).await,
        PolicyCommand::AllowClient(what) => {
            ranges(session, output, what, |policy| &mut policy.client_allow).await
        }
        PolicyCommand::DenyClient(what) => {
            ranges(session, output, what, |policy| &mut policy.client_deny).await
        }
        PolicyCommand::AllowAsn(what) => {
            numbers(session, output, what, |policy| &mut policy.client_allow_asn).await
        }
        PolicyCommand::DenyAsn(what) => {
            numbers(session, output, what, |policy| &mut policy.client_deny_asn).await
        }
    }
}

async fn ranges(
    session: &mut Session,
    output: Output,
    what: Ranges,
    list: fn(&mut Policy) -> &mut Vec<String>,
) -> Result<(), Fault> {
    config::edit(session, output, &what.stages, |settings| edited(settings, list, what.action, &what.ranges))
        .await
}

async fn numbers(
    session: &mut Session,
    output: Output,
    what: Numbers,
    list: fn(&mut Policy) -> &mut Vec<u32>,
) -> Result<(), Fault> {
    config::edit(session, output, &what.stages, |settings| edited(settings, list, what.action, &what.numbers))
        .await
}

/// The settings with these entries in the list, or without them; `None` where that is so already.
fn edited<T: PartialEq + Clone>(
    mut settings: Settings,
    list: fn(&mut Policy) -> &mut Vec<T>,
    action: Action,
    entries: &[T],
) -> Option<Settings> {
    let list = list(settings.policy.get_or_insert_default());
    let before = list.clone();
    match action {
        Action::Add => {
            for entry in entries {
                if !list.contains(entry) {
                    list.push(entry.clone());
                }
            }
        }
        Action::Remove => list.retain(|entry| !entries.contains(entry)),
    }
    let is_different = *list != before;
    is_different.then_some(settings)
}

fn parse_asn(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("AS").or_else(|| text.strip_prefix("as")).unwrap_or(text);
    digits.parse().map_err(|_| "write 64496 or AS64496".into())
}

fn text(answer: &GetSettingsResponse) -> String {
    let settings = answer.settings.clone().unwrap_or_default();
    let policy = settings.policy.unwrap_or_default();
    let asns = |numbers: &[u32]| numbers.iter().map(|number| format!("AS{number}")).collect::<Vec<_>>();
    let lists = [
        ("allow-peer", policy.peer_allow.clone(), "the default: public addresses"),
        ("deny-peer", policy.peer_deny.clone(), "nobody more"),
        ("allow-client", policy.client_allow.clone(), "everybody"),
        ("deny-client", policy.client_deny.clone(), "nobody"),
        ("allow-asn", asns(&policy.client_allow_asn), "everybody"),
        ("deny-asn", asns(&policy.client_deny_asn), "nobody"),
    ];
    let serves_all = policy.client_allow.is_empty() && policy.client_allow_asn.is_empty();
    let mut columns = Columns::new(&["LIST", "ENTRIES"]);
    for (name, entries, empty) in lists {
        let empty =
            if name.starts_with("allow-") && name != "allow-peer" && !serves_all { "-" } else { empty };
        let shown = if entries.is_empty() { format!("({empty})") } else { entries.join(" ") };
        columns.row([name.to_owned(), shown]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_added_once_and_removed() {
        let list: fn(&mut Policy) -> &mut Vec<u32> = |policy| &mut policy.client_deny_asn;
        let added = edited(Settings::default(), list, Action::Add, &[1, 2, 1]).expect("a change");
        assert_eq!(added.policy.clone().unwrap_or_default().client_deny_asn, [1, 2]);
        assert_eq!(edited(added.clone(), list, Action::Add, &[2]), None);
        assert_eq!(edited(added.clone(), list, Action::Remove, &[3]), None);
        let removed = edited(added, list, Action::Remove, &[1, 3]).expect("a change");
        assert_eq!(removed.policy.unwrap_or_default().client_deny_asn, [2]);
    }

    #[test]
    fn numbers_of_autonomous_systems_may_say_so() {
        assert_eq!(parse_asn("AS64496"), Ok(64_496));
        assert_eq!(parse_asn("64496"), Ok(64_496));
        assert!(parse_asn("ASN1").is_err());
        assert!(parse_asn("4294967296").is_err());
    }

    #[test]
    fn an_empty_list_says_what_that_means() {
        let everybody = text(&GetSettingsResponse::default());
        assert!(everybody.contains("allow-client  (everybody)"), "{everybody}");
        let policy = Policy { client_allow_asn: vec![64_496], ..Policy::default() };
        let settings = Some(Settings { policy: Some(policy), ..Settings::default() });
        let some = text(&GetSettingsResponse { settings, version: 1 });
        assert!(some.contains("allow-client  (-)"), "{some}");
        assert!(some.contains("allow-asn     AS64496"), "{some}");
    }
}
