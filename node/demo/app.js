// The demo page: finds a key, asks for iceServers with it, and hands them to the call, the network test and the
// person. `window.trunkline` offers the same to scripts: start(transport), stop(), stats(), networkTest().

import { CallView } from './callview.js';
import { copyText } from './copy.js';
import { Credentials, Refused } from './credentials.js';
import { forgetKey, parseKey, recallKey, rememberKey, takeKeyFromFragment } from './key.js';
import { byId, say } from './page.js';
import { TestView } from './testview.js';

const COPIED_MS = 6000;

let credentials = null;
let copiedTimer;

async function iceServers() {
  if (!credentials) throw new Refused('Give the page a key first.', true);
  const asked = credentials;
  const servers = await asked.iceServers();
  if (credentials === asked) showServers(servers);
  return servers;
}

const call = new CallView(iceServers);
const test = new TestView(iceServers);

/** Takes a key into use; on refusal the form comes back, with the reason beside it. */
async function adopt(key) {
  const candidate = new Credentials(key);
  credentials = candidate;
  try {
    await iceServers();
    rememberKey(key);
    showAccount(key);
  } catch (error) {
    if (credentials !== candidate) return;
    if (error.keyRefused) askForKey(error.message);
    else {
      showAccount(key);
      say(byId('servers-problem'), `${error.message} The page asks again when you start a call or a test.`);
    }
  }
}

function askForKey(problem) {
  credentials = null;
  call.stop();
  forgetKey();
  byId('key').hidden = false;
  byId('account').hidden = true;
  say(byId('key-problem'), problem);
  for (const id of ['start', 'run-test', 'copy']) byId(id).disabled = true;
  byId('json').replaceChildren(waiting('Waiting for a key.'));
  say(byId('status'), 'Waiting for a key.');
  byId('expiry').textContent = '';
}

function showAccount(key) {
  byId('key').hidden = true;
  byId('account').hidden = false;
  byId('account-host').textContent = location.host;
  byId('account-key').textContent = key.id;
  for (const id of ['start', 'run-test']) byId(id).disabled = false;
  say(byId('key-problem'), null);
  if (document.documentElement.dataset.state === 'idle') say(byId('status'), 'Ready when you are.');
}

function showServers(servers) {
  byId('json').replaceChildren(...tint(JSON.stringify(servers, null, 2)));
  byId('copy').disabled = false;
  const until = new Date(credentials.expiresAt).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  byId('expiry').textContent = `These credentials end at ${until}.`;
  say(byId('servers-problem'), null);
}

/** JSON text → nodes: strings that are values, and keys, get an element to colour them by. */
function tint(json) {
  return json.split(/("(?:[^"\\]|\\.)*"(?:: )?)/).map((part) => {
    if (!part.startsWith('"')) return part;
    const span = document.createElement('span');
    span.className = part.endsWith(': ') ? 'json-key' : 'json-text';
    span.textContent = part;
    return span;
  });
}

function waiting(words) {
  const span = document.createElement('span');
  span.className = 'waiting';
  span.textContent = words;
  return span;
}

async function copyServers() {
  say(byId('servers-problem'), null);
  try {
    const text = JSON.stringify(await iceServers(), null, 2);
    if (await copyText(text)) {
      say(byId('copy-note'), 'Copied.');
      clearTimeout(copiedTimer);
      copiedTimer = setTimeout(() => say(byId('copy-note'), null), COPIED_MS);
      return;
    }
    say(byId('copy-note'), null);
    say(byId('servers-problem'), 'The browser did not allow copying. Select the text above and copy it by hand.');
    getSelection().selectAllChildren(byId('json'));
  } catch (error) {
    say(byId('servers-problem'), error.message);
  }
}

function submitKey(event) {
  event.preventDefault();
  const id = byId('key-id').value.trim();
  const secret = byId('key-secret').value.trim();
  // Someone may paste "id:secret" whole into the first field.
  const key = secret ? parseKey(`${id}:${secret}`) : parseKey(id);
  if (!key) {
    say(byId('key-problem'), 'Both the key id and the secret are needed.');
    (id ? byId('key-secret') : byId('key-id')).focus();
    return;
  }
  byId('key-form').reset();
  adopt(key);
}

function begin() {
  const key = takeKeyFromFragment() ?? recallKey();
  if (key) adopt(key);
  else askForKey(null);
}

byId('key-form').addEventListener('submit', submitKey);
byId('forget-key').addEventListener('click', () => { askForKey(null); byId('key-id').focus(); });
byId('copy').addEventListener('click', copyServers);
// A demo link pasted into a tab that already shows the page changes only the fragment.
addEventListener('hashchange', () => {
  const key = takeKeyFromFragment();
  if (key) adopt(key);
});

window.trunkline = {
  start: (transport = 'any') => call.start(transport),
  stop: () => call.stop(),
  stats: () => call.readings(),
  networkTest: () => test.run(),
};

begin();
