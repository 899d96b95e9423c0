//! The one-time token that a new server joins with.
//!
//! Text form: `tl1.<site>.<server>.<id>.<secret>.<root>`, the last three in hexadecimal digits: 8 bytes that name the
//! token in the store, 32 bytes that prove it, and the SHA-256 of the root certificate (DER) that the replica must
//! show. The store keeps the SHA-256 of the secret alone.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use trunkline_wire::NodeId;
use zeroize::Zeroizing;

/// A token. It has no `Debug`: whoever reads its text can join.
#[derive(Clone)]
pub struct JoinToken {
    node: NodeId,
    id: [u8; ID_BYTES],
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    root_sha256: [u8; 32],
}

/// Not a join token. The text is not repeated: it may be one with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: {0}; copy it again, whole, as `trunklinectl nodes add` printed it")]
pub struct NotAToken(&'static str);

impl JoinToken {
    /// A fresh token for a server that will find this root.
    ///
    /// # Errors
    /// The operating system has no random bytes.
    pub fn generate(node: NodeId, root_sha256: [u8; 32]) -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; ID_BYTES], Zeroizing::new([0; SECRET_BYTES]));
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut *secret)?;
        Ok(Self { node, id, secret, root_sha256 })
    }

    /// The server that it admits.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Its name in the store, 16 hexadecimal digits. Not a secret.
    #[must_use]
    pub fn id(&self) -> String {
        crate::hex::encode(&self.id)
    }

    /// SHA-256 of the root certificate (DER) that the replica must show.
    #[must_use]
    pub const fn root_sha256(&self) -> [u8; 32] {
        self.root_sha256
    }

    /// What the store keeps of the secret: 32 random bytes need no salt and no slow hash.
    #[must_use]
    pub fn secret_sha256(&self) -> [u8; 32] {
        Sha256::digest(*self.secret).into()
    }

    /// True when the stored hash is of this token's secret. The time it takes says nothing about either.
    #[must_use]
    pub fn proves(&self, secret_sha256: &[u8]) -> bool {
        self.secret_sha256()[..].ct_eq(secret_sha256).into()
    }

    /// The text that the new server is given.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let NodeId { site, server } = self.node;
        let secret = Zeroizing::new(crate::hex::encode(&*self.secret));
        let root = crate::hex::encode(&self.root_sha256);
        Zeroizing::new(format!("{VERSION}.{site}.{server}.{}.{}.{root}", self.id(), *secret))
    }
}

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let parts: Vec<&str> = text.trim().split('.').take(PARTS + 1).collect();
        let &[version, site, server, id, secret, root] = parts.as_slice() else {
            return Err(NotAToken("it has six parts with dots between them"));
        };
        if version != VERSION {
            return Err(NotAToken("it begins with `tl1.`"));
        }
        let number = |text: &str| text.parse().ok().filter(|number: &u16| *number != 0);
        let (Some(site), Some(server)) = (number(site), number(server)) else {
            return Err(NotAToken("site and server are numbers from 1 to 65535"));
        };
        let (Some(id), Some(secret), Some(root_sha256)) = (bytes(id), bytes(secret), bytes(root)) else {
            return Err(NotAToken("its last three parts are 16, 64 and 64 hexadecimal digits"));
        };
        Ok(Self { node: NodeId { site, server }, id, secret: Zeroizing::new(secret), root_sha256 })
    }
}

/// For clap: `value_parser` wants `Clone + Send + Sync`, and prints the value on errors nowhere.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "join token {} of node {}", self.id(), self.node)
    }
}

fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    crate::hex::decode(digits)?.try_into().ok()
}

const VERSION: &str = "tl1";
const PARTS: usize = 6;
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId { site: 1, server: 2 };

    #[test]
    fn a_token_reads_back_as_it_was_written() {
        let token = JoinToken::generate(NODE, [7; 32]).expect("random bytes");
        let read: JoinToken = token.to_text().parse().expect("a token");
        assert_eq!((read.node(), read.id(), read.root_sha256()), (NODE, token.id(), [7; 32]));
        assert!(read.proves(&token.secret_sha256()));
    }

    #[test]
    fn another_tokens_secret_proves_nothing() {
        let token = JoinToken::generate(NODE, [7; 32]).expect("random bytes");
        let other = JoinToken::generate(NODE, [7; 32]).expect("random bytes");
        assert!(!token.proves(&other.secret_sha256()));
        assert!(!token.proves(&[]));
        assert!(!token.proves(&token.secret_sha256()[..31]));
    }

    #[test]
    fn the_store_cannot_be_used_to_join() {
        let token = JoinToken::generate(NODE, [7; 32]).expect("random bytes");
        let kept = crate::hex::encode(&token.secret_sha256());
        assert!(!token.to_text().contains(&kept));
    }

    #[test]
    fn what_is_no_token_is_refused_without_repeating_it() {
        let good = JoinToken::generate(NODE, [7; 32]).expect("random bytes").to_text();
        let (short, long) = (&good[..good.len() - 1], format!("{}.00", *good));
        let renamed = good.replacen("tl1", "tl2", 1);
        let nobody = good.replacen("tl1.1.", "tl1.0.", 1);
        let far = good.replacen("tl1.1.", "tl1.65536.", 1);
        let secret = good.split('.').nth(4).expect("a secret");
        for text in ["", "tl1", "tl1.1.2.x.y.z", short, &long, &renamed, &nobody, &far] {
            let error = text.parse::<JoinToken>().err().expect("refused").to_string();
            assert!(!error.contains(secret), "{error}");
        }
    }

    #[test]
    fn what_a_log_shows_is_not_the_secret() {
        let token = JoinToken::generate(NODE, [7; 32]).expect("random bytes");
        let text = token.to_text();
        let secret = text.split('.').nth(4).expect("a secret");
        assert!(!token.to_string().contains(secret));
    }
}
