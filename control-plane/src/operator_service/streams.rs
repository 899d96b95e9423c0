//! Answers that go on: the list of servers whenever it changes, and the audit log.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use trunkline_proto::operator::v1::{Event, ListNodesRequest, ListNodesResponse, WatchEventsRequest};

use super::sightings::Sightings;
use super::{Fault, nodes};
use crate::core::Core;
use crate::event;

/// The list now, and again whenever it is different, once a second at most.
///
/// # Errors
/// As [`nodes::list`].
pub fn nodes(
    core: Core,
    seen: Sightings,
    request: ListNodesRequest,
) -> Result<ReceiverStream<Result<ListNodesResponse, Status>>, Fault> {
    let first = nodes::list(&core.state(), &seen, &request)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut told = first;
        let mut news = Some(told.clone());
        loop {
            if let Some(list) = news.take()
                && sender.send(Ok(list)).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            match nodes::list(&core.state(), &seen, &request) {
                Ok(list) if timeless(&list) == timeless(&told) => {}
                Ok(list) => {
                    told = list.clone();
                    news = Some(list);
                }
                Err(fault) => {
                    // The one server that was asked for is gone: that is the end of the list.
                    let _ = sender.send(Err(fault.into())).await;
                    return;
                }
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// Without what changes by the mere passing of time.
fn timeless(list: &ListNodesResponse) -> ListNodesResponse {
    let mut list = list.clone();
    list.nodes.iter_mut().for_each(|node| node.reported_ms_ago = 0);
    list
}

/// The newest events, and with `follow` those to come.
///
/// # Errors
/// More are asked for than an answer has.
pub fn events(
    core: Core,
    request: WatchEventsRequest,
) -> Result<ReceiverStream<Result<Event, Status>>, Fault> {
    let last = match request.last {
        0 => LAST_DEFAULT,
        last @ 1..=LAST_MAX => last,
        last => return Err(Fault::malformed("last", format!("{last} is above {LAST_MAX}"))),
    };
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let done = match request.follow {
            true => event::follow(core.store(), last, &sender).await,
            false => event::tell(core.store(), last, &sender).await,
        };
        if let Err(error) = done {
            let _ = sender.send(Err(Fault::from(error).into())).await;
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// As `WatchNodes` says.
const EVERY: Duration = Duration::from_secs(1);
/// Messages that wait for a slow reader; the task waits after that.
const QUEUE: usize = 16;
/// As `WatchEventsRequest.last` says.
const LAST_DEFAULT: u32 = 100;
const LAST_MAX: u32 = 10_000;
