//! Several threads are one server: clients of different shards reach each other, and quotas hold across them.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use trunkline_simulations::turn_client::{Received, TurnClient};

use crate::Named;
use crate::site::{Carrier, Check, PATIENCE, Site, expect_refusal, on_site};

pub const TRIALS: &[Named] = &[
    ("ten_thousand_packets_between_clients_of_two_shards_arrive_in_order", || {
        on_site(&["--threads", "2"], between_shards)
    }),
    ("the_user_quota_holds_across_shards_and_transports", || {
        on_site(&["--threads", "2", "--user-quota", "3"], quota)
    }),
];

/// A client and where its relay is.
struct End {
    client: TurnClient,
    relayed: SocketAddr,
}

fn between_shards(site: &mut Site) -> Check {
    let mut pairs = pairs_across_shards(site)?;
    ensure!(pairs.len() >= 4, "only {} pairs of clients on different shards", pairs.len());
    pairs.truncate(4);
    for (first, second) in &mut pairs {
        first.client.channel_bind(CHANNEL, second.relayed)?;
        second.client.channel_bind(CHANNEL, first.relayed)?;
    }
    let before = site.drops()?;
    let rounds = PACKETS / (2 * pairs.len() as u32 * WINDOW);
    for round in 0..=rounds {
        let numbers = round * WINDOW..(round + 1) * WINDOW;
        for (first, second) in &mut pairs {
            for number in numbers.clone() {
                first.client.send_channel(CHANNEL, &number.to_be_bytes())?;
                second.client.send_channel(CHANNEL, &number.to_be_bytes())?;
            }
        }
        for (first, second) in &mut pairs {
            for number in numbers.clone() {
                expect_number(&mut first.client, number)?;
                expect_number(&mut second.client, number)?;
            }
        }
    }
    let dropped = site.drops()? - before;
    ensure!(dropped == 0, "{dropped} packets were dropped");
    Ok(())
}

/// Allocates until there are enough clients on both shards, and pairs them.
fn pairs_across_shards(site: &Site) -> anyhow::Result<Vec<(End, End)>> {
    let mut ends = HashMap::new();
    for _ in 0..24 {
        let mut client = site.client(Carrier::Udp)?;
        let relayed = client.allocate()?.relayed;
        ends.insert(relayed.to_string(), End { client, relayed });
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for allocation in site.allocations()? {
        let relayed = allocation["relays"][0].as_str().context("no relay")?;
        let id = allocation["id"].as_str().context("no id")?;
        let end = ends.remove(relayed).with_context(|| format!("{relayed} is nobody's"))?;
        if id.starts_with("0-") { first.push(end) } else { second.push(end) }
    }
    Ok(first.into_iter().zip(second).collect())
}

fn expect_number(client: &mut TurnClient, number: u32) -> Check {
    let received = client.receive(PATIENCE).with_context(|| format!("number {number}"))?;
    let expected = Received::Channel { channel: CHANNEL, data: number.to_be_bytes().to_vec() };
    ensure!(received == expected, "{received:?} instead of number {number}");
    Ok(())
}

fn quota(site: &mut Site) -> Check {
    let mut granted = Vec::new();
    for number in 0..40 {
        let carrier = if number % 2 == 0 { Carrier::Udp } else { Carrier::Tcp };
        let mut client = site.client(carrier)?;
        let outcome = client.allocate();
        if granted.len() < 3 {
            outcome.with_context(|| format!("client {number}"))?;
            granted.push(client);
        } else {
            expect_refusal(outcome, 486).with_context(|| format!("client {number}"))?;
        }
    }
    ensure!(site.allocations()?.len() == 3, "{:?}", site.allocations()?);
    // What one gives back, another one gets.
    granted[0].refresh(0)?;
    site.client(Carrier::Udp)?.allocate()?;
    expect_refusal(site.client(Carrier::Tcp)?.allocate(), 486)
}

const CHANNEL: u16 = 0x4001;
const PACKETS: u32 = 10_000;
/// Packets of one flow under way at once: a shard's queue to another holds 1,024.
const WINDOW: u32 = 32;
