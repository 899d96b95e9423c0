// The network test: for each transport, does the relay hand out an address, and do messages really pass through it?
// Two peer connections on one TURN URL, a data channel between them, and echoes over it. No DOM.

import { TRANSPORTS, restrictTo, urlsOf } from './credentials.js';
import { negotiate } from './negotiate.js';
import { refusalAmong, whySilent, whyUnreachable } from './words.js';

const GATHER_MS_MAX = 10_000;
const ECHO_MS_MAX = 10_000;
const ECHOES = 10;
// A server with many addresses must not make the browser open dozens of connections.
const URLS_MAX = 4;

/** → { udp: { ok, ms, detail }, tcp: …, tls: … }; `onResult(transport, result)` as each one is known. */
export async function testNetwork(iceServers, onResult) {
  const results = {};
  await Promise.all(TRANSPORTS.map(async (transport) => {
    results[transport] = await testTransport(transport, restrictTo(transport, iceServers));
    onResult(transport, results[transport]);
  }));
  return Object.fromEntries(TRANSPORTS.map((transport) => [transport, results[transport]]));
}

async function testTransport(transport, servers) {
  const single = servers.flatMap((server) => urlsOf(server).map((url) => ({ ...server, urls: [url] }))).slice(0, URLS_MAX);
  if (single.length === 0) {
    return { ok: false, ms: 0, detail: `The server offers no address over ${transport.toUpperCase()}.` };
  }
  const probes = await Promise.all(single.map((server) => new Probe(server).run()));
  const working = probes.filter((probe) => probe.ok).sort((x, y) => x.ms - y.ms);
  if (working.length > 0) return { ok: true, ms: working[0].ms, detail: describeSuccess(working, probes) };
  const silent = probes.some((probe) => probe.gathered_ms !== null);
  const detail = silent ? whySilent() : whyUnreachable(transport, probes.flatMap((probe) => probe.errors));
  return { ok: false, ms: Math.max(...probes.map((probe) => probe.ms)), detail };
}

function describeSuccess(working, probes) {
  const { gathered_ms, ms, roundTrip_ms } = working[0];
  const parts = [`A relay address after ${gathered_ms} ms, the first echo after ${ms} ms; a message there and back takes ${roundTrip_ms.toFixed(1)} ms at best.`];
  const deaf = probes.filter((probe) => !probe.ok).map((probe) => `${hostOf(probe.url)} ${reasonOf(probe)}`);
  if (deaf.length > 0) parts.push(`Not from here: ${deaf.join(', ')}.`);
  return parts.join(' ');
}

function reasonOf(probe) {
  if (probe.gathered_ms !== null) return '(nothing comes back through the relay)';
  const refused = refusalAmong(probe.errors);
  return refused ? `(${refused})` : '(no answer)';
}

/** `turn:[2001:db8::1]:3478?transport=udp` → `[2001:db8::1]:3478` */
function hostOf(url) {
  return url.replace(/^turns?:/i, '').replace(/\?.*$/, '');
}

/** One TURN URL: gather on it alone, connect through it, count how long echoes take. */
class Probe {
  #a;
  #b;
  #url;
  #errors = [];
  #startedAt = performance.now();
  #gathered_ms = null;

  constructor(server) {
    const configuration = { iceServers: [server], iceTransportPolicy: 'relay' };
    this.#url = urlsOf(server)[0];
    this.#a = new RTCPeerConnection(configuration);
    this.#b = new RTCPeerConnection(configuration);
  }

  async run() {
    try {
      const channel = this.#a.createDataChannel('echo', { ordered: true });
      const gathered = within(GATHER_MS_MAX, this.#firstCandidate());
      const echoed = this.#echoes(channel);
      await Promise.all([negotiate(this.#a, this.#b), gathered]);
      const { first_ms, roundTrip_ms } = await within(ECHO_MS_MAX, echoed);
      return this.#result({ ok: true, ms: first_ms, roundTrip_ms });
    } catch {
      return this.#result({ ok: false, ms: this.#elapsed_ms() });
    } finally {
      this.#a.close();
      this.#b.close();
    }
  }

  #result(outcome) {
    return { url: this.#url, gathered_ms: this.#gathered_ms, errors: this.#errors, ...outcome };
  }

  #elapsed_ms() {
    return Math.round(performance.now() - this.#startedAt);
  }

  #firstCandidate() {
    return new Promise((resolve, reject) => {
      this.#a.addEventListener('icecandidate', (event) => {
        if (!event.candidate?.candidate) return;
        this.#gathered_ms ??= this.#elapsed_ms();
        resolve();
      });
      this.#a.addEventListener('icecandidateerror', (event) => this.#errors.push({ code: event.errorCode, url: event.url }));
      this.#a.addEventListener('icegatheringstatechange', () => {
        if (this.#a.iceGatheringState === 'complete' && this.#gathered_ms === null) reject(new Error('no candidate'));
      });
    });
  }

  #echoes(channel) {
    this.#b.addEventListener('datachannel', ({ channel: far }) => {
      far.addEventListener('message', ({ data }) => far.send(data));
    });
    return new Promise((resolve) => {
      const trips_ms = [];
      let first_ms = null;
      let sentAt;
      const send = () => { sentAt = performance.now(); channel.send(`echo ${trips_ms.length}`); };
      channel.addEventListener('open', send);
      channel.addEventListener('message', () => {
        trips_ms.push(performance.now() - sentAt);
        first_ms ??= this.#elapsed_ms();
        if (trips_ms.length < ECHOES) send();
        else resolve({ first_ms, roundTrip_ms: Math.min(...trips_ms) });
      });
    });
  }
}

function within(limit_ms, promise) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('too late')), limit_ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
