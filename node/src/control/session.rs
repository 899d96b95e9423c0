//! One session with a replica, from Hello to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use trunkline_control_plane::connector::ConnectError;
use trunkline_proto::fleet::v1::Configuration;
use trunkline_proto::node::v1::control_message::Message as Said;
use trunkline_proto::node::v1::node_message::Message;
use trunkline_proto::node::v1::node_service_client::NodeServiceClient;
use trunkline_proto::node::v1::{
    Acknowledgement, ControlMessage, Hello, NodeMessage, UsageAcknowledgement, UsageRecord,
};

use super::{Control, Refusal, Standing, answers, claims, rows};
use crate::shard::Shards;

/// An open stream to a replica.
pub struct Session {
    outgoing: mpsc::Sender<NodeMessage>,
    incoming: Streaming<ControlMessage>,
    channel: Channel,
    /// Usage that was sent and is not counted yet: epoch, sequence.
    sent: VecDeque<(u64, u64)>,
    /// When usage was counted last, or began to wait for it.
    counted: Instant,
}

/// Why there is no session, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No replica takes the connection.
    #[error(transparent)]
    Connect(ConnectError),
    /// The replica ended it.
    #[error("{}", .0.message())]
    Ended(Box<Status>),
    /// The replica has gone.
    #[error("the replica has gone")]
    Gone,
    /// It takes the connection and says nothing.
    #[error("the replica does not answer")]
    Silent,
    /// It spoke of something that we do not have.
    #[error("the replica and this server do not agree on what was sent before; beginning with everything")]
    OutOfStep,
}

impl Session {
    /// Says Hello.
    pub(super) async fn open(channel: Channel, hello: Hello) -> Result<Self, SessionError> {
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        let first = NodeMessage { message: Some(Message::Hello(hello)) };
        outgoing.try_send(first).map_err(|_| SessionError::Gone)?;
        let mut client = NodeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let opening = client.open_session(ReceiverStream::new(messages));
        let opened = timeout(OPEN_WITHIN, opening).await.map_err(|_| SessionError::Silent)?;
        let incoming = opened.map_err(|status| SessionError::Ended(Box::new(status)))?.into_inner();
        Ok(Self { outgoing, incoming, channel, sent: VecDeque::new(), counted: Instant::now() })
    }

    /// The next configuration; what else is said before the server runs has no meaning.
    pub(super) async fn configuration(&mut self) -> Result<Configuration, SessionError> {
        loop {
            if let Some(Said::Configuration(configuration)) = self.next().await? {
                return Ok(configuration);
            }
        }
    }

    pub(super) async fn refuse(&self, refusal: &Refusal) -> Result<(), SessionError> {
        let acknowledgement = Acknowledgement { epoch: Some(refusal.epoch()), refusal: refusal.to_string() };
        self.say(Message::Acknowledgement(acknowledgement)).await?;
        if refusal.is_out_of_step() { Err(SessionError::OutOfStep) } else { Ok(()) }
    }

    /// Ends the session after what was said has been taken.
    pub(super) async fn close(mut self) {
        drop(self.outgoing);
        let ended = async { while let Ok(Some(_)) = self.incoming.message().await {} };
        // It is over then in any case.
        let _ = timeout(CLOSE_WITHIN, ended).await;
    }

    async fn next(&mut self) -> Result<Option<Said>, SessionError> {
        match self.incoming.message().await {
            Ok(Some(message)) => Ok(message.message),
            Ok(None) => Err(SessionError::Gone),
            Err(status) => Err(SessionError::Ended(Box::new(status))),
        }
    }

    async fn say(&self, message: Message) -> Result<(), SessionError> {
        let saying = self.outgoing.send(NodeMessage { message: Some(message) });
        match timeout(SAY_WITHIN, saying).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SessionError::Gone),
            Err(_) => Err(SessionError::Silent),
        }
    }

    /// Takes an acknowledgement in; what it covers is not waited for any more.
    fn count(&mut self, upto: UsageAcknowledgement) {
        let upto = (upto.usage_epoch, upto.sequence);
        while self.sent.front().is_some_and(|name| *name <= upto) {
            self.sent.pop_front();
            self.counted = Instant::now();
        }
    }

    /// How many more records may be sent now, and whether those that were sent must be sent again.
    fn window(&mut self) -> (usize, bool) {
        if self.sent.is_empty() {
            self.counted = Instant::now();
        }
        let is_stuck = self.counted.elapsed() > COUNT_WITHIN;
        if is_stuck {
            self.sent.clear();
            self.counted = Instant::now();
        }
        (USAGE_WINDOW.saturating_sub(self.sent.len()), is_stuck)
    }
}

/// What a turn of the session is about.
enum Turn {
    Said(Box<Result<Option<Said>, SessionError>>),
    Report,
    Usage,
}

