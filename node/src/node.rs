//! `trunkline node`: one server of a fleet.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use trunkline_control_plane::connector::{Endpoint, Trust};
use trunkline_control_plane::pki::files;
use trunkline_turn::credentials::Secret;

use crate::cache::Cache;
use crate::control::{Way, membership};
use crate::keys::Management;
use crate::options::{Mode, Options};
use crate::secrets;
use crate::start::{self, Failure, Ground, Prepared, Serving};

/// Runs a server until a signal ends it.
///
/// # Errors
/// [`Failure`] when it cannot start; everything that was started has ended then.
pub fn run(options: &Options) -> Result<(), Failure> {
    start::block_on(server(options))
}

async fn server(options: &Options) -> Result<(), Failure> {
    let mut ground = Ground::find(options, Mode::Node)?;
    let directory = &options.data_dir;
    files::directory(directory).map_err(membership::MembershipError::from)?;
    let endpoints = endpoints(options)?;
    let token = options.join.as_ref().map(|token| token.0.reveal());
    let joining = membership::join(directory, &endpoints, token);
    let (node, files) = tokio::select! {
        joined = joining => joined?,
        // Nothing is served yet that could be ended in grace.
        () = ground.signals.next() => return Ok(()),
    };
    let prepared = Prepared {
        member: node,
        node,
        way: Way { endpoints, trust: Trust::Files(files.clone()) },
        cache: Some(Cache::open(directory, node)?),
        certificate: Some(files.certificate.clone()),
        management: Management::Elsewhere,
        admin_token: admin_token(&directory.join(ADMIN_TOKEN))?,
        encapsulation: options.encapsulation_address,
    };
    let serving = Serving::begin(options, ground, prepared).await?;
    tokio::spawn(membership::renew(files, serving.channel.clone()));
    // Whoever closed standard output does not want to know.
    let _ = writeln!(io::stdout(), "ready").and_then(|()| io::stdout().flush());
    serving.until_ended().await;
    Ok(())
}

fn endpoints(options: &Options) -> Result<Vec<Endpoint>, Failure> {
    let parsed = options.control_plane.iter().map(|replica| replica.0.parse());
    parsed.collect::<Result<_, _>>().map_err(|error: trunkline_control_plane::connector::ConnectError| {
        Failure::ControlPlane(error.to_string())
    })
}

/// The token of this server's HTTP API; made at the first start.
fn admin_token(path: &Path) -> Result<Secret, Failure> {
    let failed = |cause| Failure::File { path: path.display().to_string(), cause };
    let fresh = secrets::hex::<32>()?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => file.write_all(fresh.as_bytes()).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    // The file may come from a backup that did not keep its mode.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let text = fs::read_to_string(path).map_err(failed)?;
    let token = text.trim();
    if token.len() < ADMIN_TOKEN_BYTES_MIN {
        let cause = io::Error::other("the token in it is too short; delete the file and a new one is made");
        return Err(failed(cause));
    }
    Ok(Secret::new(token.to_owned()))
}

const ADMIN_TOKEN: &str = "admin-token";
/// An empty token would let everybody in.
const ADMIN_TOKEN_BYTES_MIN: usize = 32;
