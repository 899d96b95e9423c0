//! One-time tokens and certificates become certificates.

use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Status;
use trunkline_proto::node::v1::{JoinRequest, JoinResponse, RenewRequest, RenewResponse};
use trunkline_proto::store::v1::JoinToken as TokenRecord;
use trunkline_wire::NodeId;

use super::Signer;
use crate::configuration::unix_now_s;
use crate::core::Core;
use crate::event::{self, Happening};
use crate::identity::Name;
use crate::join_token::JoinToken;
use crate::pki::files;
use crate::records::{self, Kept, node_id, node_message};
use crate::store::{Change, Expected, Store, StoreError, Transaction};

/// Uses a token up and signs the request under the name that the token gives.
pub async fn join(core: &Core, signer: &Signer, request: JoinRequest) -> Result<JoinResponse, Status> {
    let token: JoinToken =
        request.token.parse().map_err(|fault| Status::invalid_argument(format!("token: {fault}")))?;
    let kept = open(core, &token).await?;
    let node = check(&token, &kept.record, &request.certificate_request)?;
    let certificate_chain = sign(signer, node, &request.certificate_request)?;
    if kept.record.used_request_sha256.is_empty() {
        use_up(core, &token, kept, node, &request.certificate_request).await?;
    }
    Ok(JoinResponse { node: Some(node_message(node)), certificate_chain, roots: roots(signer)? })
}

async fn open(core: &Core, token: &JoinToken) -> Result<Kept<TokenRecord>, Status> {
    let entry = core.store().get(&records::key::<TokenRecord>(token.id())).await.map_err(unavailable)?;
    let entry = entry.ok_or_else(|| {
        Status::permission_denied(format!(
            "token: it is not known, or expired long ago; `trunklinectl nodes add {}` makes another",
            token.node()
        ))
    })?;
    records::open(&entry).map_err(|damaged| Status::internal(damaged.to_string()))
}

/// The server that the token admits. The same request may come again: its answer may have been lost.
fn check(token: &JoinToken, record: &TokenRecord, request: &[u8]) -> Result<NodeId, Status> {
    let again = format!(
        "`trunklinectl nodes remove {0}` and `trunklinectl nodes add {0}` make another",
        token.node()
    );
    if !token.proves(&record.secret_sha256) {
        return Err(Status::permission_denied("token: its secret is wrong; copy it again, whole"));
    }
    if record.expires_unix_s <= unix_now_s() {
        return Err(Status::permission_denied(format!("token: it has expired; {again}")));
    }
    let used = &record.used_request_sha256;
    if !used.is_empty() && used[..] != Sha256::digest(request)[..] {
        return Err(Status::permission_denied(format!("token: it was used already and works once; {again}")));
    }
    let node = record.node.as_ref().and_then(node_id).filter(|node| *node == token.node());
    node.ok_or_else(|| Status::permission_denied("token: it is another server's"))
}

async fn use_up(
    core: &Core,
    token: &JoinToken,
    kept: Kept<TokenRecord>,
    node: NodeId,
    request: &[u8],
) -> Result<(), Status> {
    let key = records::key::<TokenRecord>(token.id());
    let used = TokenRecord { used_request_sha256: Sha256::digest(request).to_vec(), ..kept.record };
    let happening = Happening::new(format!("node {node}"), "expected", "joined with its token");
    let event = event::put(&format!("node {node}"), "Join", &happening, "")
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let changes = vec![Change::Put { key: key.clone(), value: used.encode_to_vec(), lease: None }, event];
    let transaction = Transaction { checks: vec![(key, Expected::At(kept.revision))], changes };
    match core.store().commit(transaction).await {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict) => Err(Status::permission_denied("token: it was used a moment ago")),
        Err(error) => Err(unavailable(error)),
    }
}

/// A fresh certificate for a member.
pub fn renew(
    core: &Core,
    signer: &Signer,
    node: NodeId,
    request: &RenewRequest,
) -> Result<RenewResponse, Status> {
    if !core.state().nodes.contains_key(&node) {
        return Err(Status::failed_precondition(format!("node {node} is not a member any more")));
    }
    let certificate_chain = sign(signer, node, &request.certificate_request)?;
    Ok(RenewResponse { certificate_chain, roots: roots(signer)? })
}

fn sign(signer: &Signer, node: NodeId, request: &[u8]) -> Result<String, Status> {
    let signed = signer.issuer.sign_csr(request, &Name::Node(node), None);
    signed.map_err(|fault| Status::invalid_argument(format!("certificate_request: {fault}")))
}

fn roots(signer: &Signer) -> Result<String, Status> {
    files::read(&signer.roots).map_err(|fault| Status::failed_precondition(format!("roots: {fault}")))
}

fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}
