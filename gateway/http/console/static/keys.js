// Holds pasted keys, or tokens in their place, in sessionStorage: this tab only, gone when it closes. Nothing else on the
// page stores a key.

const KEYS = "weighbridge.keys";
const CHOSEN = "weighbridge.chosen-key";

// A token that was given for a key has an end; it is as good as forgotten from then on.
const ended = (entry) => typeof entry.until === "number" && entry.until <= Date.now();

function read() {
  try {
    const keys = JSON.parse(sessionStorage.getItem(KEYS) ?? "[]");
    return Array.isArray(keys) ? keys.filter((entry) => typeof entry?.key === "string" && !ended(entry)) : [];
  } catch {
    return []; // storage that is switched off or holds something else: as if no key had been pasted
  }
}

let fallback = null; // where sessionStorage is refused, keys live as long as the page

function write(keys) {
  try {
    sessionStorage.setItem(KEYS, JSON.stringify(keys));
  } catch {
    fallback = keys;
  }
}

export const all = () => fallback?.filter((entry) => !ended(entry)) ?? read();

export function chosen() {
  const keys = all();
  const index = Number(sessionStorage.getItem(CHOSEN) ?? 0);
  return keys[index] ?? keys[0] ?? null;
}

export function choose(index) {
  sessionStorage.setItem(CHOSEN, String(index));
}

// Enough of a key to tell it from another, and too little to use: the public part that the key list of an
// administrator shows as well, or a few first characters where it is another kind of key.
function labelOf(key, name) {
  const shown = /^gk_[a-z0-9]+_[0-9A-Za-z]{12}(?=_)/.exec(key)?.[0] ?? key.slice(0, 8);
  return name ? `${name} (${shown}…)` : `${shown}…`;
}

// `session` is {token, until} where a token stands for the key: then the token is kept, and the key is not.
export function add(key, name, session = null) {
  const label = labelOf(key, name);
  const keys = all().filter((entry) => entry.key !== key && entry.label !== label);
  if (session === null) keys.push({ key, label });
  else keys.push({ key: session.token, label, until: session.until });
  write(keys);
  choose(keys.length - 1);
}

export function forget(entry) {
  write(all().filter((other) => other.key !== entry.key));
  choose(0);
}

// What is wrong with a pasted key before anything is sent; null where nothing is.
export function problemWith(key) {
  if (key === "") return "Paste a key first.";
  if (/\s/.test(key)) return "A key has no spaces or line breaks; copy it again.";
  if (!/^[\x21-\x7e]+$/.test(key)) return "A key has only plain letters, digits and signs; copy it again.";
  return null;
}
