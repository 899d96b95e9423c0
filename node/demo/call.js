// One call inside the page: two RTCPeerConnections that may only use relay candidates.
// Knows nothing of the DOM; what happens is told through `onStateChange`.

import { negotiate } from './negotiate.js';
import { whyNoCall } from './words.js';

const CONNECT_MS_MAX = 20_000;
// Longer than the ten seconds or so in which browsers give up on an Allocate over UDP would tell nothing more.
const GATHER_MS_MAX = 10_000;

export class Call {
  #transport;
  #errors = [];
  #gathered = false;
  #settle = null;
  #connectedOnce = false;
  #closed = false;

  /** `onTrack(side, track)` for each received track, `onStateChange(state)` once the call has been connected. */
  constructor({ iceServers, transport, onTrack, onStateChange }) {
    const configuration = { iceServers, iceTransportPolicy: 'relay' };
    this.#transport = transport;
    this.a = new RTCPeerConnection(configuration);
    this.b = new RTCPeerConnection(configuration);
    this.#wire('a', this.a, onTrack);
    this.#wire('b', this.b, onTrack);
    this.onStateChange = onStateChange;
  }

  /** Resolves with the milliseconds that connecting took; rejects with an Error whose message is for a person. */
  async connect(tracksOfA, videoOfB) {
    const startedAt = performance.now();
    const outcome = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
    // It may fail while the negotiation is still awaited; it is awaited below.
    outcome.catch(() => {});
    const timers = [
      setTimeout(() => this.#gathered || this.#fail(), GATHER_MS_MAX),
      setTimeout(() => this.#fail(), CONNECT_MS_MAX),
    ];
    try {
      this.videoSenderOfA = this.a.addTransceiver(tracksOfA.video, { direction: 'sendrecv' }).sender;
      // Negotiated even without a microphone, so that one can be switched in later.
      this.audioSenderOfA = this.a.addTransceiver(tracksOfA.audio ?? 'audio', { direction: 'sendonly' }).sender;
      await negotiate(this.a, this.b, () => this.b.addTrack(videoOfB));
      await outcome;
      return Math.round(performance.now() - startedAt);
    } catch (error) {
      this.close();
      throw error;
    } finally {
      timers.forEach(clearTimeout);
    }
  }

  /** Swaps what A sends, without a new negotiation. */
  async send(tracks) {
    await this.videoSenderOfA.replaceTrack(tracks.video);
    await this.audioSenderOfA.replaceTrack(tracks.audio ?? null);
  }

  close() {
    this.#closed = true;
    this.a.close();
    this.b.close();
    this.#settle?.reject(new Error('The call was ended before it connected.'));
  }

  #wire(side, pc, onTrack) {
    pc.addEventListener('track', (event) => onTrack(side, event.track));
    pc.addEventListener('icecandidate', (event) => { this.#gathered ||= Boolean(event.candidate?.candidate); });
    pc.addEventListener('icecandidateerror', (event) => this.#errors.push({ code: event.errorCode, url: event.url }));
    pc.addEventListener('icegatheringstatechange', () => {
      if (pc.iceGatheringState === 'complete' && !this.#gathered) this.#fail();
    });
    pc.addEventListener('connectionstatechange', () => this.#noteState());
  }

  #noteState() {
    if (this.#closed) return;
    const states = [this.a.connectionState, this.b.connectionState];
    if (states.every((state) => state === 'connected')) {
      this.#connectedOnce = true;
      this.#settle.resolve();
      this.onStateChange('connected');
    } else if (states.includes('failed')) {
      if (this.#connectedOnce) this.onStateChange('failed');
      else this.#fail();
    } else if (this.#connectedOnce && states.includes('disconnected')) {
      this.onStateChange('disconnected');
    }
  }

  #fail() {
    this.#settle?.reject(new Error(whyNoCall(this.#transport, this.#gathered, this.#errors)));
  }
}
