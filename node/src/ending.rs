//! The end of a node: a signal, then no new allocations, then nothing.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::Api;
use crate::shard::Shards;

/// SIGTERM and Ctrl-C.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on, both come here.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for a signal; then until no allocation is left, the grace is over, or another signal comes.
pub(crate) async fn until_ended(shards: &Shards, api: &Api, grace: Duration, mut signals: Signals) {
    signals.next().await;
    let end = Instant::now() + grace;
    api.ending.store(true, Ordering::Relaxed);
    shards.amend(|applied| applied.draining = true).await;
    let live = shards.allocation_count();
    tracing::info!(
        live,
        grace_s = grace.as_secs(),
        "ending: no new allocations; a second signal ends it at once"
    );
    let drained = async {
        // An allocation made just before the signal is counted a moment later.
        sleep(COUNTED_AFTER).await;
        while shards.allocation_count() > 0 {
            sleep(LOOK_EVERY).await;
        }
    };
    let outcome = timeout_at(end, async {
        tokio::select! {
            () = drained => "no allocation was left",
            () = signals.next() => "a second signal came",
        }
    });
    let why = outcome.await.unwrap_or("the grace was over");
    tracing::info!(live = shards.allocation_count(), "ended: {why}");
}

/// The shards' counts are at most this old.
const COUNTED_AFTER: Duration = Duration::from_millis(150);
const LOOK_EVERY: Duration = Duration::from_millis(50);
