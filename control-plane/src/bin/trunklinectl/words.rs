//! Words of the fleet as operators read and write them: `1.2` is server 2 of site 1, `(1, 7)` an epoch.

use trunkline_proto::fleet::v1::{Epoch, NodeId};
use trunkline_proto::operator::v1::Node;
use trunkline_proto::operator::v1::node::State;

/// Reads `SITE.SERVER`. What numbers there may be, the control plane says.
///
/// # Errors
/// Says the form.
pub fn parse_node(text: &str) -> Result<NodeId, String> {
    let numbers =
        text.split_once('.').and_then(|(site, server)| Some((site.parse().ok()?, server.parse().ok()?)));
    let (site, server) = numbers.ok_or("write SITE.SERVER, as in 1.3")?;
    Ok(NodeId { site, server })
}

/// `1.2`.
#[must_use]
pub fn node(id: Option<&NodeId>) -> String {
    id.map_or_else(|| "-".into(), |id| format!("{}.{}", id.site, id.server))
}

/// `1/7`: generation and counter.
#[must_use]
pub fn epoch(epoch: Option<&Epoch>) -> String {
    epoch.map_or_else(|| "-".into(), |epoch| format!("{}/{}", epoch.generation, epoch.counter))
}

/// A server's state, in a word.
#[must_use]
pub fn state(node: &Node) -> &'static str {
    match node.state() {
        State::Unspecified => "unknown",
        State::Expected => "expected",
        State::Ready => "ready",
        State::Draining => "draining",
        State::Drained => "drained",
        State::Dead => "dead",
        State::Faulty => "faulty",
    }
}

/// `1 row`, `2 rows`.
#[must_use]
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_site_and_server() {
        let id = parse_node("1.70000").expect("two numbers");
        assert_eq!(node(Some(&id)), "1.70000");
        for text in ["1", "1.", ".1", "a.b", "1.2.3", "-1.2", "1,2"] {
            assert!(parse_node(text).is_err(), "{text}");
        }
    }
}
