//! Requests of a run: what is asked, and whether the answer is the model's.

use std::net::SocketAddr;

use trunkline_wire::stun::attribute;

use super::message::{
    ALLOCATE, Answer, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Credential, ERROR, Outgoing, REFRESH, SUCCESS,
};
use super::model::{Allocated, Opening, Refusal};
use super::operation::{Allocate, Ask, Proof, Token, What};
use super::scene::{NONCE_LIFETIME_S, REALM, credential, flow, is_ours};
use super::trial::{IssuedNonce, Trial};

/// A comprehension-required attribute that nobody knows.
const UNKNOWN: u16 = 0x7FFE;
/// IP and UDP headers, which count in how much an answer may exceed its request.
const HEADER_BYTES: usize = 28;

impl Trial {
    pub(crate) fn ask(&mut self, ask: &Ask) {
        let needs_challenge = ask.proof == Proof::Right && !self.nonce_is_good(ask.flow, Proof::Right);
        if needs_challenge && !matches!(ask.what, What::Binding) {
            let what = What::Refresh { lifetime_s: None, family: None };
            self.ask_once(&Ask { proof: Proof::NoIntegrity, unknown: false, what, ..ask.clone() });
        }
        self.ask_once(ask);
    }

    fn ask_once(&mut self, ask: &Ask) {
        let credential = credential(ask.user);
        let token = self.token_of(ask);
        let (kind, transaction) = (ask.what.kind(), self.transaction_of(ask));
        let request = self.write(ask, &credential, transaction, token);
        let nonce_is_good = self.nonce_is_good(ask.flow, ask.proof);
        self.deliver(ask.flow, &request);
        let answer = self.answer(ask.flow, &credential);
        assert_eq!((answer.transaction, answer.fingerprint), (transaction, ask.fingerprint));
        if !answer.signed {
            let bound = 2 * (request.len() + HEADER_BYTES);
            assert!(
                self.answer_bytes(ask.flow).len() + HEADER_BYTES <= bound,
                "an answer of more than twice its request"
            );
        }
        self.keep_nonce(ask.flow, &answer);
        if matches!(ask.what, What::Binding) {
            return check_binding(ask, &answer);
        }
        if let Some(Refusal { code, signed }) = self.model.refusal_of_sender(ask, nonce_is_good) {
            assert_eq!(
                (answer.kind, answer.error(), answer.signed),
                (kind | ERROR, Some(code), signed),
                "{ask:?}"
            );
            return assert_eq!(answer.value(attribute::NONCE).is_some(), matches!(code, 401 | 438));
        }
        assert!(answer.signed, "{ask:?}");
        self.check_outcome(ask, token, &answer);
    }

    fn check_outcome(&mut self, ask: &Ask, token: Option<[u8; 8]>, answer: &Answer) {
        let expected = match &ask.what {
            What::Binding => return,
            What::Allocate(wanted) => match self.model.allocate(ask.flow, ask.user, wanted, token) {
                Allocated::Refused(codes) => Err(codes),
                Allocated::Again => {
                    let first = self.answers[ask.flow].as_ref().expect("the first answer");
                    assert_eq!(answer.kind, first.kind);
                    return assert_eq!(answer.attributes, self.still_true(ask.flow, first));
                }
                Allocated::Opened(opening) => return self.check_opened(ask, &opening, answer),
            },
            What::Refresh { lifetime_s, family } => {
                self.model.refresh(ask.flow, *lifetime_s, *family).map(|granted_s| {
                    assert_eq!(
                        answer.value(attribute::LIFETIME),
                        Some(&granted_s.to_be_bytes()[..]),
                        "{ask:?}"
                    );
                })
            }
            What::Permit { peers } => {
                let peers: Vec<_> = peers.iter().map(|peer| self.peer(*peer)).collect();
                self.model.permit(ask.flow, &peers)
            }
            What::Bind { channel, peer } => {
                let peer = peer.map(|peer| self.peer(peer));
                self.model.bind(ask.flow, *channel, peer)
            }
        };
        match expected {
            Ok(()) => assert_eq!((answer.kind, answer.error()), (ask.what.kind() | SUCCESS, None), "{ask:?}"),
            Err(codes) => {
                assert_eq!(answer.kind, ask.what.kind() | ERROR, "{ask:?} must be one of {codes:?}");
                let code = answer.error().expect("an error code");
                assert!(codes.contains(&code), "{ask:?} got {code}, must be one of {codes:?}");
            }
        }
    }

    /// What an Allocate was answered, without a relayed address that was given back since.
    fn still_true(&self, of: usize, first: &Answer) -> Vec<(u16, Vec<u8>)> {
        let relayed = first.addresses(attribute::XOR_RELAYED_ADDRESS);
        let mut is_live =
            relayed.iter().map(|at| self.model.allocations[&of].addresses().any(|live| live == *at));
        let mut keep = |kind| kind != attribute::XOR_RELAYED_ADDRESS || is_live.next() == Some(true);
        first.attributes.iter().filter(|(kind, _)| keep(*kind)).cloned().collect()
    }

