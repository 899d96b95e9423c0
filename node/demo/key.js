// The TURN key of this tab: from the URL fragment, the form, or the tab's own storage.
// The secret must never stay in the visible URL, nor outlive the tab.

const STORED_AS = 'trunkline.key';

/** Reads `#key=<id>:<secret>`, and takes it out of the visible URL and the history entry. */
export function takeKeyFromFragment() {
  const given = new URLSearchParams(location.hash.slice(1)).get('key');
  if (given === null) return null;
  history.replaceState(history.state, '', location.pathname + location.search);
  return parseKey(given);
}

/** `id:secret` → { id, secret }, or null where one of the two is missing. */
export function parseKey(text) {
  const colon = text.indexOf(':');
  if (colon < 1) return null;
  const id = text.slice(0, colon).trim();
  // URLSearchParams turns '+' into a space; a secret never holds a space, so give it back.
  const secret = text.slice(colon + 1).trim().replaceAll(' ', '+');
  return id && secret ? { id, secret } : null;
}

export function rememberKey(key) {
  try {
    sessionStorage.setItem(STORED_AS, JSON.stringify(key));
  } catch {
    // Storage may be forbidden by the browser's settings: then the key lasts until the page is left.
  }
}

export function recallKey() {
  try {
    const key = JSON.parse(sessionStorage.getItem(STORED_AS));
    return key && key.id && key.secret ? key : null;
  } catch {
    return null;
  }
}

export function forgetKey() {
  try {
    sessionStorage.removeItem(STORED_AS);
  } catch {
    // Nothing was stored, then.
  }
}
