//! What `trunkline control-plane` is told.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::identity;
use crate::pki::files::Files;
use crate::store::{EtcdOptions, EtcdTls};

/// Options of a replica of the control plane.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Members of etcd, with commas between them: http://10.0.0.1:2379,http://10.0.0.2:2379
    #[arg(long, value_name = "URL", required = true, value_delimiter = ',', env = "TRUNKLINE_ETCD")]
    pub etcd: Vec<String>,
    /// What every key in etcd starts with; another fleet in the same etcd needs another
    #[arg(long, value_name = "PREFIX", default_value = "trunkline/")]
    pub etcd_prefix: String,
    /// PEM of who signs etcd's certificates, for https endpoints
    #[arg(long, value_name = "FILE")]
    pub etcd_roots: Option<PathBuf>,
    /// PEM of the certificate that etcd is shown, where it asks for one
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,
    /// PEM of its key
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// Where servers, operators and other replicas connect
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7443")]
    pub listen: SocketAddr,
    /// Where other replicas reach this one [default: --listen, or this machine's name where that is every address]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub advertise: Option<String>,
    /// Unique among the replicas [default: this machine's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// PEM of this replica's certificate chain: `trunklinectl ca issue replica NAME` makes it
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// PEM of its key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// PEM of every root that servers, operators and other replicas may present
    #[arg(long, value_name = "FILE")]
    pub roots: PathBuf,
    /// PEM of the issuer that signs servers' certificates; without it no server can join or renew here
    #[arg(long, value_name = "FILE", requires = "issuer_key")]
    pub issuer_cert: Option<PathBuf>,
    /// PEM of the issuer's key
    #[arg(long, value_name = "FILE", requires = "issuer_cert")]
    pub issuer_key: Option<PathBuf>,
    /// The key that secrets in etcd are sealed with, the same on every replica: `trunklinectl ca init` makes it
    #[arg(long, value_name = "FILE")]
    pub store_key: PathBuf,
    /// What is logged to standard error: error, warn, info, debug, or a filter such as info,trunkline_control_plane=debug
    #[arg(long, value_name = "FILTER", default_value = "info", env = "TRUNKLINE_LOG")]
    pub log: String,
}

/// An option that does not fit the others, or a file behind one.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The replica has no usable name.
    #[error("--name: {0:?} is not 1 to 64 letters, digits, '.', '_', '-' and '@'")]
    Name(String),
    /// A file cannot be read.
    #[error("--{option} {path}: {error}")]
    File {
        /// Which.
        option: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// An https endpoint without anything to check it against.
    #[error("--etcd-roots is missing: {0} is https, and its certificate must be checked")]
    EtcdRoots(String),
}

impl Options {
    /// What this replica shows and trusts.
    #[must_use]
    pub fn files(&self) -> Files {
        Files { roots: self.roots.clone(), certificate: self.cert.clone(), key: self.key.clone() }
    }

    /// This replica's name.
    ///
    /// # Errors
    /// [`Unfit::Name`].
    pub fn replica_name(&self) -> Result<String, Unfit> {
        let name = self.name.clone().unwrap_or_else(machine_name);
        if identity::is_plain(&name) { Ok(name) } else { Err(Unfit::Name(name)) }
    }

    /// Where other replicas reach this one, which is bound to `bound`.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| {
            if bound.ip().is_unspecified() {
                format!("{}:{}", machine_name(), bound.port())
            } else {
                bound.to_string()
            }
        })
    }

    /// How etcd is reached.
    ///
    /// # Errors
    /// [`Unfit`] names the option.
    pub fn etcd(&self) -> Result<EtcdOptions, Unfit> {
        let secure = self.etcd.iter().find(|endpoint| endpoint.starts_with("https://"));
        let tls = match (secure, &self.etcd_roots) {
            (None, _) => None,
            (Some(endpoint), None) => return Err(Unfit::EtcdRoots(endpoint.clone())),
            (Some(_), Some(roots)) => Some(EtcdTls {
                roots: read("etcd-roots", roots)?,
                identity: match (&self.etcd_cert, &self.etcd_key) {
                    (Some(cert), Some(key)) => Some((read("etcd-cert", cert)?, read("etcd-key", key)?)),
                    _ => None,
                },
            }),
        };
        Ok(EtcdOptions { endpoints: self.etcd.clone(), prefix: self.etcd_prefix.clone(), tls })
    }
}

fn read(option: &'static str, path: &std::path::Path) -> Result<Vec<u8>, Unfit> {
    std::fs::read(path).map_err(|error| Unfit::File { option, path: path.display().to_string(), error })
}

fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
