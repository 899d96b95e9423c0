// Fresh iceServers from the HTTP API of the server that served this page, and the choice among their URLs.

export const TRANSPORTS = ['udp', 'tcp', 'tls'];

const TTL_S = 3600;
// A call must not start with credentials that are about to end.
const FRESH_MS_MIN = 10 * 60 * 1000;
const ANSWER_MS_MAX = 10_000;

/** A refusal by the API, in words for a person; `keyRefused` when another key could help. */
export class Refused extends Error {
  constructor(words, keyRefused) {
    super(words);
    this.keyRefused = keyRefused;
  }
}

/** Asks for iceServers when there are none yet, or when they end soon. */
export class Credentials {
  #key;
  #pending = null;
  #current = null;

  constructor(key) {
    this.#key = key;
  }

  get expiresAt() {
    return this.#current?.expiresAt ?? null;
  }

  async iceServers() {
    if (this.#current && this.#current.expiresAt - Date.now() > FRESH_MS_MIN) return this.#current.iceServers;
    this.#pending ??= this.#ask().finally(() => { this.#pending = null; });
    return this.#pending;
  }

  async #ask() {
    const askedAt = Date.now();
    const response = await post(`v1/turn/keys/${encodeURIComponent(this.#key.id)}/credentials/generate-ice-servers`, this.#key.secret);
    if (!response.ok) throw await refusal(response);
    const { iceServers } = await response.json();
    if (!Array.isArray(iceServers) || !iceServers.some((server) => urlsOf(server).some(isTurn))) {
      throw new Refused('The server answered without any TURN address. Check its --address option.', false);
    }
    this.#current = { iceServers, expiresAt: askedAt + TTL_S * 1000 };
    return iceServers;
  }
}

async function post(path, secret) {
  try {
    return await fetch(path, {
      method: 'POST',
      headers: { Authorization: `Bearer ${secret}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ ttl: TTL_S }),
      cache: 'no-store',
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
    });
  } catch (error) {
    if (error.name === 'TimeoutError') throw new Refused(`The server did not answer within ${ANSWER_MS_MAX / 1000} seconds.`, false);
    if (error instanceof TypeError && !/fetch|network|load/i.test(error.message)) {
      throw new Refused('This key holds characters that no key has. Copy it again from quickstart.json.', true);
    }
    throw new Refused('The server cannot be reached. Is it still running?', false);
  }
}

async function refusal(response) {
  if (response.status === 401 || response.status === 403) {
    return new Refused('The server does not accept this secret for this key. Compare both with quickstart.json.', true);
  }
  if (response.status === 404) return new Refused('The server knows no key with this id. It may have been deleted, or belong to another data directory.', true);
  if (response.status === 429) return new Refused('The server asks for a pause: too many requests. Try again in a minute.', false);
  const said = (await response.text().catch(() => '')).slice(0, 200);
  return new Refused(`The server refused with status ${response.status}. ${said}`.trim(), false);
}

/** The iceServers that reach the relay over one transport; all of them for 'any'. */
export function restrictTo(transport, iceServers) {
  if (transport === 'any') return iceServers;
  return iceServers
    .map((server) => ({ ...server, urls: urlsOf(server).filter((url) => transportOf(url) === transport) }))
    .filter((server) => server.urls.length > 0);
}

/** How a TURN URL (RFC 7065) reaches its server: udp, tcp, tls, or null for what a browser does not speak. */
export function transportOf(url) {
  if (!isTurn(url)) return null;
  const overTcp = /[?&]transport=tcp/i.test(url);
  if (/^turns:/i.test(url)) return overTcp || !/[?&]transport=/i.test(url) ? 'tls' : null;
  return overTcp ? 'tcp' : 'udp';
}

export function urlsOf(server) {
  return Array.isArray(server.urls) ? server.urls : [server.urls];
}

function isTurn(url) {
  return /^turns?:/i.test(url);
}
