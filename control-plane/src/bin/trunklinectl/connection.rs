//! Which replicas there are to ask and with which certificate, and a channel to one of them.

use std::path::{Path, PathBuf};

use tonic::transport::Channel;

use crate::fault::Fault;

/// How to reach the control plane; the same for every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConnectionOptions {
    /// A replica to ask: https://HOST:PORT, or unix:PATH of `trunkline up`; repeatable, the next is asked when one does
    /// not answer.
    ///
    /// Default: operator.sock in ./trunkline-data or ./data, where there is one.
    #[arg(long, global = true, value_name = "URL", env = "TRUNKLINE_ENDPOINT", value_delimiter = ',')]
    pub endpoint: Vec<String>,

    /// Directory with cert.pem, key.pem and roots.pem, as `trunklinectl ca issue` makes it.
    #[arg(long, global = true, value_name = "DIR", env = "TRUNKLINE_IDENTITY")]
    pub identity: Option<PathBuf>,

    /// Certificate chain of the operator, in PEM; wins over --identity.
    #[arg(long, global = true, value_name = "FILE", env = "TRUNKLINE_CERT")]
    pub cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM; wins over --identity.
    #[arg(long, global = true, value_name = "FILE", env = "TRUNKLINE_KEY")]
    pub key: Option<PathBuf>,

    /// Roots that replicas' certificates must come from, in PEM; wins over --identity.
    #[arg(long, global = true, value_name = "FILE", env = "TRUNKLINE_ROOTS")]
    pub roots: Option<PathBuf>,
}

/// Files of the operator's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots of the replicas.
    pub roots: PathBuf,
}

/// One address of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A URL: `https://10.0.0.5:7443`.
    Https(String),
    /// A socket of `trunkline up` on this machine.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Https(url) => f.write_str(url),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Every replica that may be asked.
pub struct Replicas {
    addresses: Vec<Address>,
    certificate: Option<Certificate>,
    /// The one to ask first.
    at: usize,
    has_answered: bool,
}

impl Replicas {
    /// From the command line.
    ///
    /// # Errors
    /// What is missing, and what to give.
    pub fn new(options: &ConnectionOptions, directory: &Path) -> Result<Self, Fault> {
        let addresses = match &options.endpoint[..] {
            [] => vec![default_address(directory)?],
            given => given.iter().map(|text| parse_address(text)).collect::<Result<_, _>>()?,
        };
        let is_remote = addresses.iter().any(|address| matches!(address, Address::Https(_)));
        let certificate = if is_remote { Some(certificate(options)?) } else { None };
        Ok(Self { addresses, certificate, at: 0, has_answered: false })
    }

    /// Where it asks.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The certificate that it shows.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// The same certificate, and one replica alone.
    #[must_use]
    pub fn only(&self, url: String) -> Self {
        let addresses = vec![Address::Https(url)];
        Self { addresses, certificate: self.certificate.clone(), at: 0, has_answered: false }
    }

    /// Whether one of them was connected to before.
    #[must_use]
    pub fn have_answered(&self) -> bool {
        self.has_answered
    }

    /// Begins with another one.
    pub fn next(&mut self) {
        self.at = (self.at + 1) % self.addresses.len().max(1);
    }

    /// Connects to the first that answers.
    ///
    /// # Errors
    /// Which were tried, and why each failed.
    pub async fn connect(&mut self) -> Result<Channel, Fault> {
        let mut faults = vec![];
        for _ in 0..self.addresses.len() {
            let Some(address) = self.addresses.get(self.at) else { break };
            match dial(address, self.certificate.as_ref()).await {
                Ok(channel) => {
                    self.has_answered = true;
                    return Ok(channel);
                }
                Err(fault) => faults.push(format!("{address}: {fault}")),
            }
            self.next();
        }
        Err(Fault::Unreachable(format!("cannot connect to {}", faults.join("; "))))
    }
}

async fn dial(_address: &Address, _certificate: Option<&Certificate>) -> Result<Channel, String> {
    Err("not yet".into())
}

