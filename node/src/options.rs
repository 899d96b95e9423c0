//! Every option of `trunkline up` and `trunkline node`: its name, its key in the configuration file, its default and
//! its meaning.
//!
//! This struct is the only place where an option is described: the command line, the file, `--help` and the
//! generated reference all come from it. What a set of options means is worked out in [`crate::plan`]. Nearly all
//! options are about the machine and stand for both commands; [`Mode::refuses`] knows the few others.

mod file;
mod mode;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};
use serde::Deserialize;

pub use file::FileError;
pub use mode::Mode;
pub use values::{
    ControlPlane, Fleet, FleetSecret, Member, NodeName, PeerRange, SharedSecret, SliceLease, StaticUser,
};

macro_rules! options {
    ($(#[$outer:meta])* pub struct Options { $($(#[$meta:meta])* pub $field:ident: $type:ty,)+ }) => {
        $(#[$outer])*
        pub struct Options { $($(#[$meta])* pub $field: $type,)+ }

        impl Options {
            /// Fields that the command line names from `self`, all others from `file`.
            fn over(self, file: Self, given: impl Fn(&str) -> bool) -> Self {
                Self { $($field: if given(stringify!($field)) { self.$field } else { file.$field },)+ }
            }
        }
    };
}

options! {
/// What `trunkline up` and `trunkline node` can be told. See the fields' comments: they are the reference that users read.
#[derive(Args, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Read options from this TOML file; what the command line says wins.
    ///
    /// Every option below is a key of the file under the same name without the dashes; a repeatable one is an array.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Where keys, secrets and the self-signed certificate live; made when it is missing.
    ///
    /// One running server per directory. A later start on the same directory keeps every key and secret.
    #[arg(long, value_name = "DIR", default_value = "trunkline-data")]
    pub data_dir: PathBuf,

    /// Address that clients talk to; repeatable.
    ///
    /// It must be on this machine. Default: every usable address of the machine (up, not loopback, not link-local);
    /// loopback where there is nothing else.
    #[arg(long, value_name = "IP")]
    pub address: Vec<IpAddr>,

    /// Address that peers see, with ports 9216 to 65535; repeatable.
    ///
    /// It must be on this machine. Default: the addresses that clients talk to.
    #[arg(long, value_name = "IP")]
    pub relay_address: Vec<IpAddr>,

    /// Port for TURN and STUN over UDP and TCP.
    #[arg(long, value_name = "PORT", default_value_t = 3478)]
    pub turn_port: u16,

    /// Port for TURN and STUN over TLS.
    #[arg(long, value_name = "PORT", default_value_t = 5349)]
    pub tls_port: u16,

    /// Certificate chain in PEM; read again when the file changes.
    ///
    /// Default: a self-signed certificate is made and kept in the data directory. Browsers refuse it, so `turns:`
    /// works from a browser only with a certificate that the browser trusts.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key in PEM that belongs to the certificate.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Where the HTTP API, the metrics and the demo page are served, without encryption.
    ///
    /// Put a TLS proxy in front of it before it leaves the machine: requests carry secrets.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,

    /// Replica of the control plane, `https://ADDR:PORT`; repeatable.
    ///
    /// Any one of them is enough; where it goes away, the server turns to another. While none answers, the server goes
    /// on with the configuration it had, after a restart too.
    #[arg(long, value_name = "URL")]
    pub control_plane: Vec<ControlPlane>,

    /// One-time token that this server joins the fleet with; `trunklinectl nodes add` prints it.
    ///
    /// It is needed once: the certificate that it is exchanged for is kept in the data directory. A token that was
    /// used already does no harm.
    #[arg(long, value_name = "TOKEN")]
    pub join: Option<SharedSecret>,

    /// Where other servers of the fleet send packets that landed on them and belong to this one.
    ///
    /// UDP, in a network that only servers of the fleet reach. Default: other servers send nothing.
    #[arg(long, value_name = "ADDR:PORT")]
    pub encapsulation_address: Option<SocketAddr>,

    /// Address that peers see and that this server shares with others; repeatable.
    ///
    /// Each server has it (anycast), and the control plane leases its ports 9216 to 65535 in slices of 1024.
    #[arg(long, value_name = "IP")]
    pub shared_relay_address: Vec<IpAddr>,

    /// Database that tells the autonomous system of a client's address (MMDB, as GeoLite2-ASN); read again when it
    /// changes.
    ///
    /// Needed where the policy names AS numbers; without it no client has one.
    #[arg(long, value_name = "FILE")]
    pub asn_database: Option<PathBuf>,

    /// Realm of the credentials.
    ///
    /// At most 128 bytes; up to 12 keep a refusal no larger than twice the request, so that nobody can use the
    /// server to amplify a flood.
    #[arg(long, value_name = "REALM", default_value = "trunkline")]
    pub realm: String,

    /// Accept the credentials that an application makes for coturn with this secret.
    ///
    /// The username is `expiry:anything` (Unix seconds), the password base64(HMAC-SHA1(secret, username)). Better in
    /// the file than on the command line, which every user of the machine can read.
    #[arg(long, value_name = "SECRET")]
    pub static_auth_secret: Option<SharedSecret>,

    /// A user with a password that never expires; repeatable.
    ///
    /// Better in the file than on the command line, which every user of the machine can read.
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub user: Vec<StaticUser>,

    /// Allow peers in this range although it is denied by default (private networks, for instance); repeatable.
    ///
    /// Loopback, link-local (cloud metadata), multicast and reserved ranges and this machine's own addresses are
    /// never peers, whatever is allowed.
    #[arg(long, value_name = "CIDR")]
    pub allow_peer: Vec<PeerRange>,

    /// Deny peers in this range; wins over --allow-peer; repeatable.
    #[arg(long, value_name = "CIDR")]
    pub deny_peer: Vec<PeerRange>,

    /// Allocations at once of one user; 0 is no limit.
    ///
    /// A user is a static user, or the name behind the expiry of a time-limited username.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub user_quota: u32,

    /// Allocations at once of one client address; 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub address_quota: u32,

    /// Allocations at once of all credentials made with one key; 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub key_quota: u32,

    /// Payload bytes a second of one allocation in each direction; 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value_t = 12_500_000)]
    pub max_bandwidth: u64,

    /// Packets a second of one allocation in each direction; 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub max_packet_rate: u64,

    /// Permissions of one allocation.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_permissions: usize,

    /// Channels of one allocation.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_channels: usize,

    /// New peer addresses a second of one allocation, after a first burst of six seconds' worth (64 at least);
    /// 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub new_peers_per_second: u64,

    /// Bytes a second of answers to one source address that has not shown valid credentials; 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    pub unauthenticated_rate: u64,

    /// Allocations at once of each thread.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub max_allocations: usize,

    /// Longest time an allocation lives without being refreshed, in seconds; at least 600.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    pub max_lifetime: u32,

    /// How long a client may use the nonce it was given, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    pub nonce_lifetime: u64,

    /// Threads that relay; 0 is one for each processor.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,

    /// After SIGTERM or Ctrl-C: how long live allocations may go on, in seconds.
    ///
    /// New allocations are refused at once. A second signal ends the server at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub grace: u64,

    /// What is written to standard error: a level, or levels by module.
    ///
    /// Levels: error, warn, info, debug, trace. By module: `info,trunkline_node::api=debug`. Client addresses appear
    /// at debug and below; secrets never.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// Print one line of JSON (the content of quickstart.json) instead of words for a person.
    #[arg(long)]
    pub json: bool,

    /// Servers that share relay addresses; a table of the file only.
    #[arg(skip)]
    pub fleet: Option<Fleet>,
}
}

impl Options {
    /// The options of a parsed command line, with what the file given by `--config` adds.
    ///
    /// # Errors
    /// [`FileError`] when the file cannot be read or says something wrong.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, FileError> {
        let Ok(line) = Self::from_arg_matches(matches) else {
            // clap checked the same matches against the same definitions a moment ago.
            unreachable!("a command line that clap accepted")
        };
        let Some(path) = line.config.clone() else { return Ok(line) };
        let file = file::read(&path)?;
        let given = |field: &str| {
            field == "config"
                || (field != "fleet" && matches.value_source(field) == Some(ValueSource::CommandLine))
        };
        Ok(line.over(file, given))
    }
}

impl Default for Options {
    fn default() -> Self {
        let bare = Self::augment_args(clap::Command::new("up")).get_matches_from(["up"]);
        Self::from_arg_matches(&bare).unwrap_or_else(|error| unreachable!("defaults parse: {error}"))
    }
}

#[cfg(test)]
mod tests;
