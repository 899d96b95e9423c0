//! A control plane that answers what a test tells it to, and remembers what it was asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use trunkline_proto::operator::v1::operator_service_server::{OperatorService, OperatorServiceServer};
use trunkline_proto::operator::v1::{
    AddNodeRequest, AddNodeResponse, ApplySettingsRequest, ApplySettingsResponse, CloseAllocationRequest,
    CreateKeyRequest, CreateKeyResponse, DeleteKeyRequest, Event, GetSettingsRequest, GetSettingsResponse,
    GetStatusRequest, GetTableRequest, ListAllocationsRequest, ListAllocationsResponse, ListKeysRequest,
    ListKeysResponse, ListNodesRequest, ListNodesResponse, ListSitesRequest, ListSitesResponse,
    ListSlicesRequest, ListSlicesResponse, MutationResponse, QueryUsageRequest, QueryUsageResponse,
    RemoveNodeRequest, RenameKeyRequest, RevokeCredentialRequest, RotateFleetKeyRequest, SetDrainRequest,
    SetWeightRequest, Table, WatchEventsRequest,
};

type Answer = Box<dyn FnMut(&[u8]) -> Result<Vec<u8>, Status> + Send>;

/// Method and request.
type Asked = (&'static str, Vec<u8>);

#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<BTreeMap<&'static str, Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// The control plane; it ends with this value.
pub struct Scripted {
    script: Script,
    directory: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Scripted {
    /// One that refuses every call as unknown.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let script = Script::default();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(directory.path().join("operator.sock")).expect("a socket")
        };
        let (sender, incoming) = mpsc::channel(1);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if sender.send(Ok::<_, std::io::Error>(stream)).await.is_err() {
                    return;
                }
            }
        });
        let service = OperatorServiceServer::new(script.clone());
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(incoming)),
        );
        Self { script, directory, _runtime: runtime }
    }

    pub fn socket(&self) -> PathBuf {
        Path::new(self.directory.path()).join("operator.sock")
    }

    /// What a method answers from now on; streams have one message.
    pub fn answers<Q: Message + Default, A: Message>(
        &self,
        method: &'static str,
        mut answer: impl FnMut(Q) -> Result<A, Status> + Send + 'static,
    ) {
        let answer = move |request: &[u8]| {
            answer(Q::decode(request).expect("a request")).map(|answer| answer.encode_to_vec())
        };
        self.script.answers.lock().expect("the script").insert(method, Box::new(answer));
    }

    /// Every request that a method got, in order.
    pub fn asked<Q: Message + Default>(&self, method: &str) -> Vec<Q> {
        let asked = self.script.asked.lock().expect("the script");
        let of_method = asked.iter().filter(|(name, _)| *name == method);
        of_method.map(|(_, request)| Q::decode(&request[..]).expect("a request")).collect()
    }
}

impl Script {
    fn answer<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Response<A>, Status> {
        let request = request.encode_to_vec();
        self.asked.lock().expect("the script").push((method, request.clone()));
        let mut answers = self.answers.lock().expect("the script");
        let answer = answers.get_mut(method).ok_or_else(|| Status::unimplemented(method))?;
        Ok(Response::new(A::decode(&answer(&request)?[..]).expect("an answer")))
    }

    fn stream<A: Message + Default + 'static>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Response<Streamed<A>>, Status> {
        let message = self.answer(method, request)?.into_inner();
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(message)))))
    }
}

type Streamed<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

macro_rules! scripted {
    ($($method:ident: $request:ident => $answer:ident,)+) => {
        #[tonic::async_trait]
        impl OperatorService for Script {
            type WatchNodesStream = Streamed<ListNodesResponse>;
            type WatchEventsStream = Streamed<Event>;

            async fn watch_nodes(
                &self,
                request: Request<ListNodesRequest>,
            ) -> Result<Response<Self::WatchNodesStream>, Status> {
                self.stream("watch_nodes", &request.into_inner())
            }

            async fn watch_events(
                &self,
                request: Request<WatchEventsRequest>,
            ) -> Result<Response<Self::WatchEventsStream>, Status> {
                self.stream("watch_events", &request.into_inner())
            }

            $(async fn $method(&self, request: Request<$request>) -> Result<Response<$answer>, tonic::Status> {
                self.answer(stringify!($method), &request.into_inner())
            })+
        }
    };
}

scripted! {
    get_status: GetStatusRequest => ControlPlane,
    list_nodes: ListNodesRequest => ListNodesResponse,
    add_node: AddNodeRequest => AddNodeResponse,
    remove_node: RemoveNodeRequest => MutationResponse,
    set_drain: SetDrainRequest => MutationResponse,
    set_weight: SetWeightRequest => MutationResponse,
    list_sites: ListSitesRequest => ListSitesResponse,
    get_table: GetTableRequest => Table,
    list_slices: ListSlicesRequest => ListSlicesResponse,
    list_keys: ListKeysRequest => ListKeysResponse,
    create_key: CreateKeyRequest => CreateKeyResponse,
    rename_key: RenameKeyRequest => MutationResponse,
    delete_key: DeleteKeyRequest => MutationResponse,
    revoke_credential: RevokeCredentialRequest => MutationResponse,
    rotate_fleet_key: RotateFleetKeyRequest => MutationResponse,
    get_settings: GetSettingsRequest => GetSettingsResponse,
    apply_settings: ApplySettingsRequest => ApplySettingsResponse,
    list_allocations: ListAllocationsRequest => ListAllocationsResponse,
    close_allocation: CloseAllocationRequest => MutationResponse,
    query_usage: QueryUsageRequest => QueryUsageResponse,
}

/// Not gRPC's status.
pub type ControlPlane = trunkline_proto::operator::v1::Status;
