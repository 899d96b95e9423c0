//! This server and its control plane: what it is told it puts in force on every shard, keeps on disk, and confirms;
//! it reports how it is, sends its usage, and answers questions.
//!
//! **Nothing here is waited for by the data path.** While no replica answers, the server goes on with what it has, and
//! starts with it, too. An epoch that is not greater than the one in force is never applied.

pub mod answers;
pub mod claims;
pub mod membership;
pub mod report;
pub mod rows;
pub mod session;
pub mod terms;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use trunkline_control_plane::configuration;
use trunkline_control_plane::connector::{ConnectError, Endpoint, Trust, connect_any};
use trunkline_proto::fleet::v1::{Configuration, Epoch};
use trunkline_proto::node::v1::Hello;
use trunkline_turn::credentials::Credentials;

use crate::cache::Cache;
use crate::keys::InForce;
use crate::shard::{Applied, Shards};
use crate::usage::SharedJournal;

use report::Health;
use session::{Session, SessionError};
use terms::{Machine, Unusable};

/// The way to the control plane.
pub struct Way {
    /// Any of these will do.
    pub endpoints: Vec<Endpoint>,
    /// What we show and trust there.
    pub trust: Trust,
}

/// What the rest of the process learns from the control plane.
pub struct Published {
    /// Credentials in force.
    pub in_force: watch::Sender<InForce>,
    /// To the control plane, while it answers.
    pub channel: watch::Sender<Option<Channel>>,
}

/// This server's side of the control plane.
pub struct Control {
    way: Way,
    machine: Machine,
    /// What is the same in every Hello of this process.
    hello: Hello,
    /// None where the control plane is in this process: its store is the memory.
    cache: Option<Cache>,
    journal: SharedJournal,
    health: Arc<Health>,
    published: Published,
    standing: Standing,
}

/// The configuration that this server goes by.
#[derive(Default)]
struct Standing {
    configuration: Configuration,
    /// The replica is to send everything, whatever we have.
    wants_everything: bool,
}

/// What a server starts with.
pub struct First {
    /// For the shards.
    pub applied: Applied,
    /// With the replica that said so; none when it is what was kept.
    pub session: Option<Session>,
}

impl Control {
    /// Nothing is begun yet.
    #[must_use]
    pub fn new(
        way: Way,
        machine: Machine,
        hello: Hello,
        cache: Option<Cache>,
        journal: SharedJournal,
        health: Arc<Health>,
        published: Published,
    ) -> Self {
        let standing = Standing { wants_everything: true, ..Standing::default() };
        Self { way, machine, hello, cache, journal, health, published, standing }
    }

    /// Waits for a configuration: the control plane's, or after [`KEPT_AFTER`] the one that was kept. Without either it
    /// waits on, and says so.
    pub async fn first(&mut self) -> First {
        let begun = Instant::now();
        let mut kept = self.kept();
        if let Some((configuration, _)) = &kept {
            self.standing.configuration = configuration.clone();
        }
        let (mut backoff, mut said) = (Backoff::default(), begun);
        loop {
            let left = KEPT_AFTER.saturating_sub(begun.elapsed());
            let patience = if kept.is_some() { left } else { FIRST_WITHIN };
            let outcome = timeout(patience, self.open_first()).await;
            let error = match outcome {
                Ok(Ok((session, applied))) => {
                    self.publish(Arc::clone(&applied.credentials));
                    return First { applied, session: Some(session) };
                }
                Ok(Err(error)) => error,
                Err(_) => SessionError::Silent,
            };
            if begun.elapsed() >= KEPT_AFTER
                && let Some((_, applied)) = kept.take()
            {
                tracing::warn!(%error, "no control plane: starting with the configuration that was kept");
                self.publish(Arc::clone(&applied.credentials));
                return First { applied, session: None };
            }
            if said == begun || said.elapsed() >= SAY_EVERY {
                tracing::warn!(%error, "waiting for the control plane");
                said = Instant::now();
            }
            let pause = backoff.pause();
            let left = KEPT_AFTER.saturating_sub(begun.elapsed());
            sleep(if kept.is_some() { pause.min(left) } else { pause }).await;
        }
    }

    /// Lives with the control plane for ever, from one session to the next.
    pub async fn run(mut self, shards: Shards, first: Option<Session>) {
        let (mut next, mut backoff, mut is_away) = (first, Backoff::default(), false);
        loop {
            let opened = match next.take() {
                Some(session) => Ok(session),
                None => self.open().await,
            };
            let error = match opened {
                Ok(session) => {
                    tracing::info!("connected to the control plane");
                    is_away = false;
                    let begun = Instant::now();
                    let error = self.serve(session, &shards).await;
                    self.published.channel.send_replace(None);
                    if begun.elapsed() > SESSION_WORTH {
                        backoff = Backoff::default();
                    }
                    error
                }
                Err(error) => error,
            };
            if !is_away {
                tracing::warn!(%error, "no control plane: this server goes on with what it has");
            }
            is_away = true;
            sleep(backoff.pause()).await;
        }
    }

