// Turns what the browser reports into a sentence, and what to do about it. No state, no DOM.

// RFC 8656 §18 and RFC 8489 §14.8, as RTCPeerConnectionIceErrorEvent.errorCode reports them.
const REFUSALS = {
  400: 'it could not read the request',
  401: 'it refused the credentials; reload the page to get new ones, and check that the clocks agree',
  403: 'it forbids this allocation',
  437: 'it already had another allocation on this connection',
  438: 'it would not accept the nonce',
  441: 'the credentials belong to another allocation',
  442: 'it does not relay this transport',
  486: 'the quota of this key is used up; end other calls, or raise --user-quota',
  508: 'it has no capacity left',
};

/** The refusal of the server among some icecandidateerror events, in words, or null where none answered. */
export function refusalAmong(errors) {
  const refused = errors.find((error) => REFUSALS[error.code]);
  return refused ? `${REFUSALS[refused.code]} (${refused.code})` : null;
}

/** Why no relay address came, and what to do, for one transport of the network test. */
export function whyUnreachable(transport, errors) {
  const refused = refusalAmong(errors);
  if (refused) return `The server answers, but ${refused}.`;
  return {
    udp: 'No answer over UDP. A firewall between here and the server probably drops it: allow UDP to the TURN port (3478 by default), '
      + 'or rely on TCP or TLS, which carry the same call with more delay.',
    tcp: 'No connection over TCP. Allow TCP to the TURN port (3478 by default) in the firewall, or check that the server listens there.',
    tls: 'No connection over TLS. Most likely the certificate is self-signed, and a browser refuses it without asking: '
      + 'give the server a certificate that browsers trust for its name (--tls-cert and --tls-key). '
      + 'Otherwise allow TCP to the TLS port (5349 by default). UDP and TCP need no certificate.',
  }[transport];
}

/** Why a relay address came but nothing passed through it. */
export function whySilent() {
  return 'The relay gave out an address, but nothing came back through it. The server must reach its own relay addresses: '
    + 'check --relay-address, and that its firewall allows UDP to the relay ports.';
}

/** Why a call did not come about. `gathered` says whether any relay address was given out. */
export function whyNoCall(transport, gathered, errors) {
  if (gathered) return whySilent();
  const refused = refusalAmong(errors);
  if (refused) return `The server answers, but ${refused}.`;
  if (transport !== 'any') return whyUnreachable(transport, errors);
  return 'The relay did not answer over UDP, TCP or TLS. Is its address reachable from here? '
    + 'The network test below says which transport is stuck.';
}

export function nameOf(transport) {
  return { any: 'any transport', udp: 'UDP', tcp: 'TCP', tls: 'TLS' }[transport] ?? transport;
}

export function bytes(count) {
  if (!Number.isFinite(count)) return '–';
  if (count < 1000) return `${count} B`;
  if (count < 1e6) return `${(count / 1e3).toFixed(1)} kB`;
  if (count < 1e9) return `${(count / 1e6).toFixed(1)} MB`;
  return `${(count / 1e9).toFixed(2)} GB`;
}

export function bitrate(bitsPerSecond) {
  if (!Number.isFinite(bitsPerSecond)) return '–';
  if (bitsPerSecond < 1e6) return `${Math.round(bitsPerSecond / 1e3)} kbit/s`;
  return `${(bitsPerSecond / 1e6).toFixed(2)} Mbit/s`;
}

export function milliseconds(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  const ms = seconds * 1000;
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}
