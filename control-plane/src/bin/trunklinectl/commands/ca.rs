//! `ca`: certificates of replicas, servers and operators. The one command that works on files and asks nobody.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use trunkline_control_plane::identity::{Name, Role, is_plain};
use trunkline_control_plane::pki::directory::{Directory, RotationStep};
use trunkline_control_plane::pki::{self, PkiError};
use trunkline_wire::NodeId;

use crate::fault::Fault;
use crate::output::{Columns, Output};
use crate::time;

/// A certificate authority in a directory.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Ca {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Makes an authority: a root, an issuer under it, and the key that seals secrets in the store.
    #[command(after_help = "\
Example, a fleet's first minute:
  trunklinectl ca init ca
  trunklinectl ca issue replica a --dir ca --out replica-a
  trunklinectl ca issue operator alice --role admin --dir ca --out alice")]
    Init {
        /// Where; made when it is missing.
        dir: PathBuf,
    },
    /// Makes a certificate: cert.pem, key.pem and roots.pem in a directory.
    Issue(Issue),
    /// One step of a rotation of the root, in which no connection is dropped.
    ///
    /// 1. begin: then bring the new roots.pem to every process.
    /// 2. switch: then bring a new certificate to every process, and the new issuer to every replica.
    /// 3. retire: then bring the new roots.pem to every process.
    #[command(verbatim_doc_comment)]
    Rotate(Rotate),
    /// Shows the authority's certificates, and the step of a rotation that is due.
    Show(Dir),
}

#[derive(Debug, Args)]
struct Dir {
    /// The authority's directory.
    #[arg(long, value_name = "DIR", env = "TRUNKLINE_CA")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Issue {
    #[command(subcommand)]
    what: IssueCommand,
}

#[derive(Debug, Subcommand)]
enum IssueCommand {
    /// For a replica of the control plane; good for 90 days by default.
    #[command(after_help = "Example:\n  trunklinectl ca issue replica a --dir ca --out replica-a")]
    Replica {
        /// Its name.
        #[arg(value_parser = parse_plain)]
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// For a person or a program that operates the fleet; good for 365 days by default.
    #[command(
        after_help = "Example:\n  trunklinectl ca issue operator alice --role admin --dir ca --out alice"
    )]
    Operator {
        /// Its name, as the audit log shows it.
        #[arg(value_parser = parse_plain)]
        name: String,
        /// What it may do; each role includes those before it.
        #[arg(long)]
        role: RoleName,
        #[command(flatten)]
        how: How,
    },
    /// For a server that cannot join with a token; good for 30 days by default, and renewed by the server itself.
    #[command(after_help = "Example:\n  trunklinectl ca issue node 1.2 --dir ca --out node-1.2")]
    Node {
        /// SITE.SERVER.
        #[arg(value_name = "NODE", value_parser = parse_node)]
        node: NodeId,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// Sees everything but secrets.
    Viewer,
    /// Moves load too: drains, weights, closes allocations.
    Operator,
    /// Changes who belongs to the fleet, keys, policies and settings too.
    Admin,
}

