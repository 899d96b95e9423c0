//! What each fault does to a client's packets, and that healing puts everything back.

use std::time::{Duration, Instant};

use trunkline_simulations::lab::Lab;
use trunkline_simulations::lab::faults::Action;

use crate::Run;
use crate::probing::{
    Echoes, burst, demand, flows, services, tally, wait_until_reached, wait_until_spread_over,
};
use crate::sites::example;

/// Name and program of each trial.
pub const TRIALS: [(&str, Run); 5] = [
    ("silent_server_is_avoided_and_comes_back", silent_server_is_avoided_and_comes_back),
    ("draining_server_is_the_last_resort", draining_server_is_the_last_resort),
    ("client_flips_to_another_site", client_flips_to_another_site),
    ("links_lose_packets_and_go_down", links_lose_packets_and_go_down),
    ("healing_leaves_no_trace", healing_leaves_no_trace),
];

fn silent_server_is_avoided_and_comes_back() -> Result<(), String> {
    let mut lab = Lab::up(&example("one_site.toml")?)?;
    let _echoes = Echoes::start(&lab)?;
    let [service, _] = services(&lab)?;
    let silent = format!("{}/ams-3", lab.name());
    demand(flows(&lab, "alice", service, 20_000..20_100)?.contains(&silent), "ams-3 had no flow")?;
    lab.inject(&Action::SilentDrop { server: "ams-3".into() })?;
    let lost = burst_over_flows(&lab)?;
    demand(lost > 0, "nobody noticed")?;
    wait_until_spread_over(&lab, "alice", service, 3)?;
    let reached = flows(&lab, "alice", service, 20_000..20_100)?;
    demand(!reached.contains(&silent), format!("{:?}", tally(&reached)))?;
    lab.inject(&Action::Heal { number: None })?;
    wait_until_spread_over(&lab, "alice", service, 4)?;
    Ok(())
}

/// Flows without an answer right now, of 20 new ones.
fn burst_over_flows(lab: &Lab) -> Result<usize, String> {
    let [service, _] = services(lab)?;
    let mut lost = 0;
    for port in 21_000..21_020 {
        lost += usize::from(flows(lab, "alice", service, port..port + 1).is_err());
        if lost > 0 {
            break;
        }
    }
    Ok(lost)
}

fn draining_server_is_the_last_resort() -> Result<(), String> {
    let mut lab = Lab::up(&example("two_sites.toml")?)?;
    let _echoes = Echoes::start(&lab)?;
    for service in services(&lab)? {
        lab.inject(&Action::Drain { server: "ams-1".into() })?;
        wait_until_reached(&lab, "alice", service, "ams-2")?;
        lab.inject(&Action::Drain { server: "ams-2".into() })?;
        wait_until_reached(&lab, "alice", service, "fra-")?;
        for server in ["fra-1", "fra-2"] {
            lab.inject(&Action::Withdraw { server: server.into() })?;
        }
        wait_until_reached(&lab, "carol", service, "ams-")?;
        lab.inject(&Action::Heal { number: None })?;
        wait_until_reached(&lab, "alice", service, "ams-")?;
        wait_until_reached(&lab, "carol", service, "fra-")?;
    }
    Ok(())
}

fn client_flips_to_another_site() -> Result<(), String> {
    let mut lab = Lab::up(&example("two_sites.toml")?)?;
    let _echoes = Echoes::start(&lab)?;
    let flip = |per_packet| Action::Flip { client: "alice".into(), to: "fra".into(), per_packet };
    for service in services(&lab)? {
        wait_until_reached(&lab, "alice", service, "ams-")?;
        lab.inject(&flip(false))?;
        demand(reached_site(&lab, "alice", service)? == ["fra"], "alice did not flip at once")?;
        demand(reached_site(&lab, "bob", service)? == ["ams"], "bob flipped with alice")?;
        lab.inject(&flip(true))?;
        let answers = burst(&lab, "alice", service, 1000)?;
        let of = |site: &str| -> usize {
            let at_site = answers.iter().filter(|(server, _)| server.contains(&format!("/{site}-")));
            at_site.map(|(_, count)| count).sum()
        };
        let halves = [of("ams"), of("fra")];
        demand(halves.iter().all(|half| (490..=500).contains(half)), format!("{answers:?}"))?;
        lab.inject(&Action::Heal { number: None })?;
        demand(reached_site(&lab, "alice", service)? == ["ams"], "alice did not flip back at once")?;
    }
    let nowhere = Action::Flip { client: "alice".into(), to: "lon".into(), per_packet: false };
    demand(lab.inject(&nowhere).is_err_and(|fault| fault.contains("lon")), "there is no such site")
}

