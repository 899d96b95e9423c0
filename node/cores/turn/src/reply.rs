//! How requests are answered: success and error responses, signed or not, budgeted or not.

use trunkline_wire::stun::{Attributes, Builder, Class, ErrorCode, Key, Message, TransactionId, attribute};
use trunkline_wire::token::Nonce;
use trunkline_wire::{ClientFlow, DropReason, Egress, Now};

use crate::server::Server;

/// A request being answered: what every response to it repeats.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub now: Now,
    pub flow: ClientFlow,
    pub message: Message<'a>,
    /// Responses carry a FINGERPRINT where the request did (RFC 8489 §7.3).
    pub fingerprint: bool,
}

/// IP and UDP headers that count on both sides of the 2.0 bound on reflection.
const HEADER_BYTES: usize = 28;

impl<'a> Request<'a> {
    pub fn new(
        now: Now,
        flow: ClientFlow,
        message: Message<'a>,
        attributes: Option<&Attributes<'_>>,
    ) -> Self {
        Self { now, flow, message, fingerprint: attributes.is_some_and(|attributes| attributes.fingerprint) }
    }

    pub fn transaction(&self) -> TransactionId {
        self.message.transaction()
    }

    fn builder<'b>(&self, out: &'b mut Vec<u8>, class: Class) -> Builder<'b> {
        Builder::with_method_number(out, class, self.message.method_number(), self.transaction())
    }

    fn finish(&self, builder: Builder<'_>, key: Option<&Key>) {
        match (key, self.fingerprint) {
            (Some(key), true) => builder.finish_with_integrity_and_fingerprint(key),
            (Some(key), false) => builder.finish_with_integrity(key),
            (None, true) => builder.finish_with_fingerprint(),
            (None, false) => builder.finish(),
        }
    }

    /// Queues a signed success response.
    pub fn succeed(&self, egress: &mut Egress, key: &Key, fill: impl FnOnce(Builder<'_>) -> Builder<'_>) {
        egress.push_reply(self.flow, |out| self.finish(fill(self.builder(out, Class::Success)), Some(key)));
    }
}

impl Server {
    /// Answers an authenticated request with an error.
    pub(crate) fn refuse(&mut self, request: &Request<'_>, egress: &mut Egress, key: &Key, code: ErrorCode) {
        self.counters.count_error(code);
        egress.push_reply(request.flow, |out| {
            let builder = request.builder(out, Class::Error).error_code(code, code.reason());
            request.finish(builder, Some(key));
        });
    }

    /// 420 with the list of what is not understood (RFC 8489 §6.3.1), signed where the request was.
    pub(crate) fn refuse_unknown(
        &mut self,
        request: &Request<'_>,
        egress: &mut Egress,
        key: Option<&Key>,
        unknown: &[u16],
    ) {
        let code = ErrorCode::UnknownAttribute;
        let compose = |out: &mut Vec<u8>| {
            let builder = request
                .builder(out, Class::Error)
                .error_code(code, code.reason())
                .unknown_attributes(unknown);
            request.finish(builder, key);
        };
        if key.is_some() {
            self.counters.count_error(code);
            egress.push_reply(request.flow, compose);
        } else {
            self.answer_unproven(request, egress, Some(code), compose);
        }
    }

    /// 400 before authentication: unsigned, budgeted.
    pub(crate) fn refuse_bad_request(&mut self, request: &Request<'_>, egress: &mut Egress) {
        let code = ErrorCode::BadRequest;
        self.answer_unproven(request, egress, Some(code), |out| {
            let reason = reason_within(request, code, 0);
            request.finish(request.builder(out, Class::Error).error_code(code, reason), None);
        });
    }

    /// 401 or 438 with REALM and a fresh NONCE (RFC 8489 §9.2.4): unsigned, budgeted.
    pub(crate) fn challenge(&mut self, request: &Request<'_>, egress: &mut Egress, code: ErrorCode) {
        let config = std::sync::Arc::clone(&self.config);
        let nonce = Nonce::seal(&config.keyring, config.node, request.flow.remote, request.now);
        self.answer_unproven(request, egress, Some(code), |out| {
            let realm_bytes = config.realm.len().next_multiple_of(4).saturating_add(4);
            let reason = reason_within(
                request,
                code,
                realm_bytes.saturating_add(4).saturating_add(nonce.as_bytes().len()),
            );
            let builder = request
                .builder(out, Class::Error)
                .error_code(code, reason)
                .attribute(attribute::REALM, config.realm.as_bytes())
                .attribute(attribute::NONCE, nonce.as_bytes());
            request.finish(builder, None);
        });
    }

    /// Success without a signature: only Binding.
    pub(crate) fn succeed_unproven(
        &mut self,
        request: &Request<'_>,
        egress: &mut Egress,
        fill: impl FnOnce(Builder<'_>) -> Builder<'_>,
    ) {
        self.answer_unproven(request, egress, None, |out| {
            request.finish(fill(request.builder(out, Class::Success)), None);
        });
    }

    /// Queues an answer to a source that has not proved its address, if its budget allows. A stream's handshake is
    /// such a proof.
    fn answer_unproven(
        &mut self,
        request: &Request<'_>,
        egress: &mut Egress,
        error: Option<ErrorCode>,
        compose: impl FnOnce(&mut Vec<u8>),
    ) {
        let (flow, now) = (request.flow, request.now);
        let budget = &mut self.budget;
        let admit = |bytes| flow.transport.is_stream() || budget.take(now, flow.remote.ip(), bytes);
        if !egress.push_reply_if(flow, admit, compose) {
            self.counters.drops.count(DropReason::UnauthenticatedBudget);
        } else if let Some(code) = error {
            self.counters.count_error(code);
        }
    }
}

/// The reason phrase, where the answer with `rest` more bytes of attributes stays within twice the request,
/// counting IP and UDP headers on both sides; else nothing.
fn reason_within(request: &Request<'_>, code: ErrorCode, rest: usize) -> &'static str {
    let allowed = request.message.bytes().len().saturating_add(HEADER_BYTES).saturating_mul(2);
    let fingerprint = if request.fingerprint { 8 } else { 0 };
    let reason = code.reason().len().next_multiple_of(4);
    let fixed = HEADER_BYTES.saturating_add(20).saturating_add(8).saturating_add(fingerprint);
    let total = fixed.saturating_add(reason).saturating_add(rest);
    if total <= allowed { code.reason() } else { "" }
}
