//! Payloads of every size: what is sent arrives as it was, or is dropped and counted; nothing is cut, nothing is lost
//! in silence.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use trunkline_simulations::turn_client::{ClientError, Received, TurnClient};

use crate::Named;
use crate::random::Random;
use crate::site::{Carrier, Check, Family, Site, on_site};

pub const TRIALS: &[Named] = &[
    ("payloads_of_every_size_over_udp_ipv4", || every_size(Carrier::Udp, Family::V4)),
    ("payloads_of_every_size_over_udp_ipv6", || every_size(Carrier::Udp, Family::V6)),
    ("payloads_of_every_size_over_tcp_ipv4", || every_size(Carrier::Tcp, Family::V4)),
    ("payloads_of_every_size_over_tcp_ipv6", || every_size(Carrier::Tcp, Family::V6)),
    ("payloads_of_every_size_over_tls_ipv4", || every_size(Carrier::Tls, Family::V4)),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Indication,
    Channel,
}

/// What became of the payloads.
#[derive(Default)]
struct Tally {
    arrived: usize,
    dropped: usize,
    /// Too large for a message of the client, or for a datagram of the sender.
    unsent: usize,
}

/// One client and one peer.
struct Pair<'a> {
    site: &'a Site,
    client: TurnClient,
    relayed: SocketAddr,
    peer: UdpSocket,
    peer_address: SocketAddr,
    drops: u64,
}

fn every_size(carrier: Carrier, family: Family) -> Result<(), String> {
    on_site(&["--max-bandwidth", "0"], |site| {
        for form in [Form::Indication, Form::Channel] {
            let mut pair = Pair::new(site, carrier, family, form)?;
            let (mut there, mut back) = (Tally::default(), Tally::default());
            let mut random = Random::new(1);
            for size in sizes() {
                let payload = random.bytes(size);
                let at = || format!("{size} bytes, {form:?}");
                pair.send_to_peer(form, &payload, &mut there)
                    .with_context(|| format!("{} to the peer", at()))?;
                pair.send_to_client(&payload, &mut back)
                    .with_context(|| format!("{} to the client", at()))?;
            }
            // Everything that fits must have arrived: over UDP a client's message has no room for the largest three.
            for tally in [&there, &back] {
                ensure!(
                    tally.arrived >= sizes().count() - 3,
                    "{form:?}: {} arrived, {} were dropped, {} could not be sent",
                    tally.arrived,
                    tally.dropped,
                    tally.unsent
                );
            }
        }
        Ok(())
    })
}

fn sizes() -> impl Iterator<Item = usize> {
    (0..=100).chain([1_199, 1_200, 1_472, 1_500, 4_096, 9_000, 16_384, 65_000, 65_503, 65_507])
}

impl<'a> Pair<'a> {
    fn new(site: &'a Site, carrier: Carrier, family: Family, form: Form) -> anyhow::Result<Self> {
        let (mut client, allocated) = site.allocated(carrier, family)?;
        let (peer, peer_address) = family.peer()?;
        match form {
            Form::Indication => client.create_permission(&[peer_address.ip()])?,
            Form::Channel => client.channel_bind(CHANNEL, peer_address)?,
        }
        // So that earlier requests and their challenges are counted.
        std::thread::sleep(Duration::from_millis(250));
        Ok(Self { site, client, relayed: allocated.relayed, peer, peer_address, drops: site.drops()? })
    }

    fn send_to_peer(&mut self, form: Form, payload: &[u8], tally: &mut Tally) -> Check {
        let address_bytes = if self.peer_address.is_ipv4() { 12 } else { 24 };
        let fits = match form {
            Form::Indication => 4 + payload.len().next_multiple_of(4) + address_bytes <= MESSAGE_LENGTH_MAX,
            Form::Channel => true,
        };
        if !fits {
            tally.unsent += 1;
            return Ok(());
        }
        let sent = match form {
            Form::Indication => self.client.send_indication(self.peer_address, payload),
            Form::Channel => self.client.send_channel(CHANNEL, payload),
        };
        if !was_sent(sent.map(|()| 0))? {
            tally.unsent += 1;
            return Ok(());
        }
        let mut buffer = vec![0; 70_000];
        self.outcome(tally, |pair, wait| {
            pair.peer.set_read_timeout(Some(wait))?;
            match pair.peer.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    ensure!(from == pair.relayed, "from {from}");
                    ensure!(buffer[..length] == *payload, "{length} bytes that are not those sent");
                    Ok(true)
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    fn send_to_client(&mut self, payload: &[u8], tally: &mut Tally) -> Check {
        if !was_sent(self.peer.send_to(payload, self.relayed))? {
            tally.unsent += 1;
            return Ok(());
        }
        self.outcome(tally, |pair, wait| {
            let (from, data) = match pair.client.receive(wait) {
                Ok(Received::Data { peer, data }) => (peer, data),
                Ok(Received::Channel { channel: CHANNEL, data }) => (pair.peer_address, data),
                Ok(other) => bail!("{other:?}"),
                Err(ClientError::Timeout) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            ensure!(from == pair.peer_address, "from {from}");
            ensure!(data == payload, "{} bytes that are not those sent", data.len());
            Ok(true)
        })
    }

    /// Waits until the payload has arrived or one more drop was counted, whichever it is.
    fn outcome(
        &mut self,
        tally: &mut Tally,
        mut arrived: impl FnMut(&mut Self, Duration) -> anyhow::Result<bool>,
    ) -> Check {
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if arrived(self, Duration::from_millis(150))? {
                tally.arrived += 1;
                return Ok(());
            }
            let drops = self.site.drops()?;
            if drops > self.drops {
                ensure!(drops == self.drops + 1, "{} drops counted for one payload", drops - self.drops);
                self.drops = drops;
                tally.dropped += 1;
                return Ok(());
            }
        }
        bail!("neither arrived nor counted as dropped")
    }
}

/// Whether the system took a datagram: it is larger than UDP allows otherwise.
fn was_sent(outcome: std::io::Result<usize>) -> anyhow::Result<bool> {
    match outcome {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

const CHANNEL: u16 = 0x4001;
/// Of a STUN message: 16 bits, a multiple of four.
const MESSAGE_LENGTH_MAX: usize = 65_532;