fn reached_site(lab: &Lab, client: &str, service: std::net::IpAddr) -> Result<Vec<String>, String> {
    let reached = flows(lab, client, service, 22_000..22_020)?;
    let site = |server: &String| server.split(['/', '-']).nth(1).unwrap_or_default().to_owned();
    let mut sites: Vec<String> = reached.iter().map(site).collect();
    sites.sort();
    sites.dedup();
    Ok(sites)
}

fn links_lose_packets_and_go_down() -> Result<(), String> {
    let mut lab = Lab::up(&example("two_sites.toml")?)?;
    let _echoes = Echoes::start(&lab)?;
    let [service, _] = services(&lab)?;
    let answered = |lab: &Lab| Ok::<_, String>(burst(lab, "alice", service, 1000)?.values().sum::<usize>());
    demand(answered(&lab)? == 1000, "a link without a fault loses packets")?;
    lab.inject(&Action::Loss { a: "alice".into(), b: "west".into(), share: 0.5 })?;
    let both_ways = answered(&lab)?;
    // Half of a half: 250, with a standard deviation of 14.
    demand((160..340).contains(&both_ways), format!("{both_ways} of 1000 went both ways"))?;
    lab.inject(&Action::Heal { number: None })?;
    demand(answered(&lab)? == 1000, "the link still loses packets")?;

    lab.inject(&Action::LinkDown { a: "ams".into(), b: "west".into() })?;
    wait_until_reached(&lab, "alice", service, "fra-")?;
    lab.inject(&Action::LinkUp { a: "west".into(), b: "ams".into() })?;
    wait_until_reached(&lab, "alice", service, "ams-")?;
    let delay = Action::Delay { a: "west".into(), b: "ams".into(), ms: 5.0 };
    demand(lab.inject(&delay).is_err_and(|fault| fault.contains("delay_ms = 0")), "a plain link has no delay")
}

fn healing_leaves_no_trace() -> Result<(), String> {
    let mut lab = Lab::up(&example("two_sites.toml")?)?;
    let before = ground(&lab)?;
    let server = || "ams-1".to_owned();
    let actions = [
        Action::Flip { client: "alice".into(), to: "fra".into(), per_packet: true },
        Action::Flip { client: "bob".into(), to: "fra".into(), per_packet: false },
        Action::Loss { a: "west".into(), b: "middle".into(), share: 0.01 },
        Action::LinkDown { a: "east".into(), b: "middle".into() },
        Action::Freeze { server: server() },
        Action::SilentDrop { server: "ams-2".into() },
        Action::Withdraw { server: "fra-1".into() },
        Action::Drain { server: "fra-2".into() },
    ];
    for action in &actions {
        lab.inject(action)?;
    }
    demand(lab.faults()?.len() == actions.len(), "a fault was not written down")?;
    demand(Lab::open(lab.name())?.faults()? == lab.faults()?, "another command sees other faults")?;
    demand(ground(&lab)? != before, "the faults did nothing")?;
    lab.inject(&Action::Heal { number: None })?;
    demand(lab.faults()?.is_empty(), "a fault stayed")?;
    let since = Instant::now();
    loop {
        let after = ground(&lab)?;
        if after == before {
            return Ok(());
        }
        demand(since.elapsed() < PATIENCE, format!("before:\n{before}\nafter:\n{after}"))?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Routes, rules, filters and links of every router.
fn ground(lab: &Lab) -> Result<String, String> {
    let commands = [
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "ip -br link",
        "nft list ruleset",
    ];
    let mut text = String::new();
    for machine in lab.plan().machines.iter().filter(|machine| machine.kind.forwards()) {
        for command in commands {
            let words: Vec<&str> = command.split(' ').collect();
            let output = lab.entrance(&machine.name)?.command(words[0]).args(&words[1..]).output();
            let output = output.map_err(|error| format!("{command}: {error}"))?;
            let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
                .lines()
                .map(|line| format!("{}: {line}\n", machine.name))
                .collect();
            lines.sort();
            text.push_str(&lines.concat());
        }
    }
    Ok(text)
}

const PATIENCE: Duration = Duration::from_secs(10);
