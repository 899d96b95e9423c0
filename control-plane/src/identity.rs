//! Who is at the other end of a connection: the name in a verified certificate, or what the way in says.
//!
//! A certificate names its holder with exactly one URI: `trunkline://node/1.2`, `trunkline://replica/NAME` or
//! `trunkline://operator/ROLE/NAME`. The common name means nothing.

use std::fmt;
use std::str::FromStr;

use trunkline_wire::NodeId;
use x509_parser::extensions::GeneralName;

use crate::records::parse_node;

/// The caller of a method, in the extensions of each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A server of the fleet: it speaks for itself alone.
    Node(NodeId),
    /// A person or a program that operates the fleet.
    Operator {
        /// As in the certificate.
        name: String,
        /// What it may do.
        role: Role,
    },
    /// Another replica of the control plane: it passes on what operators asked it.
    Replica(String),
    /// Nobody yet: a connection without a certificate.
    Newcomer,
    /// This process or this machine's user, over memory or a Unix socket: administrator, and node 1.1.
    Local,
}

/// What an operator may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees everything but secrets.
    Viewer,
    /// Moves load: drains, weights, closes allocations.
    Operator,
    /// Changes who belongs to the fleet, keys, policies and settings.
    Admin,
}

/// The name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `trunkline://node/1.2`
    Node(NodeId),
    /// `trunkline://replica/NAME`
    Replica(String),
    /// `trunkline://operator/ROLE/NAME`
    Operator {
        /// 1 to 64 letters, digits, `.`, `_`, `-` and `@`.
        name: String,
        /// What it may do.
        role: Role,
    },
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unnamed {
    /// It is not a certificate.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// It names nobody of a fleet.
    #[error("the certificate has no name of the form trunkline://…")]
    Absent,
    /// It could be any of them.
    #[error("the certificate has several names of the form trunkline://…")]
    Several,
    /// The name is not one of the three forms.
    #[error(
        "{0:?} is none of trunkline://node/SITE.SERVER, trunkline://replica/NAME, trunkline://operator/ROLE/NAME"
    )]
    Unknown(String),
}

impl Identity {
    /// The node that this caller speaks for.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(*node),
            Self::Local => Some(LOCAL_NODE),
            Self::Operator { .. } | Self::Replica(_) | Self::Newcomer => None,
        }
    }

    /// The identity that a verified certificate (DER) proves.
    ///
    /// # Errors
    /// [`Unnamed`]: the certificate may be good for something else, but not here.
    pub fn of_certificate(certificate: &[u8]) -> Result<Self, Unnamed> {
        Name::of_certificate(certificate).map(Self::from)
    }
}

impl From<Name> for Identity {
    fn from(name: Name) -> Self {
        match name {
            Name::Node(node) => Self::Node(node),
            Name::Replica(name) => Self::Replica(name),
            Name::Operator { name, role } => Self::Operator { name, role },
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Operator { name, role } => write!(f, "{role} {name}"),
            Self::Replica(name) => write!(f, "replica {name}"),
            Self::Newcomer => f.write_str("newcomer"),
            Self::Local => f.write_str("local administrator"),
        }
    }
}

impl Name {
    /// The one name in a certificate (DER).
    ///
    /// # Errors
    /// [`Unnamed`].
    pub fn of_certificate(certificate: &[u8]) -> Result<Self, Unnamed> {
        let malformed = |error: String| Unnamed::Malformed(error);
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|error| malformed(error.to_string()))?;
        let names = parsed.subject_alternative_name().map_err(|error| malformed(error.to_string()))?;
        let mut ours =
            names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
                GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
                _ => None,
            });
        let name = ours.next().ok_or(Unnamed::Absent)?;
        if ours.next().is_some() {
            return Err(Unnamed::Several);
        }
        name.parse()
    }
}

impl FromStr for Name {
    type Err = Unnamed;

    fn from_str(uri: &str) -> Result<Self, Unnamed> {
        parse(uri).ok_or_else(|| Unnamed::Unknown(uri.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "{SCHEME}node/{node}"),
            Self::Replica(name) => write!(f, "{SCHEME}replica/{name}"),
            Self::Operator { name, role } => write!(f, "{SCHEME}operator/{role}/{name}"),
        }
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            _ => Err(UnknownRole(text.to_owned())),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// Not a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: viewer, operator or admin")]
pub struct UnknownRole(String);

/// A name of an operator or replica: short, and the same in logs, URIs and shells.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain)
}

/// Only the text that `Display` would give: one identity has one spelling.
fn parse(uri: &str) -> Option<Name> {
    let (kind, rest) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    let name = match kind {
        "node" => Name::Node(parse_node(rest)?),
        "replica" => Name::Replica(is_plain(rest).then(|| rest.to_owned())?),
        "operator" => {
            let (role, name) = rest.split_once('/')?;
            Name::Operator { role: role.parse().ok()?, name: is_plain(name).then(|| name.to_owned())? }
        }
        _ => return None,
    };
    let is_whole = !matches!(name, Name::Node(NodeId { site: 0, .. } | NodeId { server: 0, .. }));
    (is_whole && name.to_string() == uri).then_some(name)
}

/// What a process without certificates is.
pub const LOCAL_NODE: NodeId = NodeId { site: 1, server: 1 };
const SCHEME: &str = "trunkline://";
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests;
