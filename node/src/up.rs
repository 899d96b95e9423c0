//! `trunkline up`: a server and its control plane in one process, without root and without any other service.

mod own_control_plane;
mod present;

use std::time::Duration;

use tokio::time::timeout;

use crate::control::Way;
use crate::keys::{KeyError, Management, NewKey};
use crate::options::{Mode, Options};
use crate::start::{self, Failure, Ground, Prepared, Serving};

use own_control_plane::OwnControlPlane;

/// Runs a server until a signal ends it.
///
/// # Errors
/// [`Failure`] when it cannot start; everything that was started has ended then.
pub fn run(options: &Options) -> Result<(), Failure> {
    start::block_on(server(options))
}

async fn server(options: &Options) -> Result<(), Failure> {
    let ground = Ground::find(options, Mode::Up)?;
    let OwnControlPlane { endpoint, admin_token, replica } =
        OwnControlPlane::start(&options.data_dir).await?;
    let prepared = Prepared {
        member: trunkline_control_plane::identity::LOCAL_NODE,
        node: options.node(),
        way: Way { endpoints: vec![endpoint], trust: trunkline_control_plane::connector::Trust::Local },
        cache: None,
        certificate: None,
        management: Management::Here,
        admin_token,
        encapsulation: options.fleet.as_ref().map(|fleet| fleet.encapsulation_address),
    };
    let serving = Serving::begin(options, ground, prepared).await?;
    let told = match quickstart_key(&serving).await {
        Ok(key) => present::present(options, &serving.api, &key),
        Err(error) => Err(error.into()),
    };
    match told {
        Ok(()) => serving.until_ended().await,
        Err(_) => serving.end().await,
    }
    replica.end().await;
    told
}

/// The key that is printed and written to quickstart.json.
async fn quickstart_key(serving: &Serving) -> Result<NewKey, KeyError> {
    let mut channel = serving.channel.clone();
    let open = timeout(CONTROL_PLANE_WITHIN, channel.wait_for(Option::is_some)).await;
    if !matches!(open, Ok(Ok(_))) {
        return Err(KeyError::Unavailable("the control plane of this process does not answer".to_owned()));
    }
    serving.api.keys.named(QUICKSTART_KEY).await
}

const QUICKSTART_KEY: &str = "quickstart";
const CONTROL_PLANE_WITHIN: Duration = Duration::from_secs(5);