    async fn open(&mut self) -> Result<Session, SessionError> {
        let channel = connect_any(&self.way.endpoints, &self.way.trust).await?;
        let standing = &self.standing.configuration;
        let digest = if self.standing.wants_everything { vec![] } else { standing.digest.clone() };
        let usage_epoch = self.journal.with(|journal| {
            journal.rewind();
            journal.epoch()
        });
        let hello = Hello {
            epoch: standing.epoch,
            digest,
            claims: claims::claims(standing, self.machine.member, &self.health.slices_in_use()),
            usage_epoch: usage_epoch.await.unwrap_or_default(),
            ..self.hello.clone()
        };
        Session::open(channel, hello).await
    }

    /// A session up to its first configuration that this server can run with.
    async fn open_first(&mut self) -> Result<(Session, Applied), SessionError> {
        let mut session = self.open().await?;
        loop {
            let said = session.configuration().await?;
            match self.accept(said) {
                Ok(accepted) => {
                    self.standing =
                        Standing { configuration: accepted.configuration, wants_everything: false };
                    self.keep().await;
                    return Ok((session, accepted.applied));
                }
                Err(refusal) => {
                    tracing::warn!(%refusal, "a configuration is refused");
                    if let Err(error) = session.refuse(&refusal).await {
                        session.close().await;
                        return Err(error);
                    }
                }
            }
        }
    }

    /// What was kept, when this server can run with it.
    fn kept(&self) -> Option<(Configuration, Applied)> {
        let kept = self.cache.as_ref()?.load();
        let configuration = match kept {
            Ok(kept) => kept?,
            Err(error) => {
                tracing::error!(%error, "starting needs the control plane");
                self.health.set_fault("cache", Some(error.to_string()));
                return None;
            }
        };
        match self.machine.applied(&configuration) {
            Ok(applied) => Some((configuration, applied)),
            Err(error) => {
                tracing::error!(%error, "the configuration that was kept does not fit this machine");
                None
            }
        }
    }

    /// Keeps what is in force. A disk that refuses takes nothing out of force.
    async fn keep(&self) {
        let Some(cache) = self.cache.clone() else { return };
        let configuration = self.standing.configuration.clone();
        let kept = tokio::task::spawn_blocking(move || cache.keep(&configuration)).await;
        let fault = match kept {
            Ok(Err(error)) => Some(error.to_string()),
            Ok(Ok(())) | Err(_) => None,
        };
        if let Some(fault) = &fault {
            tracing::warn!(
                fault,
                "the configuration in force is not kept: a restart now begins with an older one"
            );
        }
        self.health.set_fault("cache", fault);
    }

    fn publish(&self, credentials: Arc<Credentials>) {
        let configuration = &self.standing.configuration;
        let epoch = configuration.epoch.unwrap_or_default();
        tracing::debug!(generation = epoch.generation, counter = epoch.counter, "epoch in force");
        self.published.in_force.send_replace(InForce { epoch, credentials });
        self.health.set_draining(configuration.draining);
    }

    /// The configuration after this message.
    fn accept(&self, said: Configuration) -> Result<Accepted, Refusal> {
        let epoch = said.epoch.unwrap_or_default();
        let ours = &self.standing.configuration;
        let is_ours = said.base.is_none() && said.epoch == ours.epoch && said.digest == ours.digest;
        let full = if is_ours && configuration::digest(&said)[..] == said.digest[..] {
            // What was kept is what is in force in the fleet.
            said
        } else {
            configuration::apply(ours, said).map_err(|cause| Refusal::Configuration { epoch, cause })?
        };
        let applied = self.machine.applied(&full);
        let applied = applied.map_err(|cause| Refusal::Unusable { epoch, cause })?;
        Ok(Accepted { configuration: full, applied })
    }
}

/// A configuration that this server can run with.
struct Accepted {
    configuration: Configuration,
    applied: Applied,
}

/// Why a configuration is not applied.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// It is none that can follow ours.
    #[error("{cause}")]
    Configuration { epoch: Epoch, cause: configuration::Refusal },
    /// This machine cannot run with it.
    #[error("{cause}")]
    Unusable { epoch: Epoch, cause: Unusable },
}

impl Refusal {
    const fn epoch(&self) -> Epoch {
        match self {
            Self::Configuration { epoch, .. } | Self::Unusable { epoch, .. } => *epoch,
        }
    }

    /// What the replica thinks we have is not what we have: it must begin with everything.
    const fn is_out_of_step(&self) -> bool {
        use configuration::Refusal::{OtherBase, WrongDigest};
        matches!(self, Self::Configuration { cause: OtherBase | WrongDigest, .. })
    }
}

/// Pauses between attempts: doubling, with jitter, so that the servers of a fleet do not all come back at once.
#[derive(Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    fn pause(&mut self) -> Duration {
        let most = PAUSE_MIN.saturating_mul(1 << self.attempts.min(8)).min(PAUSE_MAX);
        self.attempts = self.attempts.saturating_add(1);
        let mut random = [0; 2];
        // Without random bytes it is a pause all the same.
        let _ = getrandom::fill(&mut random);
        most / 2 + (most / 2).mul_f64(f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX))
    }
}

impl From<ConnectError> for SessionError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

/// How long a server that kept a configuration looks for a newer one before it starts.
const KEPT_AFTER: Duration = Duration::from_secs(3);
/// How long one attempt may take.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
const SAY_EVERY: Duration = Duration::from_secs(10);
/// A session that lasted so long was a good one.
const SESSION_WORTH: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
