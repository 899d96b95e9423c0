// The call section: buttons, videos, state and the sampling that feeds the figures and the graph.

import { Call } from './call.js';
import { restrictTo } from './credentials.js';
import { Figures } from './figures.js';
import { Graph } from './graph.js';
import { byId, say, setState } from './page.js';
import { PALETTES, Picture } from './picture.js';
import { SourceOfA } from './source.js';
import { bitrateBetween, read } from './stats.js';
import { bytes, nameOf } from './words.js';

const SAMPLE_MS = 500;

export class CallView {
  #iceServersOf;
  #call = null;
  #source = new SourceOfA();
  #pictureOfB = null;
  #figures = new Figures();
  #graph = new Graph(byId('graph'));
  #sampler = null;
  #last = null;

  /** `iceServersOf()` resolves with iceServers, or rejects with words. */
  constructor(iceServersOf) {
    this.#iceServersOf = iceServersOf;
    byId('start').addEventListener('click', () => (this.#call ? this.stop() : this.start(chosenTransport()).catch(() => {})));
    byId('camera').addEventListener('click', () => this.#toggleCamera());
    byId('sound').addEventListener('click', () => this.#listen(byId('video-b').muted));
    byId('transport').addEventListener('change', () => this.#call && this.start(chosenTransport()).catch(() => {}));
  }

  /** Ends the present call, and resolves once a new one is connected; rejects with an Error in words. */
  async start(transport) {
    choose(transport);
    if (this.#call) this.#end();
    this.#announce('connecting', `Connecting through the relay over ${nameOf(transport)}.`);
    say(byId('call-problem'), null);
    byId('start').textContent = 'Cancel';
    const attempt = {};
    this.#call = attempt;
    try {
      const took_ms = await this.#connect(attempt, transport);
      if (this.#call !== attempt.call) throw new Error('Another call took its place.');
      byId('start').textContent = 'Hang up';
      this.#announce('connected', `Connected in ${took_ms} ms. Every packet between A and B passes the relay.`);
      this.#sample();
    } catch (error) {
      // Whoever ended or replaced this attempt has told the person already.
      if (this.#call === attempt || this.#call === attempt.call) this.#giveUp(error.message);
      throw error;
    }
  }

  async #connect(attempt, transport) {
    const iceServers = restrictTo(transport, await this.#iceServersOf());
    if (this.#call !== attempt) throw new Error('The call was ended before it connected.');
    if (iceServers.length === 0) throw new Error(`The server offers no address over ${nameOf(transport)}.`);
    const streams = { a: new MediaStream(), b: new MediaStream() };
    const call = new Call({
      iceServers,
      transport,
      onTrack: (side, track) => streams[side].addTrack(track),
      onStateChange: (state) => this.#call === call && this.#follow(state),
    });
    attempt.call = call;
    this.#call = call;
    for (const side of ['a', 'b']) byId(`video-${side}`).srcObject = streams[side];
    this.#pictureOfB = new Picture(PALETTES.b);
    return call.connect(this.#source.tracks, this.#pictureOfB.track);
  }

  /** Hangs up, as a person asked. */
  stop() {
    if (!this.#call) return;
    const passed = this.#last ? this.#last.a.bytesSent + this.#last.b.bytesSent : 0;
    this.#end();
    this.#announce('idle', passed > 0 ? `The call has ended. ${bytes(passed)} went through the relay.` : 'Ready when you are.');
  }

  /** { a, b } of stats.js, of the present call. */
  async readings() {
    const [a, b] = await Promise.all([read(this.#call?.a), read(this.#call?.b)]);
    return { a, b };
  }

  #follow(state) {
    if (state === 'failed') this.#giveUp('The path through the relay broke, and did not come back. Start the call again.');
    if (state === 'disconnected') this.#announce('connecting', 'The path went silent. Waiting for it to come back.');
    if (state === 'connected' && this.#sampler) this.#announce('connected', 'Connected again.');
  }

  #giveUp(words) {
    this.#end();
    this.#announce('failed', 'There is no call.');
    say(byId('call-problem'), words);
  }

  #end() {
    const call = this.#call;
    this.#call = null;
    call?.close?.();
    clearInterval(this.#sampler);
    this.#sampler = null;
    this.#last = null;
    this.#graph.stop();
    this.#source.rest();
    this.#pictureOfB?.stop();
    this.#pictureOfB = null;
    for (const side of ['a', 'b']) {
      byId(`video-${side}`).srcObject = null;
      // Brings the poster back.
      byId(`video-${side}`).load();
    }
    this.#figures.clear();
    byId('start').textContent = 'Start the call';
  }

  #announce(state, words) {
    setState(state);
    say(byId('status'), words);
  }

  #sample() {
    this.#graph.start();
    const take = async () => {
      const call = this.#call;
      const now = await this.readings();
      if (this.#call !== call || call === null) return;
      for (const side of ['a', 'b']) {
        now[side].sending = bitrateBetween(this.#last?.[side], now[side], 'bytesSent');
        now[side].receiving = bitrateBetween(this.#last?.[side], now[side], 'bytesReceived');
      }
      this.#last = now;
      this.#figures.show(now);
      this.#graph.push({ a: plotted(now.a), b: plotted(now.b) });
    };
    this.#sampler = setInterval(take, SAMPLE_MS);
    take();
  }

  async #toggleCamera() {
    const button = byId('camera');
    say(byId('camera-problem'), null);
    button.disabled = true;
    try {
      if (this.#source.onCamera) this.#source.toPicture();
      else await this.#source.toCamera(() => this.#source.onCamera && this.#toggleCamera());
      if (this.#call?.send) await this.#call.send(this.#source.tracks);
    } catch (error) {
      say(byId('camera-problem'), error.message);
    }
    const { onCamera } = this.#source;
    button.disabled = false;
    button.textContent = onCamera ? 'Stop camera' : 'Use camera';
    button.dataset.on = onCamera;
    byId('sound').hidden = !(onCamera && this.#source.tracks.audio);
    if (!onCamera) this.#listen(false);
  }

  /** Sound starts muted: beside its own microphone a loudspeaker howls. */
  #listen(wanted) {
    byId('video-b').muted = !wanted;
    byId('sound').textContent = wanted ? 'Mute' : 'Listen to A';
  }
}

function plotted(reading) {
  return { bitrate: reading.receiving, rtt: reading.rtt };
}

function chosenTransport() {
  return document.querySelector('input[name="transport"]:checked').value;
}

function choose(transport) {
  const radio = document.querySelector(`input[name="transport"][value="${CSS.escape(transport)}"]`);
  if (!radio) throw new Error(`There is no transport “${transport}”: choose any, udp, tcp or tls.`);
  radio.checked = true;
}
