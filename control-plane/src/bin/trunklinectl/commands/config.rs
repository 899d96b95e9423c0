//! `config`: the settings that are the same on every server, and their roll-out.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use tonic::Code;
use trunkline_proto::fleet::v1::Settings;
use trunkline_proto::operator::v1::rollout::State;
use trunkline_proto::operator::v1::{
    ApplySettingsRequest, ApplySettingsResponse, GetSettingsRequest, GetSettingsResponse, Rollout,
};

use crate::commands::drain::with;
use crate::commands::status;
use crate::fault::Fault;
use crate::output::{self, Columns, Output};
use crate::session::Session;
use crate::waiting::{LOOK, Progress, until_interrupted};
use crate::{json, settings_file};

/// Settings of the fleet.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Config {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Shows the settings as the TOML document that `apply` reads.
    Show,
    /// Checks settings, shows what would change, and rolls them out in stages: one server, a tenth, a site, all.
    ///
    /// The roll-out stops by itself when a server refuses them or becomes unhealthy. Ends with exit code 3 then.
    #[command(after_help = "\
Examples:
  trunklinectl config show > settings.toml
  trunklinectl config apply settings.toml --dry-run
  trunklinectl config apply settings.toml --reason \"more bandwidth for everybody\"
Fields that are not in the file get their defaults; a field that does not exist is refused.")]
    Apply(Apply),
}

#[derive(Debug, Args)]
struct Apply {
    /// The TOML document; - is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check, show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    stages: Stages,
    /// Refuse when the settings have another version by now: the one that the file was made from.
    #[arg(long, value_name = "VERSION", default_value_t = 0, hide_default_value = true)]
    expected_version: u64,
}

/// How settings are rolled out.
#[derive(Debug, Args)]
pub struct Stages {
    /// Everywhere at once instead of in stages.
    #[arg(long)]
    at_once: bool,
    /// Return at once instead of waiting until the roll-out is done.
    #[arg(long)]
    no_wait: bool,
}

/// Runs `config`.
///
/// # Errors
/// What the control plane refused, or that it does not answer; or that the roll-out stopped.
pub async fn run(session: &mut Session, output: Output, config: Config) -> Result<(), Fault> {
    match config.command {
        ConfigCommand::Show => {
            let answer = ask(session).await?;
            let settings = answer.settings.clone().unwrap_or_default();
            let text = settings_file::text(&settings, answer.version).map_err(Fault::Local)?;
            output.message(&answer, |_| text)
        }
        ConfigCommand::Apply(apply) => {
            let settings = read(&apply.file)?;
            let request = ApplySettingsRequest {
                mutation: session.mutation()?,
                settings: Some(settings),
                expected_version: apply.expected_version,
                dry_run: apply.dry_run,
                without_stages: apply.stages.at_once,
            };
            let answer =
                session.ask(request, async |client, request| client.apply_settings(request).await).await?;
            if apply.dry_run {
                return output
                    .message(&answer, |answer| changes(answer) + "Nothing was changed: --dry-run.\n");
            }
            follow(session, output, &answer, &apply.stages).await
        }
    }
}

/// The settings and their version.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn ask(session: &mut Session) -> Result<GetSettingsResponse, Fault> {
    session.ask(GetSettingsRequest {}, async |client, request| client.get_settings(request).await).await
}

/// Reads the settings, changes them, and applies them; again from the start when somebody else was faster. `None` of
/// `change` is that nothing is to be done.
///
/// # Errors
/// What the control plane refused, or that it does not answer; or that the roll-out stopped.
pub async fn edit(
    session: &mut Session,
    output: Output,
    stages: &Stages,
    change: impl Fn(Settings) -> Option<Settings>,
) -> Result<(), Fault> {
    let mut left = EDITS_MAX;
    loop {
        let before = ask(session).await?;
        let Some(settings) = change(before.settings.clone().unwrap_or_default()) else {
            return output.either(
                || serde_json::json!({"version": before.version, "changes": [], "rollout": null}),
                || "That is how it is already.\n".into(),
            );
        };
        let request = ApplySettingsRequest {
            mutation: session.mutation()?,
            settings: Some(settings),
            expected_version: before.version,
            dry_run: false,
            without_stages: stages.at_once,
        };
        let answer =
            session.ask_status(request, async |client, request| client.apply_settings(request).await).await?;
        match answer {
            Ok(answer) => return follow(session, output, &answer, stages).await,
            // Another version, perhaps: whoever gave the key said that the request is always the same.
            Err(status)
                if status.code() == Code::FailedPrecondition && left > 0 && !session.has_given_key() =>
            {
                left -= 1;
            }
            Err(status) => return Err(Fault::refused(&status)),
        }
    }
}

