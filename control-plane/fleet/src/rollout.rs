//! New settings reach one server first, then a tenth, then a whole site, then all; one that refuses them or falls
//! ill stops the rest.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_wire::NodeId;

/// A server in a roll-out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// It reports.
    pub is_live: bool,
    /// The new settings are in force on it.
    pub has_new: bool,
    /// Why it refused them, or what is wrong with it since.
    pub trouble: Option<String>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// These get the new settings as well.
    Advance(BTreeSet<NodeId>),
    /// Everybody has them.
    Done,
    /// Nobody else gets them.
    Stop(String),
}

/// What comes next after `reached` servers were given the new settings at `since_unix_s`.
#[must_use]
pub fn next(
    targets: &BTreeMap<NodeId, Target>,
    reached: &BTreeSet<NodeId>,
    since_unix_s: u64,
    now_unix_s: u64,
) -> Step {
    let of_reached = || targets.iter().filter(|(node, _)| reached.contains(node));
    let trouble = of_reached().find_map(|(node, target)| target.trouble.as_ref().map(|text| (node, text)));
    if let Some((node, text)) = trouble {
        return Step::Stop(format!("node {node}: {text}"));
    }
    let age_s = now_unix_s.saturating_sub(since_unix_s);
    if !of_reached().all(|(_, target)| target.has_new || !target.is_live) {
        return if age_s >= PATIENCE_S { Step::Stop(slow(of_reached())) } else { Step::Wait };
    }
    if !reached.is_empty() && age_s < WATCHED_S {
        return Step::Wait;
    }
    let wave = wave(targets, reached);
    match () {
        () if !wave.is_empty() => Step::Advance(wave),
        () if targets.keys().all(|node| reached.contains(node)) => Step::Done,
        // Nobody is there to try them.
        () => Step::Wait,
    }
}

fn slow<'a>(reached: impl Iterator<Item = (&'a NodeId, &'a Target)>) -> String {
    let slow =
        reached.filter(|(_, target)| target.is_live && !target.has_new).map(|(node, _)| node.to_string());
    format!("node {} did not take them over within {PATIENCE_S} s", slow.collect::<Vec<_>>().join(", "))
}

/// Who is next: live servers first, so that a silent one does not stand for all.
fn wave(targets: &BTreeMap<NodeId, Target>, reached: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let waiting: Vec<NodeId> = targets.keys().filter(|node| !reached.contains(node)).copied().collect();
    let live = waiting.iter().copied().filter(|node| targets.get(node).is_some_and(|target| target.is_live));
    let live: Vec<NodeId> = live.collect();
    let tenth = targets.len().div_ceil(10);
    if reached.is_empty() {
        return live.into_iter().take(1).collect();
    }
    if reached.len() < tenth && !live.is_empty() {
        return live.into_iter().take(tenth.saturating_sub(reached.len())).collect();
    }
    // A whole site, unless one has them all already.
    let sites: BTreeSet<u16> = targets.keys().map(|node| node.site).collect();
    let has_all = |site: u16| !waiting.iter().any(|node| node.site == site);
    if sites.len() > 1 && !sites.iter().any(|site| has_all(*site)) {
        let first = reached.iter().next().map_or(0, |node| node.site);
        return waiting.into_iter().filter(|node| node.site == first).collect();
    }
    waiting.into_iter().collect()
}

/// How long a wave is watched before the next.
const WATCHED_S: u64 = 3;
/// How long a live server may take to have them in force.
const PATIENCE_S: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(sites: u16, servers: u16) -> BTreeMap<NodeId, Target> {
        let nodes = (1..=sites).flat_map(|site| (1..=servers).map(move |server| NodeId { site, server }));
        nodes.map(|node| (node, Target { is_live: true, ..Target::default() })).collect()
    }

    #[test]
    fn waves_grow_from_one_server_to_all() {
        let mut targets = targets(4, 10);
        let (mut reached, mut waves) = (BTreeSet::new(), vec![]);
        let mut now = 0;
        loop {
            match next(&targets, &reached, now, now + 10) {
                Step::Advance(wave) => {
                    waves.push(wave.len());
                    for node in &wave {
                        targets.get_mut(node).unwrap().has_new = true;
                    }
                    reached.extend(wave);
                }
                Step::Done => break,
                other => panic!("{other:?}"),
            }
            now += 10;
        }
        assert_eq!(waves, [1, 3, 6, 30]);
    }

    #[test]
    fn silent_servers_neither_end_a_roll_out_nor_hold_it_up() {
        let mut all = targets(1, 30);
        all.values_mut().for_each(|target| target.is_live = false);
        assert_eq!(next(&all, &BTreeSet::new(), 0, 100), Step::Wait, "nobody is there to try the settings");
        let first = NodeId { site: 1, server: 1 };
        all.insert(first, Target { is_live: true, has_new: true, trouble: None });
        let Step::Advance(rest) = next(&all, &BTreeSet::from([first]), 0, 100) else { panic!("29 are left") };
        assert_eq!(rest.len(), 29);
        assert_eq!(next(&BTreeMap::new(), &BTreeSet::new(), 0, 100), Step::Done);
    }

    #[test]
    fn one_that_refuses_falls_ill_or_hangs_stops_the_rest() {
        let first = NodeId { site: 1, server: 1 };
        let reached = BTreeSet::from([first]);
        let mut all = targets(2, 2);
        all.get_mut(&first).unwrap().trouble = Some("settings.user_quota: refused".into());
        assert!(
            matches!(next(&all, &reached, 0, 100), Step::Stop(why) if why.contains("1.1: settings.user_quota"))
        );
        let all = targets(2, 2);
        assert_eq!(next(&all, &reached, 0, 30), Step::Wait);
        assert!(matches!(next(&all, &reached, 0, 60), Step::Stop(why) if why.contains("1.1")));
    }
}
