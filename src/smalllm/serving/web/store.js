// What a visit leaves behind: the state in this browser (never the server's token), and a link that repeats it.

import { DEFAULTS } from "./panel.js";
import { makeSample } from "./samples.js";

const KEY = "smalllm-playground";
const MOST_CHARACTERS = 2_000_000; // browsers keep about 5 MB for a site

// Keep the state. Branches share tokens, so each is written once; where all is too much, only what is shown is kept.
export function keep({ prompt, sides, seed, isSeedKept, theme, history, at }) {
  const rest = { prompt, sides, seed, isSeedKept, theme };
  const whole = pack(rest, history, at);
  const text = whole.length <= MOST_CHARACTERS ? whole : pack(rest, history.slice(at, at + 1), 0);
  try {
    localStorage.setItem(KEY, text.length <= MOST_CHARACTERS ? text : JSON.stringify(rest));
  } catch {
    // storage is full or forbidden: the page works without
  }
}

function pack(rest, history, at) {
  const places = new Map();
  const placeOf = (token) => places.get(token) ?? (places.set(token, places.size), places.size - 1);
  const entries = history.map((entry) => ({
    ...entry,
    sides: entry.sides.map((side) => ({ ...side, samples: side.samples.map(({ tokens, finish }) => ({ finish, tokens: tokens.map(placeOf) })) })),
  }));
  return JSON.stringify({ ...rest, at, history: entries, tokens: [...places.keys()] });
}

// The state as it was kept; {} where there is none or it cannot be read.
export function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY)) || {};
    const history = (found.history || []).map((entry) => ({
      ...entry,
      sides: entry.sides.map((side) => ({ ...side, samples: side.samples.map(unpacked(found.tokens)) })),
    }));
    return { ...checked(found), theme: ["light", "dark"].includes(found.theme) ? found.theme : "auto", history, at: history.length ? found.at : -1 };
  } catch {
    return {};
  }
}

const unpacked = (table) => ({ tokens, finish }) => Object.assign(makeSample(tokens.map((place) => table[place])), { finish });

export function linkOf({ prompt, sides, seed }) {
  const address = new URL(location.href);
  address.hash = `s=${encodeURIComponent(JSON.stringify({ prompt, sides, seed, isSeedKept: true }))}`;
  return address.href;
}

// What a link says, taken out of the address so that a reload keeps what was done since; null where it says nothing.
export function linked() {
  const said = location.hash.match(/^#s=(.*)/s);
  if (!said) return null;
  window.history.replaceState(null, "", location.pathname + location.search);
  try {
    return checked(JSON.parse(decodeURIComponent(said[1])));
  } catch {
    return null;
  }
}

// Only what is known, each of its own type: a link can come from anybody.
function checked(found) {
  const made = {};
  if (typeof found.prompt === "string") made.prompt = found.prompt;
  if (Number.isSafeInteger(found.seed)) made.seed = found.seed;
  if (typeof found.isSeedKept === "boolean") made.isSeedKept = found.isSeedKept;
  if (Array.isArray(found.sides) && found.sides.length) {
    made.sides = found.sides.slice(0, 2).map((side) => ({ model: String(side.model ?? ""), settings: checkedSettings(side.settings || {}) }));
  }
  return made;
}

function checkedSettings(found) {
  const isBias = (one) => Array.isArray(one) && Number.isInteger(one[0]) && typeof one[1] === "string" && Number.isFinite(one[2]);
  const settings = { ...DEFAULTS };
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    const value = found[name];
    if (name === "logit_bias" ? Array.isArray(value) && value.every(isBias) : typeof value === typeof usual) settings[name] = value;
  }
  return settings;
}
