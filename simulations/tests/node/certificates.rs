//! A certificate that is replaced while the server runs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use trunkline_simulations::server::ScratchDirectory;

use crate::site::{Carrier, Check, Family, Site, TURN_TLS, on_site, relays_both_ways};
use crate::{Named, tls};

pub const TRIALS: &[Named] =
    &[("a_replaced_certificate_is_used_without_a_restart_and_a_broken_one_is_not", replaced)];

fn replaced() -> Result<(), String> {
    let files = ScratchDirectory::new()?;
    let (certificate, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
    let first = write(&certificate, &key).map_err(|fault| format!("{fault:#}"))?;
    let (shown, private) = (certificate.display().to_string(), key.display().to_string());
    on_site(&["--tls-cert", &shown, "--tls-key", &private], |site| replace(site, &first, &certificate, &key))
}

fn replace(site: &mut Site, first: &[u8], certificate: &Path, key: &Path) -> Check {
    ensure!(tls::certificate_of(TURN_TLS)? == first, "another certificate than the one given");
    let (mut over_tls, at_tls) = site.allocated(Carrier::Tls, Family::V4)?;
    let (mut over_tcp, at_tcp) = site.allocated(Carrier::Tcp, Family::V4)?;

    let second = write(certificate, key)?;
    let written = Instant::now();
    while tls::certificate_of(TURN_TLS)? != second {
        ensure!(written.elapsed() < SEEN_WITHIN, "the new certificate is not shown after {SEEN_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("the new certificate was shown after {:?}", written.elapsed());
    relays_both_ways(&mut over_tls, at_tls.relayed).context("over the old TLS connection")?;
    relays_both_ways(&mut over_tcp, at_tcp.relayed)?;

    std::fs::write(certificate, "-----BEGIN CERTIFICATE-----\nnot base64!\n")?;
    let broken = Instant::now();
    while !site.node.running.log().contains("the new TLS certificate cannot be used") {
        ensure!(broken.elapsed() < SEEN_WITHIN, "the broken file is not reported after {SEEN_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(tls::certificate_of(TURN_TLS)? == second, "the broken file took the certificate away");
    let (mut fresh, at_fresh) = site.allocated(Carrier::Tls, Family::V4)?;
    relays_both_ways(&mut fresh, at_fresh.relayed)?;

    // And it recovers from the broken one.
    let third = write(certificate, key)?;
    let written = Instant::now();
    while tls::certificate_of(TURN_TLS)? != third {
        ensure!(written.elapsed() < SEEN_WITHIN, "it does not recover from a broken file");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Writes a new pair of files; returns the certificate in DER.
fn write(certificate: &Path, key: &Path) -> anyhow::Result<Vec<u8>> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["turn.example.org".to_owned()])?;
    std::fs::write(certificate, cert.pem())?;
    std::fs::write(key, signing_key.serialize_pem())?;
    Ok(cert.der().to_vec())
}

const SEEN_WITHIN: Duration = Duration::from_secs(10);
