//! One site spreads flows over its servers; of two sites each client reaches the nearest.

use std::path::Path;

use trunkline_simulations::lab::Lab;
use trunkline_simulations::lab::faults::Action;
use trunkline_simulations::lab::topology::Topology;

use crate::Run;
use crate::probing::{Echoes, demand, flows, services, tally, wait_until_reached, wait_until_spread_over};

/// Name and program of each trial.
pub const TRIALS: [(&str, Run); 4] = [
    ("flows_spread_over_all_servers_and_each_stays", flows_spread_over_all_servers_and_each_stays),
    ("killed_announcement_moves_its_flows", killed_announcement_moves_its_flows),
    ("client_reaches_the_nearest_site_that_announces", client_reaches_the_nearest_site_that_announces),
    ("two_labs_run_side_by_side", two_labs_run_side_by_side),
];

/// A topology that the repository gives as an example.
pub fn example(name: &str) -> Result<Topology, String> {
    Topology::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies").join(name))
}

fn flows_spread_over_all_servers_and_each_stays() -> Result<(), String> {
    let lab = Lab::up(&example("one_site.toml")?)?;
    let _echoes = Echoes::start(&lab)?;
    for service in services(&lab)? {
        let first = flows(&lab, "alice", service, 20_000..21_000)?;
        let tally = tally(&first);
        // 250 each; 150 is seven standard deviations away.
        let is_fair = tally.len() == 4 && tally.values().all(|flows| (150..350).contains(flows));
        demand(is_fair, format!("{service}: {tally:?}"))?;
        let again = flows(&lab, "alice", service, 20_000..21_000)?;
        demand(first == again, format!("{service}: a flow reached another server than before"))?;
    }
    Ok(())
}

fn killed_announcement_moves_its_flows() -> Result<(), String> {
    let mut lab = Lab::up(&example("one_site.toml")?)?;
    let _echoes = Echoes::start(&lab)?;
    let [service, _] = services(&lab)?;
    let with_all = flows(&lab, "alice", service, 20_000..20_200)?;
    let victim = format!("{}/ams-2", lab.name());
    demand(with_all.contains(&victim), "ams-2 had no flow before")?;
    lab.inject(&Action::Kill { server: "ams-2".into() })?;
    wait_until_spread_over(&lab, "alice", service, 3)?;
    let without = flows(&lab, "alice", service, 20_000..20_200)?;
    demand(!without.contains(&victim), format!("{:?}", tally(&without)))?;
    lab.inject(&Action::Heal { number: None })?;
    wait_until_spread_over(&lab, "alice", service, 4)?;
    Ok(())
}

fn client_reaches_the_nearest_site_that_announces() -> Result<(), String> {
    let mut lab = Lab::up(&example("two_sites.toml")?)?;
    let _echoes = Echoes::start(&lab)?;
    for service in services(&lab)? {
        wait_until_reached(&lab, "alice", service, "ams-")?;
        wait_until_reached(&lab, "carol", service, "fra-")?;
        for server in ["ams-1", "ams-2"] {
            lab.inject(&Action::Withdraw { server: server.into() })?;
        }
        wait_until_reached(&lab, "alice", service, "fra-")?;
        lab.inject(&Action::Announce { server: "ams-2".into() })?;
        wait_until_reached(&lab, "alice", service, "ams-2")?;
        lab.inject(&Action::Heal { number: None })?;
    }
    Ok(())
}

/// Both have the same addresses, and no packet finds its way from one to the other.
fn two_labs_run_side_by_side() -> Result<(), String> {
    let (one, mut other) = (Lab::up(&example("one_site.toml")?)?, Lab::up(&example("one_site.toml")?)?);
    let _echoes = [Echoes::start(&one)?, Echoes::start(&other)?];
    let [service, _] = services(&one)?;
    for lab in [&one, &other] {
        let own = format!("{}/", lab.name());
        let reached = flows(lab, "alice", service, 20_000..20_050)?;
        demand(reached.iter().all(|server| server.starts_with(&own)), format!("{reached:?}"))?;
    }
    for number in 1..=4 {
        other.inject(&Action::Kill { server: format!("ams-{number}") })?;
    }
    drop(other);
    flows(&one, "alice", service, 20_000..20_050).map(|_| ())
}