/// How often an edit begins anew.
const EDITS_MAX: u32 = 4;

/// Shows what changes, then how far the roll-out is until it is done or stopped.
async fn follow(
    session: &mut Session,
    output: Output,
    answer: &ApplySettingsResponse,
    stages: &Stages,
) -> Result<(), Fault> {
    if output == Output::Table {
        output::print(&changes(answer))?;
    }
    let version = answer.version;
    if stages.no_wait || answer.changes.is_empty() {
        let document = json::of(answer)?;
        let text = if stages.no_wait && !answer.changes.is_empty() {
            format!("Version {version} is being rolled out: look with `trunklinectl status`.\n")
        } else {
            String::new()
        };
        return output.either(|| with(document, "rollout", serde_json::Value::Null), || text);
    }
    let goes_on = format!("the roll-out of version {version} goes on; look with `trunklinectl status`");
    let rollout = until_interrupted(wait(session, output, version), &goes_on).await?;
    let shown = json::of(&rollout)?;
    let document = json::of(answer)?;
    output.either(|| with(document, "rollout", shown), || status::rollout(Some(&rollout)) + "\n")?;
    match rollout.state() {
        _ if rollout.to_version != version => Err(Fault::Incomplete(format!(
            "version {} took the place of version {version} before that was everywhere",
            rollout.to_version
        ))),
        State::Stopped => Err(Fault::Incomplete(format!(
            "the roll-out stopped: {}; the other servers keep version {}. Mend the settings and apply them again",
            output::clean(&rollout.reason),
            rollout.from_version
        ))),
        State::Unspecified | State::Running | State::Done => Ok(()),
    }
}

async fn wait(session: &mut Session, output: Output, version: u64) -> Result<Rollout, Fault> {
    let mut progress = Progress::new(output);
    loop {
        let rollout = status::ask(session).await?.rollout.unwrap_or_default();
        // A replica that is a moment behind still speaks of the one before.
        if rollout.to_version >= version {
            if rollout.to_version > version || rollout.state() != State::Running {
                progress.end();
                return Ok(rollout);
            }
            progress.show(format!("{} of {} servers have it", rollout.nodes_done, rollout.nodes_total));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn changes(answer: &ApplySettingsResponse) -> String {
    if answer.changes.is_empty() {
        return format!("No field is different from version {}.\n", answer.version);
    }
    let mut columns = Columns::new(&["FIELD", "BEFORE", "AFTER"]);
    for change in &answer.changes {
        let or_nothing = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        columns.row([change.field.clone(), or_nothing(&change.before), or_nothing(&change.after)]);
    }
    let mut text = columns.text();
    // Writing to a String cannot fail.
    let _ = writeln!(text);
    text
}

fn read(file: &std::path::Path) -> Result<Settings, Fault> {
    let (name, text) = if file.as_os_str() == "-" {
        ("standard input".to_owned(), std::io::read_to_string(std::io::stdin()))
    } else {
        (file.display().to_string(), std::fs::read_to_string(file))
    };
    let text = text.map_err(|error| Fault::Local(format!("{name}: cannot be read: {error}")))?;
    settings_file::parse(&text).map_err(|fault| Fault::Local(format!("{name}: {fault}")))
}

#[cfg(test)]
mod tests {
    use trunkline_proto::operator::v1::Change;

    use super::*;

    #[test]
    fn changes_are_shown_by_field() {
        let change =
            Change { field: "policy.peer_allow".into(), before: String::new(), after: "10.0.0.0/8".into() };
        let text = changes(&ApplySettingsResponse { version: 2, changes: vec![change] });
        assert_eq!(text, "FIELD              BEFORE  AFTER\npolicy.peer_allow  -       10.0.0.0/8\n\n");
    }

    #[test]
    fn a_file_with_a_fault_is_named_with_the_place() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "user-quota = 1\nno-such-field = 2\n").expect("a file");
        let fault = read(file.path()).expect_err("an unknown field").to_string();
        assert!(fault.contains(": line 2, column 1: unknown field `no-such-field`"), "{fault}");
    }
}
