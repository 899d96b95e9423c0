//! `events`: the audit log, and what the control plane did by itself.

use clap::Args;
use trunkline_proto::operator::v1::{Event, WatchEventsRequest};

use crate::fault::Fault;
use crate::output::{Output, clean};
use crate::session::Session;
use crate::time;

/// Which events to show.
#[derive(Debug, Args)]
pub struct Events {
    /// Go on with what happens from now on, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// How many of those that are already there; 10,000 at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    last: u32,
}

/// Runs `events`.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn run(session: &mut Session, output: Output, events: &Events) -> Result<(), Fault> {
    let request = WatchEventsRequest { follow: events.follow, last: events.last };
    let mut order = Order::default();
    let show = |event: Event| if order.is_new(&event) { output.item(&event, line) } else { Ok(()) };
    session.listen(request, async |client, request| client.watch_events(request).await, show).await
}

/// After a lost connection the newest events come again: each is shown once.
#[derive(Default)]
struct Order {
    shown: std::collections::BTreeSet<(u64, String)>,
}

impl Order {
    fn is_new(&mut self, event: &Event) -> bool {
        let identity = (event.revision, format!("{} {} {}", event.unix_ms, event.what, event.subject));
        let is_new = self.shown.insert(identity);
        while self.shown.len() > REMEMBERED_MAX {
            self.shown.pop_first();
        }
        is_new
    }
}

/// As many as a replica sends again.
const REMEMBERED_MAX: usize = 10_000;

fn line(event: &Event) -> String {
    let mut text = format!(
        "{}  {}  {} {}",
        time::moment(event.unix_ms / 1_000),
        clean(&event.who),
        clean(&event.what),
        clean(&event.subject)
    );
    let change = match (event.before.is_empty(), event.after.is_empty()) {
        (true, true) => String::new(),
        (true, false) => format!(": {}", clean(&event.after)),
        (false, true) => format!(": {} → nothing", clean(&event.before)),
        (false, false) => format!(": {} → {}", clean(&event.before), clean(&event.after)),
    };
    text.push_str(&change);
    if !event.reason.is_empty() {
        text.push_str(&format!("  ({})", clean(&event.reason)));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64) -> Event {
        Event {
            unix_ms: 1_000_000_000_000,
            who: "operator alice".into(),
            what: "SetWeight".into(),
            subject: "node 1.2".into(),
            before: "1".into(),
            after: "0.5".into(),
            reason: "slow disk".into(),
            revision,
        }
    }

    #[test]
    fn an_event_is_a_line_with_who_what_before_and_after() {
        assert_eq!(
            line(&event(1)),
            "2001-09-09 01:46:40  operator alice  SetWeight node 1.2: 1 → 0.5  (slow disk)\n"
        );
    }

    #[test]
    fn an_event_that_comes_again_is_shown_once() {
        let mut order = Order::default();
        assert!(order.is_new(&event(1)));
        assert!(order.is_new(&event(2)));
        assert!(!order.is_new(&event(1)));
        for revision in 3..=20_000 {
            assert!(order.is_new(&event(revision)));
        }
        assert!(order.shown.len() <= REMEMBERED_MAX);
    }
}
