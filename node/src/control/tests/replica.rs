//! A replica that says what a test says, over memory.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trunkline_control_plane::listener::{MemoryConnector, memory_listener, server};
use trunkline_proto::node::v1::control_message::Message as Said;
use trunkline_proto::node::v1::node_message::Message;
use trunkline_proto::node::v1::node_service_server::{NodeService, NodeServiceServer};
use trunkline_proto::node::v1::{
    ControlMessage, Hello, JoinRequest, JoinResponse, NodeMessage, RenewRequest, RenewResponse,
    RevokeRequest, RevokeResponse,
};

/// One session as the replica sees it.
pub struct Opened {
    pub hello: Hello,
    messages: Streaming<NodeMessage>,
    say: mpsc::Sender<Result<ControlMessage, Status>>,
}

impl Opened {
    pub async fn say(&self, message: Said) {
        self.say.send(Ok(ControlMessage { message: Some(message) })).await.unwrap();
    }

    /// The next message for which `choose` has something.
    pub async fn heard<T>(&mut self, choose: impl Fn(Message) -> Option<T>) -> T {
        loop {
            let message =
                self.messages.message().await.unwrap().expect("the session is open").message.unwrap();
            if let Some(chosen) = choose(message) {
                return chosen;
            }
        }
    }
}

struct Scripted(mpsc::UnboundedSender<Opened>);

type Outgoing = Pin<Box<dyn Stream<Item = Result<ControlMessage, Status>> + Send>>;

#[tonic::async_trait]
impl NodeService for Scripted {
    type OpenSessionStream = Outgoing;

    async fn open_session(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Outgoing>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.message);
        let Some(Message::Hello(hello)) = first else { return Err(Status::invalid_argument("no Hello")) };
        let (say, said) = mpsc::channel(16);
        let _ = self.0.send(Opened { hello, messages, say });
        Ok(Response::new(Box::pin(ReceiverStream::new(said))))
    }

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke(&self, _: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Begins to serve; each session comes out of the receiver.
pub fn serve() -> (MemoryConnector, mpsc::UnboundedReceiver<Opened>) {
    let (connector, incoming) = memory_listener();
    let (sessions, opened) = mpsc::unbounded_channel();
    let serving = server().add_service(NodeServiceServer::new(Scripted(sessions)));
    tokio::spawn(serving.serve_with_incoming(incoming));
    (connector, opened)
}
