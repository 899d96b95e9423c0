//! `doctor`: looks for what is wrong or soon will be, and says what to do. It gathers; [`checks`] judges.

use std::time::Duration;

use serde_json::json;
use trunkline_proto::operator::v1::Status;

use crate::commands::{ca, nodes, slices, status};
use crate::connection::Replicas;
use crate::fault::Fault;
use crate::output::{self, Output, clean};
use crate::session::Session;
use crate::{time, words};

pub mod checks;
mod servers;

use checks::{Clock, Finding, Gathered, Level, ReplicaAnswer};

/// Runs `doctor`.
///
/// # Errors
/// What the control plane refused, or that it does not answer; or that there are problems.
pub async fn run(session: &mut Session, output: Output) -> Result<(), Fault> {
    let gathered = gather(session).await?;
    let findings = checks::all(&gathered);
    output.either(|| document(&findings), || text(&findings))?;
    let problems = of_level(&findings, Level::Problem);
    if problems == 0 { Ok(()) } else { Err(Fault::Local(words::count(problems, "problem"))) }
}

async fn gather(session: &mut Session) -> Result<Gathered, Fault> {
    let certificate = session.replicas().certificate().map(|files| files.certificate.clone());
    let own_certificate = match certificate {
        Some(path) => Some((path.display().to_string(), ca::unix_s(ca::expires(&path)?))),
        None => None,
    };
    let (status, clock) = timed_status(session).await?;
    let replicas = ask_each(session.replicas(), &status).await;
    let asked_ms = time::now_unix_ms();
    let nodes = nodes::ask(session, None, None).await?;
    let now_unix_ms = time::now_unix_ms();
    let awaited = slices::ask(session, None, String::new()).await?.awaited_nodes;
    let listed = Clock { earliest_ms: asked_ms, latest_ms: now_unix_ms };
    Ok(Gathered { now_unix_ms, own_certificate, status, clock, replicas, nodes, listed, awaited })
}

/// The answer, and this machine's clock around it.
async fn timed_status(session: &mut Session) -> Result<(Status, Clock), Fault> {
    // The first call connects; the second takes no longer than the way.
    status::ask(session).await?;
    let earliest_ms = time::now_unix_ms();
    let status = status::ask(session).await?;
    Ok((status, Clock { earliest_ms, latest_ms: time::now_unix_ms() }))
}

/// Each replica for itself, all at once. Over a Unix socket there is one.
async fn ask_each(replicas: &Replicas, status: &Status) -> Vec<ReplicaAnswer> {
    if replicas.certificate().is_none() {
        return vec![];
    }
    let mut tasks = tokio::task::JoinSet::new();
    for replica in &status.replicas {
        let (name, address) = (replica.name.clone(), replica.address.clone());
        let Ok(only) = replicas.only(&format!("https://{address}")) else {
            continue;
        };
        tasks.spawn(async move {
            let mut session = Session::new(only, REPLICA_TIMEOUT, None, None);
            let answer = timed_status(&mut session).await.map_err(|fault| fault.to_string());
            ReplicaAnswer { name, address, answer }
        });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_by(|a, b| a.name.cmp(&b.name));
    answers
}

/// For one replica to answer twice.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(3);

fn of_level(findings: &[Finding], level: Level) -> u64 {
    findings.iter().filter(|finding| finding.level == level).count() as u64
}

fn document(findings: &[Finding]) -> serde_json::Value {
    let list: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "level": finding.level.name(),
                "check": finding.check,
                "text": finding.text,
                "advice": finding.advice,
            })
        })
        .collect();
    json!({
        "findings": list,
        "problems": of_level(findings, Level::Problem),
        "warnings": of_level(findings, Level::Warning),
    })
}

fn text(findings: &[Finding]) -> String {
    let coloured = output::has_colour();
    let mut text = String::new();
    for finding in findings {
        let level = format!("{:<8}", finding.level.name());
        let level = if coloured { format!("{}{level}\x1b[0m", finding.level.colour()) } else { level };
        text.push_str(&format!("{level} {:<13} {}\n", finding.check, clean(&finding.text)));
        if !finding.advice.is_empty() {
            text.push_str(&format!("{:<23}→ {}\n", "", clean(&finding.advice)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_to_do_on_the_next_line() {
        let finding = Finding {
            level: Level::Problem,
            check: "clocks",
            text: "server 1.2 is 12 s ahead".into(),
            advice: "run an NTP client on it".into(),
        };
        let text = text(&[finding]);
        assert_eq!(
            text,
            "problem  clocks        server 1.2 is 12 s ahead\n                       → run an NTP client on it\n"
        );
    }
}
