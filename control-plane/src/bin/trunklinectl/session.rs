//! A conversation with the control plane: any replica that answers, each call sent again when its answer was lost.

use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use trunkline_proto::operator::v1::Mutation;
use trunkline_proto::operator::v1::operator_service_client::OperatorServiceClient;

use crate::connection::Replicas;
use crate::fault::Fault;

/// The generated client.
pub type Client = OperatorServiceClient<Channel>;

/// A conversation with whichever replica answers.
pub struct Session {
    replicas: Replicas,
    client: Option<Client>,
    /// How long a call is tried, with all its repetitions.
    timeout: Duration,
    /// Given by the operator, for a call that is repeated by hand.
    idempotency_key: Option<String>,
    reason: String,
}

impl Session {
    /// Not connected yet.
    #[must_use]
    pub fn new(
        replicas: Replicas,
        timeout: Duration,
        idempotency_key: Option<String>,
        reason: Option<String>,
    ) -> Self {
        Self { replicas, client: None, timeout, idempotency_key, reason: reason.unwrap_or_default() }
    }

    /// Where it asks.
    #[must_use]
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// What goes into one mutating request, however often that is sent.
    ///
    /// # Errors
    /// Where the machine has no randomness.
    pub fn mutation(&self) -> Result<Option<Mutation>, Fault> {
        let idempotency_key = match &self.idempotency_key {
            Some(key) => key.clone(),
            None => random_key()?,
        };
        Ok(Some(Mutation { idempotency_key, reason: self.reason.clone() }))
    }

    /// Whether the operator named the key: then what is sent must not change.
    #[must_use]
    pub fn has_given_key(&self) -> bool {
        self.idempotency_key.is_some()
    }

    /// Asks until there is an answer or the time is over. Every call may be repeated: a read changes nothing, and a
    /// mutation carries its key.
    ///
    /// # Errors
    /// What the replica refused, or why none answered.
    pub async fn ask<Q: Clone, A>(
        &mut self,
        request: Q,
        method: impl AsyncFn(&mut Client, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Fault> {
        self.ask_status(request, method).await?.map_err(|status| Fault::refused(&status))
    }

    /// As [`Self::ask`]; the inner error is what the replica refused with.
    ///
    /// # Errors
    /// Why none answered.
    pub async fn ask_status<Q: Clone, A>(
        &mut self,
        request: Q,
        method: impl AsyncFn(&mut Client, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<Result<A, Status>, Fault> {
        let until = Instant::now() + self.timeout;
        loop {
            let client = self.client(until).await?;
            let mut attempt = Request::new(request.clone());
            let remaining = until.saturating_duration_since(Instant::now()).min(ATTEMPT);
            attempt.set_timeout(remaining);
            // The replica may hang: its own deadline is not enough.
            let answer = tokio::time::timeout(remaining + GRACE, method(client, attempt)).await;
            let status = match answer {
                Ok(Ok(answer)) => return Ok(Ok(answer.into_inner())),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the replica does not answer"),
            };
            if !is_lost(&status) {
                return Ok(Err(status));
            }
            self.client = None;
            if Instant::now() + PAUSE >= until {
                let said = Fault::refused(&status);
                return Err(Fault::Unreachable(format!("not done within {:?}: {said}", self.timeout)));
            }
            self.replicas.pass();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Listens to a stream, which `receive` may end, and opens it again when it is lost.
    ///
    /// # Errors
    /// What the replica refused, or why none answers any more.
    pub async fn listen<Q: Clone, A>(
        &mut self,
        request: Q,
        method: impl AsyncFn(&mut Client, Request<Q>) -> Result<Response<Streaming<A>>, Status>,
        mut receive: impl FnMut(A) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            let client = self.client(Instant::now() + self.timeout).await?;
            let lost = match method(client, Request::new(request.clone())).await {
                Err(status) => status,
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match stream.next().await {
                            None => return Ok(()),
                            Some(Ok(message)) => receive(message)?,
                            Some(Err(status)) => break status,
                        }
                    }
                }
            };
            if !is_lost(&lost) {
                return Err(Fault::refused(&lost));
            }
            self.client = None;
            self.replicas.pass();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Connected. A replica that was there comes back, or another takes its place: that is waited for. One that never
    /// answered is a mistake in the endpoint more often than not, and is said soon.
    async fn client(&mut self, until: Instant) -> Result<&mut Client, Fault> {
        let until =
            if self.replicas.have_answered() { until } else { until.min(Instant::now() + FIRST_CONTACT) };
        while self.client.is_none() {
            match self.replicas.connect().await {
                Ok(channel) => {
                    let client = Client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                    self.client = Some(client);
                }
                Err(fault) if !fault.may_pass() || Instant::now() + PAUSE >= until => {
                    return Err(fault.fault());
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        self.client.as_mut().ok_or_else(|| Fault::Unreachable("not connected".into()))
    }
}

/// Whether the answer may have been lost on the way, or others were faster, so that asking again makes sense.
fn is_lost(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted => true,
        // Made on this side, when the connection ended under the call.
        Code::Unknown | Code::Cancelled | Code::Internal => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

fn random_key() -> Result<String, Fault> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| Fault::Local(format!("no randomness: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// One attempt: another replica is asked when this one takes longer.
const ATTEMPT: Duration = Duration::from_secs(4);

/// The replica says itself that it took too long, in this time.
const GRACE: Duration = Duration::from_millis(250);

/// Between attempts.
const PAUSE: Duration = Duration::from_millis(150);

/// For the first connection of all.
const FIRST_CONTACT: Duration = Duration::from_secs(1);

/// The largest answer: the usage of 100,000 users of an hour, say.
const ANSWER_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_were_lost_are_asked_for_again_and_refusals_are_not() {
        assert!(is_lost(&Status::unavailable("no leader")));
        assert!(is_lost(&Status::deadline_exceeded("")));
        for code in
            [Code::InvalidArgument, Code::PermissionDenied, Code::NotFound, Code::Internal, Code::Unknown]
        {
            assert!(!is_lost(&Status::new(code, "said by the replica")), "{code:?}");
        }
        let broken = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "connection lost");
        let mut status = Status::unknown("transport error");
        status.set_source(std::sync::Arc::new(broken));
        assert!(is_lost(&status));
    }

    #[test]
    fn each_change_has_a_key_of_its_own() {
        let key = random_key().expect("randomness");
        assert_eq!(key.len(), 32);
        assert_ne!(key, random_key().expect("randomness"));
    }
}