#[derive(Debug, Args)]
struct How {
    #[command(flatten)]
    of: Dir,
    /// Where the files go; made when it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is good: 5m, 12h, 90d.
    #[arg(long, value_name = "TIME", value_parser = time::parse_span_s)]
    lifetime: Option<u64>,
    /// Replace the files that are there: a process that runs with them takes the new ones within a second.
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
struct Rotate {
    /// The step; without one the rotation begins.
    #[arg(value_enum)]
    step: Option<Step>,
    #[command(flatten)]
    of: Dir,
    /// Only make a new issuer under the same root: every process trusts it already.
    #[arg(long, conflicts_with = "step")]
    issuer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Makes the next root, and trusts it beside the old one.
    Begin,
    /// Signs with the next root from now on.
    Switch,
    /// Trusts the old root no more.
    Retire,
}

/// Runs `ca`.
///
/// # Errors
/// Which file could not be read or written, or is in the way.
pub fn run(output: Output, ca: Ca) -> Result<(), Fault> {
    match ca.command {
        CaCommand::Init { dir } => init(output, &dir),
        CaCommand::Issue(issue) => match issue.what {
            IssueCommand::Replica { name, how } => self::issue(output, &Name::Replica(name), &how),
            IssueCommand::Operator { name, role, how } => {
                let role = match role {
                    RoleName::Viewer => Role::Viewer,
                    RoleName::Operator => Role::Operator,
                    RoleName::Admin => Role::Admin,
                };
                self::issue(output, &Name::Operator { name, role }, &how)
            }
            IssueCommand::Node { node, how } => self::issue(output, &Name::Node(node), &how),
        },
        CaCommand::Rotate(rotate) => self::rotate(output, &rotate),
        CaCommand::Show(of) => show(output, &of.dir),
    }
}

fn init(output: Output, dir: &Path) -> Result<(), Fault> {
    Directory::init(dir).map_err(local)?;
    let shown = dir.display();
    output.either(
        || json!({"dir": shown.to_string()}),
        || {
            format!(
                "The authority is in {shown}. Keep root.key and store.key safe: who has them is the fleet.\n\
                 \n  \
                 trunklinectl ca issue replica a --dir {shown} --out replica-a\n  \
                 trunklinectl ca issue operator alice --role admin --dir {shown} --out alice\n\
                 \n\
                 A replica also wants --issuer-cert {shown}/issuer.pem --issuer-key {shown}/issuer.key, with which \
                 servers join,\nand --store-key {shown}/store.key, the same for all replicas.\n"
            )
        },
    )
}

fn open(dir: &Path) -> Result<Directory, Fault> {
    Directory::open(dir).map_err(|error| {
        Fault::Local(format!("{error}: `trunklinectl ca init {}` makes an authority", dir.display()))
    })
}

fn issue(output: Output, name: &Name, how: &How) -> Result<(), Fault> {
    let directory = open(&how.of.dir)?;
    let lifetime = how.lifetime.map(Duration::from_secs);
    let files = if how.replace {
        directory.reissue_into(name, lifetime, &how.out)
    } else {
        directory.issue_into(name, lifetime, &how.out)
    };
    let files = files.map_err(|error| match error {
        PkiError::Exists(_) => Fault::Local(format!("{error}; --replace replaces it")),
        error => local(error),
    })?;
    let expires = unix_s(expires(&files.certificate)?);
    output.either(
        || {
            json!({
                "name": name.to_string(),
                "cert": files.certificate.display().to_string(),
                "key": files.key.display().to_string(),
                "roots": files.roots.display().to_string(),
                "expires_unix_s": expires,
            })
        },
        || format!("{name} in {}, good until {} UTC\n", how.out.display(), time::moment(expires)),
    )
}

fn rotate(output: Output, rotate: &Rotate) -> Result<(), Fault> {
    let directory = open(&rotate.of.dir)?;
    if rotate.issuer {
        directory.renew_issuer().map_err(local)?;
        let text =
            "There is a new issuer under the same root. Bring issuer.pem and issuer.key to every replica.\n";
        return output.either(|| json!({"step": "issuer", "next": text}), || text.into());
    }
    let step = match rotate.step.unwrap_or(Step::Begin) {
        Step::Begin => RotationStep::Begin,
        Step::Switch => RotationStep::Switch,
        Step::Retire => RotationStep::Retire,
    };
    directory
        .rotate(step)
        .map_err(|error| Fault::Local(format!("{error} (`trunklinectl ca show` says where it is)")))?;
    let dir = rotate.of.dir.display();
    let (name, next) = match step {
        RotationStep::Begin => (
            "begin",
            format!(
                "There is a next root. Bring {dir}/roots.pem to every replica, server and operator; then:\n\n  \
                 trunklinectl ca rotate switch --dir {dir}\n"
            ),
        ),
        RotationStep::Switch => (
            "switch",
            format!(
                "The next root signs now. Bring issuer.pem and issuer.key to every replica, and a new certificate \
                 (`ca issue … --replace`)\nto every replica, operator and server (servers that joined by token renew \
                 by themselves); then:\n\n  trunklinectl ca rotate retire --dir {dir}\n"
            ),
        ),
        RotationStep::Retire => (
            "retire",
            format!(
                "The old root is trusted no more. Bring {dir}/roots.pem to every replica, server and operator.\n"
            ),
        ),
    };
    output.either(|| json!({"step": name, "next": next}), || next.clone())
}

fn show(output: Output, dir: &Path) -> Result<(), Fault> {
    let directory = open(dir)?;
    let due = match directory.next_step() {
        RotationStep::Begin => "none",
        RotationStep::Switch => "switch",
        RotationStep::Retire => "retire",
    };
    let mut columns = Columns::new(&["CERTIFICATE", "EXPIRES (UTC)"]);
    let mut certificates = vec![];
    for file in ["root.pem", "issuer.pem"] {
        let path = dir.join(file);
        // The root may be kept elsewhere.
        if !path.exists() {
            continue;
        }
        let expires = unix_s(expires(&path)?);
        columns.row([path.display().to_string(), time::moment(expires)]);
        certificates.push(json!({"file": path.display().to_string(), "expires_unix_s": expires}));
    }
    let roots = directory.roots().map_err(local)?.matches("BEGIN CERTIFICATE").count();
    output.either(
        || json!({"certificates": certificates, "trusted_roots": roots, "rotation_due": due}),
        || format!("{}\ntrusted roots: {roots}\nstep of a rotation that is due: {due}\n", columns.text()),
    )
}

/// When the first certificate of a file ends.
///
/// # Errors
/// Names the file.
pub fn expires(path: &Path) -> Result<SystemTime, Fault> {
    let chain = std::fs::read_to_string(path).map_err(|error| Fault::file(path, "read", &error))?;
    pki::expires(&chain).map_err(|error| Fault::Local(format!("{}: {error}", path.display())))
}

/// A system time as messages have it.
#[must_use]
pub fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn local(error: PkiError) -> Fault {
    Fault::Local(error.to_string())
}

fn parse_plain(text: &str) -> Result<String, String> {
    is_plain(text)
        .then(|| text.to_owned())
        .ok_or_else(|| "write up to 64 letters, digits, . _ - and @".into())
}

fn parse_node(text: &str) -> Result<NodeId, String> {
    let node =
        trunkline_control_plane::records::parse_node(text).filter(|node| node.site > 0 && node.server > 0);
    node.ok_or_else(|| "write SITE.SERVER, each from 1 to 65,535, as in 1.3".into())
}
