// The section of the network test: one line of words per transport.

import { TRANSPORTS } from './credentials.js';
import { testNetwork } from './networktest.js';
import { byId, say } from './page.js';
import { nameOf } from './words.js';

const PURPOSE = {
  udp: 'The shortest way, and the one for live media.',
  tcp: 'Passes firewalls that let only connections through.',
  tls: 'Looks like https to a strict firewall.',
};

export class TestView {
  #iceServersOf;
  #lines = {};
  #running = null;

  constructor(iceServersOf) {
    this.#iceServersOf = iceServersOf;
    for (const transport of TRANSPORTS) {
      this.#lines[transport] = addLine(transport);
      this.#show(transport, 'unknown', 'not tested yet', PURPOSE[transport]);
    }
    byId('run-test').addEventListener('click', () => this.run().catch(() => {}));
  }

  /** Resolves with the results of networktest.js; a second request while one runs shares it. */
  run() {
    this.#running ??= this.#test().finally(() => { this.#running = null; });
    return this.#running;
  }

  async #test() {
    const button = byId('run-test');
    button.disabled = true;
    button.textContent = 'Testing…';
    say(byId('test-problem'), null);
    for (const transport of TRANSPORTS) this.#show(transport, 'waiting', 'testing', 'Asking for a relay address, then sending through it.');
    try {
      return await testNetwork(await this.#iceServersOf(), (transport, result) => this.#showResult(transport, result));
    } catch (error) {
      for (const transport of TRANSPORTS) this.#show(transport, 'unknown', 'not tested', PURPOSE[transport]);
      say(byId('test-problem'), error.message);
      throw error;
    } finally {
      button.disabled = false;
      button.textContent = 'Test again';
    }
  }

  #showResult(transport, { ok, ms, detail }) {
    this.#show(transport, ok ? 'works' : 'fails', ok ? `works, ${ms} ms` : 'does not work', detail);
  }

  #show(transport, verdict, summary, detail) {
    const { item, verdictText, detailText } = this.#lines[transport];
    item.dataset.verdict = verdict;
    verdictText.textContent = summary;
    detailText.textContent = detail;
  }
}

function addLine(transport) {
  const item = document.createElement('li');
  const mark = document.createElement('i');
  const name = document.createElement('b');
  const verdictText = document.createElement('span');
  const detailText = document.createElement('p');
  mark.setAttribute('aria-hidden', 'true');
  name.textContent = nameOf(transport);
  verdictText.className = 'verdict';
  item.append(mark, name, ' ', verdictText, detailText);
  byId('tests').append(item);
  return { item, verdictText, detailText };
}
