//! The fleet as any gRPC client sees it: for what a trial must look at often.

use std::path::Path;

use tokio::runtime::Runtime;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use trunkline_proto::operator::v1::operator_service_client::OperatorServiceClient;
use trunkline_proto::operator::v1::{
    Event, GetStatusRequest, GetTableRequest, ListNodesRequest, ListSlicesRequest, Node, SliceView, Status,
    Table, WatchEventsRequest,
};

/// A connection to the control plane.
pub struct View {
    runtime: Runtime,
    client: OperatorServiceClient<Channel>,
}

impl View {
    /// Connects to the first replica that answers; call it outside.
    pub fn connect(endpoints: &[String], identity: &Path) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let read = |name: &str| {
            std::fs::read_to_string(identity.join(name)).map_err(|error| format!("{name}: {error}"))
        };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("roots.pem")?))
            .identity(Identity::from_pem(read("cert.pem")?, read("key.pem")?))
            .domain_name("control-plane.trunkline");
        let mut fault = String::from("no endpoints");
        for endpoint in endpoints {
            let connected = runtime.block_on(async {
                Endpoint::from_shared(endpoint.clone())?.tls_config(tls.clone())?.connect().await
            });
            match connected {
                Ok(channel) => return Ok(Self { runtime, client: OperatorServiceClient::new(channel) }),
                Err(error) => fault = format!("{endpoint}: {error:?}"),
            }
        }
        Err(fault)
    }

    /// Every server.
    pub fn nodes(&mut self) -> Result<Vec<Node>, String> {
        let answer = self.runtime.block_on(self.client.list_nodes(ListNodesRequest::default()));
        answer.map(|answer| answer.into_inner().nodes).map_err(|status| status.to_string())
    }

    /// A site's whole steering table.
    pub fn table(&mut self, site: u32) -> Result<Table, String> {
        let request = GetTableRequest { site, moved_since_unix_s: 0 };
        let answer = self.runtime.block_on(self.client.get_table(request));
        answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    }

    /// Every slice.
    pub fn slices(&mut self) -> Result<Vec<SliceView>, String> {
        let answer = self.runtime.block_on(self.client.list_slices(ListSlicesRequest::default()));
        answer.map(|answer| answer.into_inner().slices).map_err(|status| status.to_string())
    }

    /// The control plane itself.
    pub fn status(&mut self) -> Result<Status, String> {
        let answer = self.runtime.block_on(self.client.get_status(GetStatusRequest {}));
        answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    }

    /// The newest events.
    pub fn events(&mut self) -> Result<Vec<Event>, String> {
        let request = WatchEventsRequest { follow: false, last: 10_000 };
        self.runtime.block_on(async {
            let mut stream =
                self.client.watch_events(request).await.map_err(|status| status.to_string())?.into_inner();
            let mut events = vec![];
            while let Some(event) = stream.message().await.map_err(|status| status.to_string())? {
                events.push(event);
            }
            Ok(events)
        })
    }
}
