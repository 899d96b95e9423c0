//! The addresses of a server: where clients and peers reach it.

use std::net::{IpAddr, SocketAddr};

use crate::addresses::{self, AddressError};
use crate::certificate::{Certificate, CertificateError, Source};
use crate::ice::Reachable;
use crate::options::Options;
use crate::shard::Listen;

/// The addresses of this server.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Clients talk to these.
    pub service: Vec<IpAddr>,
    /// Peers talk to these, and all their relay ports are ours.
    pub relay: Vec<IpAddr>,
    /// Peers talk to these, and their relay ports are leased in slices.
    pub shared: Vec<IpAddr>,
    /// Everything on this machine.
    pub machine: Vec<IpAddr>,
}

impl Places {
    /// Finds them, or says which of the named ones is not here.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn find(options: &Options) -> Result<Self, AddressError> {
        let named = [
            ("--address", &options.address),
            ("--relay-address", &options.relay_address),
            ("--shared-relay-address", &options.shared_relay_address),
            ("[fleet] slices", &options.leased_addresses()),
        ];
        for (option, ips) in named {
            ips.iter().try_for_each(|ip| addresses::check(*ip, option))?;
        }
        let shared = addresses::distinct(options.shared_relay_address.clone());
        let service = addresses::distinct(options.address.clone());
        let service = if service.is_empty() { addresses::usable()? } else { service };
        let relay = addresses::distinct(options.relay_address.clone());
        let relay = if relay.is_empty() && shared.is_empty() { service.clone() } else { relay };
        Ok(Self { service, relay, shared, machine: addresses::all()? })
    }

    /// Relay addresses that no other server may use. Private ones that nobody named, such as those of a bridge for
    /// containers, are the same on many machines and say nothing.
    #[must_use]
    pub fn claimed(&self, options: &Options) -> Vec<IpAddr> {
        let is_named = !options.address.is_empty() || !options.relay_address.is_empty();
        let is_private = |ip: &IpAddr| match ip {
            IpAddr::V4(v4) => v4.is_private(),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        self.relay.iter().copied().filter(|ip| is_named || !is_private(ip)).collect()
    }

    /// What `iceServers` name.
    #[must_use]
    pub fn reachable(&self, options: &Options) -> Reachable {
        Reachable {
            addresses: self.service.clone(),
            turn_port: options.turn_port,
            tls_port: options.tls_port,
        }
    }

    /// Where the shards listen.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn listen(&self, options: &Options, certificate: &Certificate) -> Result<Listen, CertificateError> {
        let at = |port: u16| self.service.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        Ok(Listen {
            turn: at(options.turn_port),
            tls: at(options.tls_port),
            tls_config: certificate.server_config()?,
        })
    }

    /// Where the certificate for clients comes from.
    #[must_use]
    pub fn certificate(&self, options: &Options) -> Source {
        match (&options.tls_cert, &options.tls_key) {
            (Some(certificate), Some(key)) => {
                Source::Files { certificate: certificate.clone(), key: key.clone() }
            }
            _ => Source::SelfSigned { directory: options.data_dir.clone(), addresses: self.service.clone() },
        }
    }

    /// Where clients listen, in words: "192.0.2.1:3478/udp".
    #[must_use]
    pub fn listening(&self, options: &Options) -> Vec<String> {
        let of_one = |ip: &IpAddr| {
            let (turn, tls) =
                (SocketAddr::new(*ip, options.turn_port), SocketAddr::new(*ip, options.tls_port));
            [format!("{turn}/udp"), format!("{turn}/tcp"), format!("{tls}/tls")]
        };
        self.service.iter().flat_map(of_one).collect()
    }
}