impl Control {
    /// Lives through a session. Why it ended is what it returns.
    pub(super) async fn serve(&mut self, mut session: Session, shards: &Shards) -> SessionError {
        let error = self.turns(&mut session, shards).await;
        if matches!(error, SessionError::OutOfStep) {
            self.standing.wants_everything = true;
            session.close().await;
        }
        error
    }

    async fn turns(&mut self, session: &mut Session, shards: &Shards) -> SessionError {
        self.published.channel.send_replace(Some(session.channel.clone()));
        let (mut reports, mut usage) = (interval(REPORT_EVERY), interval(USAGE_EVERY));
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        usage.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if !self.standing.wants_everything
            && let Err(error) = session.say(self.acknowledgement()).await
        {
            return error;
        }
        loop {
            let turn = tokio::select! {
                said = session.next() => Turn::Said(Box::new(said)),
                _ = reports.tick() => Turn::Report,
                _ = usage.tick() => Turn::Usage,
            };
            let outcome = match turn {
                Turn::Said(said) => match *said {
                    Ok(Some(said)) => self.hear(session, shards, said).await,
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                },
                Turn::Report => self.report(session, shards).await,
                Turn::Usage => self.send_usage(session).await,
            };
            if let Err(error) = outcome {
                return error;
            }
        }
    }

    async fn hear(&mut self, session: &mut Session, shards: &Shards, said: Said) -> Result<(), SessionError> {
        match said {
            Said::Configuration(configuration) => self.change(session, shards, configuration).await,
            Said::UsageAcknowledgement(upto) => {
                session.count(upto);
                self.journal.with(move |journal| journal.acknowledge(upto.usage_epoch, upto.sequence)).await;
                self.send_usage(session).await
            }
            Said::Question(question) => {
                let answer = answers::answer(self.machine.member, shards, question).await;
                session.say(Message::Answer(answer)).await
            }
        }
    }

    /// Puts a configuration in force on every shard, keeps it, and says so; or says why not.
    async fn change(
        &mut self,
        session: &Session,
        shards: &Shards,
        said: Configuration,
    ) -> Result<(), SessionError> {
        let accepted = match self.accept(said) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                tracing::warn!(%refusal, "a configuration is refused");
                return session.refuse(&refusal).await;
            }
        };
        let credentials = Arc::clone(&accepted.applied.credentials);
        shards.apply(Arc::new(accepted.applied)).await;
        self.standing = Standing { configuration: accepted.configuration, wants_everything: false };
        let epoch = self.standing.configuration.epoch.unwrap_or_default();
        tracing::debug!(generation = epoch.generation, counter = epoch.counter, "epoch in force");
        self.publish(credentials);
        self.keep().await;
        session.say(self.acknowledgement()).await
    }

    fn acknowledgement(&self) -> Message {
        let epoch = self.standing.configuration.epoch;
        Message::Acknowledgement(Acknowledgement { epoch, refusal: String::new() })
    }

    async fn report(&self, session: &Session, shards: &Shards) -> Result<(), SessionError> {
        let in_use = shards.slices_in_use();
        let claims = claims::claims(&self.standing.configuration, self.machine.member, &in_use);
        self.health.set_slices_in_use(in_use);
        let journal_failing = self.journal.with(|journal| journal.failing_since_unix_s()).await;
        let mut report = self.health.report(shards, journal_failing.unwrap_or_default()).await;
        report.epoch = self.standing.configuration.epoch;
        report.claims = claims;
        let table = self.standing.configuration.table.as_ref().and_then(rows::table);
        if let Some(table) = table {
            (report.row, report.row_flows) = rows::flows_by_row(&table, &shards.flows().await);
        }
        session.say(Message::Report(report)).await
    }

    async fn send_usage(&self, session: &mut Session) -> Result<(), SessionError> {
        let (window, is_stuck) = session.window();
        if is_stuck {
            tracing::warn!("usage was not counted for long: it is sent again");
            self.journal.with(|journal| journal.rewind()).await;
        }
        let take = move |journal: &mut crate::journal::Journal| -> Vec<UsageRecord> {
            std::iter::from_fn(|| journal.next_record()).take(window).collect()
        };
        for record in self.journal.with(take).await.unwrap_or_default() {
            session.sent.push_back((record.usage_epoch, record.sequence));
            session.say(Message::Usage(record)).await?;
        }
        Ok(())
    }
}

/// Messages that may wait for the network.
const OUTGOING_MAX: usize = 64;
/// A replica that hangs is left.
const SAY_WITHIN: Duration = Duration::from_secs(10);
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
const OPEN_WITHIN: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_secs(2);
const USAGE_EVERY: Duration = Duration::from_secs(1);
/// Records that may wait to be counted.
const USAGE_WINDOW: usize = 32;
const COUNT_WITHIN: Duration = Duration::from_secs(15);
/// 10,000 keys, 50,000 revocations, 10,000 members and a table of 65,536 rows stay below.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