fn parse_address(text: &str) -> Result<Address, Fault> {
    let fault = |what: &str| {
        Fault::Usage(format!("--endpoint {text:?}: {what}; write https://HOST:PORT or unix:PATH"))
    };
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() { Err(fault("no path")) } else { Ok(Address::Unix(path.into())) };
    }
    let Some(authority) = text.strip_prefix("https://") else { return Err(fault("not an endpoint")) };
    let authority = authority.trim_end_matches('/');
    let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && (!host.contains(':') || host.ends_with(']')) && port.parse::<u16>().is_ok()
    });
    if !has_port || authority.contains(['/', '@', '?', ' ']) {
        return Err(fault("not a host and a port"));
    }
    Ok(Address::Https(format!("https://{authority}")))
}

/// The socket of a `trunkline up` that was started in this directory.
fn default_address(directory: &Path) -> Result<Address, Fault> {
    let sockets = ["trunkline-data/operator.sock", "data/operator.sock"];
    let found = sockets.iter().map(|socket| directory.join(socket)).find(|path| path.exists());
    found.map(Address::Unix).ok_or_else(|| {
        Fault::Usage(format!(
            "which control plane? Give --endpoint https://HOST:PORT with --identity DIR (or TRUNKLINE_ENDPOINT and \
             TRUNKLINE_IDENTITY), or --endpoint unix:DATA-DIR/operator.sock of a `trunkline up` on this machine; \
             there is no {} and no {} here",
            sockets[0], sockets[1]
        ))
    })
}

fn certificate(options: &ConnectionOptions) -> Result<Certificate, Fault> {
    let file = |given: &Option<PathBuf>, name: &str, option: &str| {
        let of_identity = || options.identity.as_ref().map(|directory| directory.join(name));
        let path = given.clone().or_else(of_identity).ok_or_else(|| {
            Fault::Usage(format!(
                "an https endpoint wants a certificate: give --identity DIR, or {option} FILE \
                 (`trunklinectl ca issue operator NAME --role ROLE` makes one)"
            ))
        })?;
        std::fs::File::open(&path).map_err(|error| Fault::file(&path, "read", &error))?;
        Ok(path)
    };
    Ok(Certificate {
        cert: file(&options.cert, "cert.pem", "--cert")?,
        key: file(&options.key, "key.pem", "--key")?,
        roots: file(&options.roots, "roots.pem", "--roots")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_https_urls_with_a_port_or_sockets() {
        assert_eq!(parse_address("https://a:7443/").ok(), Some(Address::Https("https://a:7443".into())));
        assert_eq!(
            parse_address("https://[::1]:7443").ok(),
            Some(Address::Https("https://[::1]:7443".into()))
        );
        assert_eq!(parse_address("unix:a/b.sock").ok(), Some(Address::Unix("a/b.sock".into())));
        for text in
            ["", "a:7443", "http://a:7443", "https://a", "https://::1:7443", "https://a:70000", "unix:"]
        {
            let fault = parse_address(text).expect_err(text);
            assert_eq!(fault.exit_code(), 2);
            assert!(fault.to_string().contains("https://HOST:PORT"), "{fault}");
        }
    }

    #[test]
    fn the_socket_of_a_server_in_this_directory_is_the_default() {
        let directory = tempfile::tempdir().expect("a directory");
        let fault = default_address(directory.path()).expect_err("no socket");
        assert!(fault.to_string().contains("--endpoint"), "{fault}");
        std::fs::create_dir(directory.path().join("data")).expect("a directory");
        let socket = directory.path().join("data/operator.sock");
        std::fs::write(&socket, "").expect("a file");
        assert_eq!(default_address(directory.path()).ok(), Some(Address::Unix(socket)));
    }

    #[test]
    fn single_files_win_over_the_identity_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["cert.pem", "key.pem", "roots.pem", "other.pem"] {
            std::fs::write(directory.path().join(name), "").expect("a file");
        }
        let mut options =
            ConnectionOptions { identity: Some(directory.path().into()), ..ConnectionOptions::default() };
        options.roots = Some(directory.path().join("other.pem"));
        let certificate = certificate(&options).expect("a certificate");
        assert_eq!(certificate.cert, directory.path().join("cert.pem"));
        assert_eq!(certificate.roots, directory.path().join("other.pem"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let options =
            ConnectionOptions { identity: Some("no-such-place".into()), ..ConnectionOptions::default() };
        let fault = certificate(&options).expect_err("no file").to_string();
        assert!(fault.starts_with("no-such-place/cert.pem: cannot be read"), "{fault}");
    }
}
