// The table of figures and the route line: one reading of both sides in, text out.

import { byId } from './page.js';
import { lossShare } from './stats.js';
import * as words from './words.js';

const ROWS = [
  ['Candidates', (r) => (r.candidateType ? `${r.candidateType} to ${r.remoteCandidateType}` : '–')],
  ['Transport', (r) => (r.relayProtocol ?? '–').toUpperCase()],
  ['Relayed address', (r) => r.relayAddress ?? '–'],
  ['Round trip', (r) => words.milliseconds(r.rtt ?? NaN)],
  ['Sending', (r) => words.bitrate(r.sending ?? NaN)],
  ['Receiving', (r) => words.bitrate(r.receiving ?? NaN)],
  ['Bytes sent', (r) => words.bytes(r.bytesSent)],
  ['Bytes received', (r) => words.bytes(r.bytesReceived)],
  ['Frames decoded', (r) => (r.framesPerSecond ? `${r.framesDecoded} (${Math.round(r.framesPerSecond)}/s)` : `${r.framesDecoded}`)],
  ['Packets lost', (r) => showLoss(r)],
  ['Jitter', (r) => words.milliseconds(r.jitter ?? NaN)],
];

/** Builds the rows once; afterwards only their text changes. */
export class Figures {
  #cells;

  constructor() {
    this.#cells = ROWS.map(([title, text]) => {
      const row = byId('figures').insertRow();
      row.className = title === 'Relayed address' ? 'address' : '';
      const head = document.createElement('th');
      head.scope = 'row';
      head.textContent = title;
      row.append(head);
      return { a: row.insertCell(), b: row.insertCell(), text };
    });
    this.clear();
  }

  clear() {
    for (const { a, b } of this.#cells) {
      a.textContent = '–';
      b.textContent = '–';
    }
    for (const side of ['a', 'b']) showRoute(side, null);
  }

  /** `readings` = { a, b } of stats.js, with `sending` and `receiving` in bit/s. */
  show(readings) {
    for (const { a, b, text } of this.#cells) {
      a.textContent = text(readings.a);
      b.textContent = text(readings.b);
    }
    for (const side of ['a', 'b']) showRoute(side, readings[side]);
  }
}

function showRoute(side, reading) {
  byId(`route-${side}`).textContent = reading?.relayAddress ?? 'no address yet';
  byId(`route-protocol-${side}`).textContent = (reading?.relayProtocol ?? '').toUpperCase();
}

function showLoss(reading) {
  const share = lossShare(reading);
  return share === null ? '–' : `${reading.packetsLost} (${(share * 100).toFixed(1)} %)`;
}