    fn check_opened(&mut self, ask: &Ask, opening: &Opening, answer: &Answer) {
        assert_eq!((answer.kind, answer.error()), (ALLOCATE | SUCCESS, None), "{ask:?}");
        assert_eq!(answer.addresses(attribute::XOR_MAPPED_ADDRESS), [flow(ask.flow).remote]);
        assert_eq!(answer.value(attribute::LIFETIME), Some(&opening.lifetime_s.to_be_bytes()[..]));
        assert_eq!(answer.value(attribute::SOFTWARE), Some(&b"Trunkline"[..]));
        let error = answer.value(attribute::ADDRESS_ERROR_CODE);
        let error = error.map(|value| (value[0], u16::from(value[2]) * 100 + u16::from(value[3])));
        assert_eq!(error, opening.address_error, "{ask:?}");
        let relayed = answer.addresses(attribute::XOR_RELAYED_ADDRESS);
        let of_family = |v6: bool| relayed.iter().copied().find(|at| at.is_ipv6() == v6);
        let relays = [of_family(false), of_family(true)];
        assert_eq!(relays.map(|relay| relay.is_some()), opening.families, "{relayed:?}");
        assert_eq!(relays.iter().flatten().count(), relayed.len());
        for at in &relayed {
            self.check_relayed(*at, opening);
        }
        self.ids[ask.flow] = self.sockets.at(relayed[0]).map(|(_, id)| id);
        self.answers[ask.flow] = Some(answer.clone());
        self.opened += 1;
        self.model.opened(ask.flow, ask.user, opening, relays);
        let token = answer.value(attribute::RESERVATION_TOKEN);
        assert_eq!(token.is_some(), opening.next, "RESERVATION-TOKEN");
        if let Some(token) = token {
            let token = token.try_into().expect("eight bytes");
            let next = SocketAddr::new(relayed[0].ip(), relayed[0].port() + 1);
            self.check_free(next);
            self.tokens.push(token);
            self.model.reserved(token, next, ask.user);
        }
    }

    fn check_relayed(&self, at: SocketAddr, opening: &Opening) {
        assert!(is_ours(at), "{at} is not ours to give");
        assert!(!opening.even || at.port().is_multiple_of(2), "{at} is not even");
        assert!(opening.reserved.is_none_or(|reserved| reserved == at), "{at} is not {:?}", opening.reserved);
        self.check_free(at);
    }

    fn check_free(&self, at: SocketAddr) {
        let is_held =
            self.model.allocations.values().any(|allocation| allocation.addresses().any(|held| held == at));
        let is_kept = self.model.reservations.iter().any(|kept| kept.at == at);
        assert!(!is_held && !is_kept, "{at} belongs to somebody else");
    }

    /// A request with any attributes: nobody can sign it by chance, so nothing may change.
    pub(crate) fn ask_anything(&mut self, from: usize, kind: u16, attributes: &[u8]) {
        let mut request = Outgoing::new(kind, self.next_transaction()).bytes();
        request.extend_from_slice(attributes);
        let length = u16::try_from(request.len() - 20).expect("a short message");
        request[2..4].copy_from_slice(&length.to_be_bytes());
        self.deliver(from, &request);
        if self.egress.transmits().is_empty() {
            return assert_eq!(self.drops_since(), 1, "dropped, and not counted once");
        }
        assert!(self.answer_bytes(from).len() + HEADER_BYTES <= 2 * (request.len() + HEADER_BYTES));
        let answer = self.answer(from, &credential(0));
        let is_success = answer.kind == BINDING | SUCCESS;
        assert!(is_success || answer.kind == kind | ERROR, "{:#x} answers {kind:#x}", answer.kind);
        assert!(is_success || matches!(answer.error(), Some(400 | 401 | 420 | 438)), "{answer:?}");
        self.keep_nonce(from, &answer);
    }

    fn keep_nonce(&mut self, of: usize, answer: &Answer) {
        let Some(nonce) = answer.value(attribute::NONCE) else { return };
        assert_eq!(answer.value(attribute::REALM), Some(REALM.as_bytes()));
        let (remote, unix_s) = (flow(of).remote, self.model.unix_s);
        self.nonces[of] = Some(IssuedNonce { bytes: nonce.to_vec(), remote, unix_s });
    }

    fn nonce(&self, of: usize, proof: Proof) -> Option<&IssuedNonce> {
        match proof {
            Proof::NonceOf(other) => self.nonces[other].as_ref(),
            Proof::ForgedNonce => None,
            _ => self.nonces[of].as_ref(),
        }
    }

    /// Bound to the client's address, whatever the transport, and to a time.
    fn nonce_is_good(&self, of: usize, proof: Proof) -> bool {
        self.nonce(of, proof).is_some_and(|nonce| {
            nonce.remote == flow(of).remote && self.model.unix_s - nonce.unix_s <= NONCE_LIFETIME_S
        })
    }

