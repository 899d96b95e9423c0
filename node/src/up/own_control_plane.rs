//! The control plane of `trunkline up`: a replica in this process over the embedded store of the data directory.

use std::path::Path;

use trunkline_control_plane::connector::Endpoint;
use trunkline_turn::credentials::Secret;

use crate::start::Failure;

/// A replica that runs.
pub struct OwnControlPlane {
    /// The way to it.
    pub endpoint: Endpoint,
    /// What the operator's requests to the HTTP API carry.
    pub admin_token: Secret,
}

impl OwnControlPlane {
    /// Opens the store and starts the replica.
    pub async fn start(_directory: &Path) -> Result<Self, Failure> {
        Err(Failure::ControlPlane("missing".into()))
    }
}
