//! Which replicas there are to ask and with which certificate, and a channel to one of them.

use std::path::{Path, PathBuf};

use tonic::transport::Channel;
use trunkline_control_plane::connector::{ConnectError, Endpoint, Trust, connect};
use trunkline_control_plane::pki::files::Files;

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

    /// Certificate chain of the operator, in PEM; wins over --identity. Given before the command.
    #[arg(long, value_name = "FILE", env = "TRUNKLINE_CERT")]
    pub cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM; wins over --identity. Given before the command.
    #[arg(long, value_name = "FILE", env = "TRUNKLINE_KEY")]
    pub key: Option<PathBuf>,

    /// Roots that replicas' certificates must come from, in PEM; wins over --identity. Given before the command.
    #[arg(long, value_name = "FILE", env = "TRUNKLINE_ROOTS")]
    pub roots: Option<PathBuf>,
}

/// Every replica that may be asked.
pub struct Replicas {
    endpoints: Vec<Endpoint>,
    /// What is shown to those that are reached by TLS.
    certificate: Option<Files>,
    /// The one to ask first.
    at: usize,
    has_answered: bool,
}

impl Replicas {
    /// From the command line; `directory` is the current one.
    ///
    /// # Errors
    /// What is missing, and what to give.
    pub fn new(options: &ConnectionOptions, directory: &Path) -> Result<Self, Fault> {
        let endpoints = match &options.endpoint[..] {
            [] => vec![default_endpoint(directory)?],
            given => given.iter().map(|text| parse(text)).collect::<Result<_, _>>()?,
        };
        let is_remote = endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Tls(_)));
        let certificate = if is_remote { Some(certificate(options)?) } else { None };
        Ok(Self { endpoints, certificate, at: 0, has_answered: false })
    }

    /// Where it asks.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The certificate that it shows.
    #[must_use]
    pub fn certificate(&self) -> Option<&Files> {
        self.certificate.as_ref()
    }

    /// The same certificate, and one replica alone.
    ///
    /// # Errors
    /// Where this is no endpoint.
    pub fn only(&self, url: &str) -> Result<Self, Fault> {
        let endpoints = vec![parse(url)?];
        Ok(Self { endpoints, certificate: self.certificate.clone(), at: 0, has_answered: false })
    }

    /// Whether one of them was connected to before.
    #[must_use]
    pub fn have_answered(&self) -> bool {
        self.has_answered
    }

    /// Begins with another one.
    pub fn pass(&mut self) {
        self.at = (self.at + 1) % self.endpoints.len().max(1);
    }

    /// Connects to the first that answers.
    ///
    /// # Errors
    /// Which were tried, and why each failed.
    pub async fn connect(&mut self) -> Result<Channel, Unconnected> {
        let mut faults = vec![];
        for _ in 0..self.endpoints.len() {
            let Some(endpoint) = self.endpoints.get(self.at) else { break };
            let trust = match (endpoint, &self.certificate) {
                (Endpoint::Tls(_), Some(files)) => Trust::Files(files.clone()),
                _ => Trust::Local,
            };
            match connect(endpoint, &trust).await {
                Ok(channel) => {
                    self.has_answered = true;
                    return Ok(channel);
                }
                Err(error) => faults.push(error),
            }
            self.pass();
        }
        Err(Unconnected(faults))
    }
}

/// Why no replica could be connected to: one fault for each.
pub struct Unconnected(Vec<ConnectError>);

impl Unconnected {
    /// Whether it may be different in a moment: certificates do not mend themselves.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.0
            .iter()
            .any(|fault| matches!(fault, ConnectError::Unreachable { .. } | ConnectError::TimedOut(_)))
    }

    /// What to tell the operator.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let list: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        let advice = match self.0.first() {
            Some(ConnectError::Unreachable { .. } | ConnectError::TimedOut(_)) => {
                "; is it running, and is --endpoint right?"
            }
            Some(ConnectError::Untrusted { .. }) => "; are the --roots those of this fleet?",
            Some(ConnectError::Refused { .. }) => "; is the certificate of this fleet, and still good?",
            _ => "",
        };
        Fault::Unreachable(format!("{}{advice}", list.join("; ")))
    }
}

fn parse(text: &str) -> Result<Endpoint, Fault> {
    text.parse().map_err(|error| Fault::Usage(format!("--endpoint: {error}")))
}

/// The socket of a `trunkline up` that was started in this directory.
fn default_endpoint(directory: &Path) -> Result<Endpoint, Fault> {
    let sockets = ["trunkline-data/operator.sock", "data/operator.sock"];
    let found = sockets.iter().map(|socket| directory.join(socket)).find(|path| path.exists());
    found.map(Endpoint::Unix).ok_or_else(|| {
        Fault::Usage(format!(
            "which control plane? Give --endpoint https://HOST:PORT with --identity DIR (or TRUNKLINE_ENDPOINT and \
             TRUNKLINE_IDENTITY), or --endpoint unix:DATA-DIR/operator.sock of a `trunkline up` on this machine; \
             there is no {} and no {} here",
            sockets[0], sockets[1]
        ))
    })
}

fn certificate(options: &ConnectionOptions) -> Result<Files, Fault> {
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
    Ok(Files {
        certificate: file(&options.cert, "cert.pem", "--cert")?,
        key: file(&options.key, "key.pem", "--key")?,
        roots: file(&options.roots, "roots.pem", "--roots")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_https_urls_with_a_port_or_sockets() {
        for text in ["", "a:7443", "http://a:7443", "https://a", "unix:"] {
            let fault = parse(text).expect_err(text);
            assert_eq!(fault.exit_code(), 2);
            assert!(fault.to_string().contains("https://HOST:PORT"), "{fault}");
        }
        assert_eq!(
            parse("https://[::1]:7443").map(|endpoint| endpoint.to_string()).ok(),
            Some("https://[::1]:7443".into())
        );
    }

    #[test]
    fn the_socket_of_a_server_in_this_directory_is_the_default() {
        let directory = tempfile::tempdir().expect("a directory");
        let fault = default_endpoint(directory.path()).expect_err("no socket");
        assert!(fault.to_string().contains("--endpoint"), "{fault}");
        std::fs::create_dir(directory.path().join("data")).expect("a directory");
        let socket = directory.path().join("data/operator.sock");
        std::fs::write(&socket, "").expect("a file");
        let endpoint = default_endpoint(directory.path()).expect("a socket");
        assert_eq!(endpoint.to_string(), format!("unix:{}", socket.display()));
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
        assert_eq!(certificate.certificate, directory.path().join("cert.pem"));
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
