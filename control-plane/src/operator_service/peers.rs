//! The other replicas: a question to a server goes through the one that holds its session.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tonic::transport::Channel;
use trunkline_proto::operator::v1::operator_service_client::OperatorServiceClient;

use super::Fault;
use crate::connector::{Endpoint, Trust, connect};
use crate::state::State;

/// A connection to come.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Channel, String>> + Send>>;

/// How another replica is reached: from the address in its record to a connection with this replica's certificate.
pub type Dial = Arc<dyn Fn(String) -> Connecting + Send + Sync>;

/// Over TLS, with this replica's own certificate.
#[must_use]
pub fn dial(trust: Trust) -> Dial {
    Arc::new(move |address| {
        let trust = trust.clone();
        Box::pin(
            async move { connect(&Endpoint::Tls(address), &trust).await.map_err(|error| error.to_string()) },
        )
    })
}

/// The other replicas.
#[derive(Clone)]
pub struct Peers(Option<Dial>);

impl Peers {
    /// Without a way to them this replica is alone.
    #[must_use]
    pub const fn new(dial: Option<Dial>) -> Self {
        Self(dial)
    }

    /// Connects to a replica by its name.
    ///
    /// # Errors
    /// [`Fault::Silent`]: it is gone or cannot be reached.
    pub async fn connect(&self, state: &State, name: &str) -> Result<OperatorServiceClient<Channel>, Fault> {
        let record = state.replicas.get(name).map(|kept| &kept.record);
        let (Some(dial), Some(record)) = (&self.0, record) else {
            return Err(Fault::Silent(format!("replica {name:?}, which held the server's session, is gone")));
        };
        let connected =
            tokio::time::timeout(super::allocations::ASKED_FOR, dial(record.address.clone())).await;
        let failed = |problem: String| {
            Fault::Silent(format!("replica {name} at {} cannot be reached: {problem}", record.address))
        };
        match connected {
            Ok(Ok(channel)) => Ok(OperatorServiceClient::new(channel)),
            Ok(Err(problem)) => Err(failed(problem)),
            Err(_) => Err(failed("no answer".to_owned())),
        }
    }
}
