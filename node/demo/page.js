// The few things that every part of the page does with its elements.

export function byId(id) {
  return document.getElementById(id);
}

/** Shows words in an element that is hidden while it has none. */
export function say(element, words) {
  element.textContent = words ?? '';
  element.hidden = !words;
}

/** The machine-readable state: idle, connecting, connected or failed. */
export function setState(state) {
  document.documentElement.dataset.state = state;
}
