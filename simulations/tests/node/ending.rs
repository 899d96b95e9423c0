//! SIGTERM: no new allocations, what is there goes on, and the end comes within the grace.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;

use crate::Named;
use crate::site::{Carrier, Check, Family, Site, expect_refusal, on_site, relays_both_ways};

pub const TRIALS: &[Named] = &[
    ("after_sigterm_live_allocations_go_on_until_the_grace_is_over", || {
        on_site(&["--grace", "3"], until_the_grace_is_over)
    }),
    ("after_sigterm_it_ends_when_the_last_allocation_does", || {
        on_site(&["--grace", "60"], with_the_last_allocation)
    }),
    ("a_second_sigterm_ends_it_at_once", || on_site(&["--grace", "60"], at_the_second_signal)),
];

fn until_the_grace_is_over(site: &mut Site) -> Check {
    let (mut over_udp, at_udp) = site.allocated(Carrier::Udp, Family::V4)?;
    let (mut over_tls, at_tls) = site.allocated(Carrier::Tls, Family::V4)?;
    let mut early = site.client(Carrier::Tcp)?;
    early.binding()?;
    ensure!(ready(site)? == 200, "not ready before the signal");

    let signalled = terminate(site)?;
    for client in [&mut early, &mut site.client(Carrier::Udp)?] {
        expect_refusal(client.allocate(), 508)?;
    }
    while signalled.elapsed() < Duration::from_secs(2) {
        relays_both_ways(&mut over_udp, at_udp.relayed)?;
        relays_both_ways(&mut over_tls, at_tls.relayed)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    over_udp.refresh(600)?;
    ends_well(site)?;
    let took = signalled.elapsed();
    ensure!((2_900..4_500).contains(&took.as_millis()), "it took {took:?} with a grace of 3 s");
    Ok(())
}

fn with_the_last_allocation(site: &mut Site) -> Check {
    let (mut first, _) = site.allocated(Carrier::Udp, Family::V4)?;
    let (second, _) = site.allocated(Carrier::Tcp, Family::V4)?;
    terminate(site)?;
    first.refresh(0)?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(ready(site)? == 503, "it did not wait for the second client");
    let left = Instant::now();
    drop(second);
    ends_well(site)?;
    ensure!(left.elapsed() < Duration::from_secs(2), "it took {:?}", left.elapsed());
    Ok(())
}

fn at_the_second_signal(site: &mut Site) -> Check {
    let (mut client, allocated) = site.allocated(Carrier::Udp, Family::V4)?;
    terminate(site)?;
    relays_both_ways(&mut client, allocated.relayed)?;
    let signalled = Instant::now();
    site.node.running.terminate()?;
    ends_well(site)?;
    ensure!(signalled.elapsed() < Duration::from_secs(2), "it took {:?}", signalled.elapsed());
    Ok(())
}

/// Sends SIGTERM and waits until it shows; returns when it was sent.
fn terminate(site: &mut Site) -> anyhow::Result<Instant> {
    let signalled = Instant::now();
    site.node.running.terminate()?;
    while ready(site)? != 503 {
        ensure!(signalled.elapsed() < Duration::from_secs(1), "still ready a second after SIGTERM");
    }
    Ok(signalled)
}

fn ready(site: &Site) -> anyhow::Result<u16> {
    Ok(site.http("GET", "/readyz", "", &Value::Null)?.0)
}

fn ends_well(site: &mut Site) -> Check {
    let status = site.node.running.wait_for_exit(Duration::from_secs(10)).map_err(anyhow::Error::msg)?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    Ok(())
}
