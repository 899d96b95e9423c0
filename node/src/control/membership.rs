//! How a server becomes a member and stays one: a one-time token for a certificate, and the certificate for a fresh
//! one before it ends.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Code;
use tonic::transport::Channel;
use trunkline_control_plane::connector::{Endpoint, Trust, connect_any};
use trunkline_control_plane::identity::{Identity, Unnamed};
use trunkline_control_plane::join_token::{JoinToken, NotAToken};
use trunkline_control_plane::pki::files::Files;
use trunkline_control_plane::pki::{self, Issued, PkiError};
use trunkline_proto::node::v1::node_service_client::NodeServiceClient;
use trunkline_proto::node::v1::{JoinRequest, RenewRequest};
use trunkline_wire::NodeId;

/// Why this server is not a member.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// No certificate, and no way to get one.
    #[error(
        "no certificate in {0} and no --join; run `trunklinectl nodes add` and give the token that it prints"
    )]
    NoToken(String),
    /// --join is not a token.
    #[error("--join: {0}")]
    NotAToken(#[from] NotAToken),
    /// The control plane refuses the token.
    #[error("the control plane refuses --join: {0}")]
    Refused(String),
    /// The certificate's files.
    #[error(transparent)]
    Files(#[from] PkiError),
    /// The certificate in the data directory is not a server's.
    #[error("{path} is not a server's certificate: {fault}")]
    NotANode {
        /// The file.
        path: String,
        /// What it is.
        fault: String,
    },
}

/// This server's name and files: those of the data directory, else what the token is exchanged for. Waits while no
/// replica can be reached, and says so.
///
/// # Errors
/// [`MembershipError`] when waiting would not help.
pub async fn join(
    directory: &Path,
    endpoints: &[Endpoint],
    token: Option<&str>,
) -> Result<(NodeId, Files), MembershipError> {
    let files = Files::in_directory(directory);
    if files.certificate.exists() {
        return Ok((name_of(&files)?, files));
    }
    let token = token.ok_or_else(|| MembershipError::NoToken(directory.display().to_string()))?;
    let parsed: JoinToken = token.parse()?;
    let (key, certificate_request) = pki::request()?;
    let trust = Trust::Pinned { root_sha256: parsed.root_sha256() };
    loop {
        let request =
            JoinRequest { token: token.to_owned(), certificate_request: certificate_request.clone() };
        let fault = match connect_any(endpoints, &trust).await {
            Ok(channel) => match NodeServiceClient::new(channel).join(request).await {
                Ok(joined) => {
                    let joined = joined.into_inner();
                    pki::files::directory(directory)?;
                    files.replace(&Issued { chain: joined.certificate_chain, key }, &joined.roots)?;
                    tracing::info!(node = %parsed.node(), "joined the fleet");
                    return Ok((name_of(&files)?, files));
                }
                Err(status) if is_passing(status.code()) => status.message().to_owned(),
                Err(status) => return Err(MembershipError::Refused(status.message().to_owned())),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(fault, "cannot join the fleet yet");
        sleep(RETRY_EVERY).await;
    }
}

/// Renews the certificate for ever: after two thirds of its life, and then until it works.
pub async fn renew(files: Files, mut channel: watch::Receiver<Option<Channel>>) {
    loop {
        let Some(pause) = until_renewal(&files.certificate) else { return };
        // Clocks jump: it is looked at again before long.
        sleep(pause.clamp(RETRY_EVERY, LOOK_EVERY)).await;
        if until_renewal(&files.certificate).is_none_or(|pause| !pause.is_zero()) {
            continue;
        }
        let Ok(open) = channel.wait_for(Option::is_some).await.map(|open| open.clone()) else { return };
        if let Some(channel) = open
            && let Err(fault) = renew_once(&files, channel).await
        {
            tracing::warn!(fault, "the certificate could not be renewed; trying again");
        }
    }
}

async fn renew_once(files: &Files, channel: Channel) -> Result<(), String> {
    let (key, certificate_request) = pki::request().map_err(|error| error.to_string())?;
    let renewed = NodeServiceClient::new(channel).renew(RenewRequest { certificate_request }).await;
    let renewed = renewed.map_err(|status| status.message().to_owned())?.into_inner();
    let issued = Issued { chain: renewed.certificate_chain, key };
    files.replace(&issued, &renewed.roots).map_err(|error| error.to_string())?;
    tracing::info!("certificate renewed");
    Ok(())
}

/// How long until two thirds of the certificate's life, counted from when its file was written, are over.
fn until_renewal(certificate: &Path) -> Option<Duration> {
    let expires = UNIX_EPOCH + Duration::from_secs(expires_unix_s(certificate)?);
    let begun = std::fs::metadata(certificate).and_then(|metadata| metadata.modified()).ok()?;
    let life = expires.duration_since(begun).unwrap_or_default();
    let due = begun + life / 3 * 2;
    Some(due.duration_since(SystemTime::now()).unwrap_or_default())
}

/// When the first certificate of a file ends.
#[must_use]
pub fn expires_unix_s(certificate: &Path) -> Option<u64> {
    let chain = pki::files::read(certificate).ok()?;
    let expires = pki::expires(&chain).ok()?;
    expires.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn name_of(files: &Files) -> Result<NodeId, MembershipError> {
    let wrong =
        |fault: String| MembershipError::NotANode { path: files.certificate.display().to_string(), fault };
    let chain = pki::files::read(&files.certificate)?;
    let first = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    match Identity::of_certificate(&first).map_err(|error: Unnamed| wrong(error.to_string()))? {
        Identity::Node(node) => Ok(node),
        other => Err(wrong(format!("it is that of {other}"))),
    }
}

/// Whether asking again may help.
const fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Unknown | Code::Cancelled
    )
}

const RETRY_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(60);