    fn token_of(&self, ask: &Ask) -> Option<[u8; 8]> {
        let What::Allocate(Allocate { token: Some(token), .. }) = ask.what else { return None };
        let given = match token {
            Token::Given(age) => self.tokens.iter().rev().nth(age).copied(),
            Token::Forged => None,
        };
        Some(given.unwrap_or(*b"no token"))
    }

    fn transaction_of(&mut self, ask: &Ask) -> [u8; 12] {
        let again = matches!(ask.what, What::Allocate(Allocate { again: true, .. }));
        let live = again && self.model.allocations.contains_key(&ask.flow);
        match &self.answers[ask.flow] {
            Some(first) if live => first.transaction,
            _ => self.next_transaction(),
        }
    }

    fn write(
        &self,
        ask: &Ask,
        credential: &Credential,
        transaction: [u8; 12],
        token: Option<[u8; 8]>,
    ) -> Vec<u8> {
        let mut message = Outgoing::new(ask.what.kind(), transaction);
        message = match &ask.what {
            What::Binding => message,
            What::Allocate(wanted) => write_allocate(message, wanted, token),
            What::Refresh { lifetime_s, family } => {
                write_lifetime(message, *lifetime_s).with_octet(attribute::REQUESTED_ADDRESS_FAMILY, *family)
            }
            What::Permit { peers } => peers.iter().fold(message, |message, peer| {
                message.with_peer(attribute::XOR_PEER_ADDRESS, self.peer(*peer).0)
            }),
            What::Bind { channel, peer } => {
                if let Some(peer) = peer {
                    message = message.with_peer(attribute::XOR_PEER_ADDRESS, self.peer(*peer).0);
                }
                let number = |channel: u16| [&channel.to_be_bytes()[..], &[0, 0]].concat();
                channel
                    .map(number)
                    .into_iter()
                    .fold(message, |m, value| m.with(attribute::CHANNEL_NUMBER, &value))
            }
        };
        if ask.unknown {
            message = message.with(UNKNOWN, b"?");
        }
        if !matches!(ask.what, What::Binding) && ask.proof != Proof::NoIntegrity {
            message = self.prove(message, ask, credential);
        }
        if ask.fingerprint { message.with_fingerprint().bytes() } else { message.bytes() }
    }

    fn prove(&self, mut message: Outgoing, ask: &Ask, credential: &Credential) -> Outgoing {
        let nonce =
            self.nonce(ask.flow, ask.proof).map_or(&b"AAAAAAAAAAAAAAAAAAAA"[..], |nonce| &nonce.bytes);
        let username = if ask.proof == Proof::UnknownUser { "mallory" } else { &credential.username };
        let realm = if ask.proof == Proof::WrongRealm { "elsewhere" } else { REALM };
        if ask.proof != Proof::NoUsername {
            message = message.with(attribute::USERNAME, username.as_bytes());
        }
        if ask.proof != Proof::NoRealm {
            message = message.with(attribute::REALM, realm.as_bytes());
        }
        if ask.proof != Proof::NoNonce {
            message = message.with(attribute::NONCE, nonce);
        }
        let wrong = Credential::new(&credential.username, REALM, "wrong");
        message.signed(if ask.proof == Proof::WrongPassword { &wrong } else { credential })
    }
}

fn check_binding(ask: &Ask, answer: &Answer) {
    assert!(!answer.signed);
    if ask.unknown {
        assert_eq!((answer.kind, answer.error()), (BINDING | ERROR, Some(420)));
        return assert_eq!(answer.value(attribute::UNKNOWN_ATTRIBUTES), Some(&UNKNOWN.to_be_bytes()[..]));
    }
    assert_eq!((answer.kind, answer.error()), (BINDING | SUCCESS, None));
    assert_eq!(answer.addresses(attribute::XOR_MAPPED_ADDRESS), [flow(ask.flow).remote]);
}

fn write_allocate(message: Outgoing, wanted: &Allocate, token: Option<[u8; 8]>) -> Outgoing {
    let message = message
        .with_octet(attribute::REQUESTED_TRANSPORT, wanted.transport)
        .with_octet(attribute::REQUESTED_ADDRESS_FAMILY, wanted.family)
        .with_octet(attribute::ADDITIONAL_ADDRESS_FAMILY, wanted.additional);
    let message = match wanted.even_port {
        Some(flags) => message.with(attribute::EVEN_PORT, &[flags]),
        None => message,
    };
    let message = match token {
        Some(token) => message.with(attribute::RESERVATION_TOKEN, &token),
        None => message,
    };
    write_lifetime(message, wanted.lifetime_s)
}

fn write_lifetime(message: Outgoing, lifetime_s: Option<u32>) -> Outgoing {
    match lifetime_s {
        Some(lifetime_s) => message.with(attribute::LIFETIME, &lifetime_s.to_be_bytes()),
        None => message,
    }
}

impl What {
    const fn kind(&self) -> u16 {
        match self {
            Self::Binding => BINDING,
            Self::Allocate(_) => ALLOCATE,
            Self::Refresh { .. } => REFRESH,
            Self::Permit { .. } => CREATE_PERMISSION,
            Self::Bind { .. } => CHANNEL_BIND,
        }
    }
}
