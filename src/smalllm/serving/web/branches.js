// What is asked of the server, and what comes of it: a history of entries, each a text or two with all their tokens.
// Entry: {what, prompt, sides: [{model, words, promptIds, request, samples}]}. Going on makes a new one behind it.

import { ApiError, ask, events } from "./client.js";
import { PRESETS, stopTexts } from "./panel.js";
import { addChoice, brokenStretches, chosen, idsOf, makeSample, nameOf, textOf } from "./samples.js";

export const N_ALTERNATIVES = 10;
const MOST_ENTRIES = 30;
const OFF = { top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0 };

export const shownEntry = (state) => state.history[state.at] || null;

// The shown entry, if it still belongs to the prompt and the number of sides: then its text can go on.
export function current(state) {
  const entry = shownEntry(state);
  return entry && entry.prompt === state.prompt && entry.sides.length === state.sides.length ? entry : null;
}

export const hasText = (entry) => Boolean(entry?.sides.some((side) => side.samples.some((sample) => sample.tokens.length)));

// ---------------------------------------------------------------- requests

// What decides the next token; what is off is left out.
export function optionsOf({ settings, model }) {
  const used = Object.fromEntries(Object.keys(OFF).filter((name) => settings[name] !== OFF[name]).map((name) => [name, settings[name]]));
  if (settings.logit_bias.length) used.logit_bias = Object.fromEntries(settings.logit_bias.map(([id, , bias]) => [String(id), bias]));
  return { model, temperature: settings.temperature, ...used };
}

// A field that was left empty must not silently be the server's default.
export function checkFilled({ settings }, seed = 0) {
  const empty = Object.entries({ ...settings, seed }).find(([, value]) => value === null || Number.isNaN(value));
  if (empty) throw new ApiError(400, { param: empty[0], message: "Give a number." });
}

export function requestOf(side, prompt, { seed, n = side.settings.n }) {
  const { model, ...options } = optionsOf(side);
  const { max_tokens, past_context, stop } = side.settings;
  const stops = stopTexts(stop);
  const rest = { ...(n === 1 ? {} : { n }), ...(stops.length ? { stop: stops } : {}), past_context };
  return { model, prompt, max_tokens, ...options, seed, ...rest, stream: true, logprobs: N_ALTERNATIVES, return_token_ids: true };
}

function wordsOf({ settings }, seed) {
  const name = Object.keys(PRESETS).find((one) => Object.entries(PRESETS[one]).every(([key, value]) => String(settings[key]) === String(value)));
  const { model, logit_bias, ...options } = optionsOf({ settings });
  const words = Object.entries(options).map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`);
  if (logit_bias) words.push(`${settings.logit_bias.length} biased`);
  return `${name ? `${name}: ` : ""}${words.join(", ")} · seed ${seed}`;
}

const contextOf = (state, model) => state.models.find(({ id }) => id === model)?.context_length;
const mayExceed = (text, most) => new TextEncoder().encode(text).length >= most; // a token is at least a byte, but for the one that opens a document

// What the model would read next, for one side: the very tokens of its text, else the prompt. No more than it can see.
export async function promptOf(state, i, signal) {
  const [side, entry] = [state.sides[i], current(state)];
  const [of, sample] = [entry?.sides[i], entry?.sides[i].samples[0]];
  const most = contextOf(state, side.model);
  let prompt = state.prompt + (sample ? textOf(sample) : "");
  if (of?.promptIds && of.model === side.model && sample.tokens.length) prompt = [...of.promptIds, ...idsOf(sample)];
  else if (mayExceed(prompt, most)) prompt = (await ask("tokenize", { model: side.model, prompt }, signal)).tokens;
  return typeof prompt === "string" ? prompt : prompt.slice(-most);
}

// The prompt as a sample, each token with what the model gave it; null where it is longer than the model sees, or
// its tokens are another text.
export async function scorePrompt(state, model, prompt, signal) {
  const most = contextOf(state, model);
  if (mayExceed(prompt, most) && (await ask("tokenize", { model, prompt }, signal)).count > most) return null;
  const body = { model, prompt, max_tokens: 0, echo: true, logprobs: N_ALTERNATIVES, return_token_ids: true };
  const sample = makeSample();
  addChoice(sample, (await ask("v1/completions", body, signal)).choices[0], 0);
  return textOf(sample) === prompt ? sample : null;
}

// ---------------------------------------------------------------- entries

function push(state, what, sides) {
  state.history.push({ what, prompt: state.prompt, sides });
  if (state.history.length > MOST_ENTRIES) state.history.shift();
  state.at = state.history.length - 1;
  return shownEntry(state);
}

const clip = (text) => (text.length > 12 ? `${text.slice(0, 11)}…` : text);
const copyOf = (side) => ({ ...side, samples: side.samples.map((sample) => ({ ...sample, tokens: [...sample.tokens] })) });
export const hasEnded = ({ tokens }) => tokens.at(-1)?.mark === "end";

// What ended a text is no part of it once it goes on.
function reopen(sample) {
  Object.assign(sample, { tokens: sample.tokens.filter(({ mark }) => mark !== "cut" && mark !== "end"), finish: null, n: 0 });
}

function freshSides(state, n = null) {
  return state.sides.map((side) => {
    const samples = Array.from({ length: Math.min(16, Math.max(1, n ?? side.settings.n)) }, () => makeSample());
    return { model: side.model, words: wordsOf(side, state.seed), promptIds: null, request: null, samples };
  });
}

// The texts of a page. face: {show(), grew(), fail(of, error, side), said(text)} are told what happens.
export function makeBranches(state, face) {
  function stop() {
    state.running?.abort();
    state.running = null;
  }

  function newSeed() {
    if (!state.isSeedKept) state.seed = Math.floor(Math.random() * 2 ** 31);
  }

  // Nothing is begun while a field is empty.
  function isReady() {
    for (const [i, side] of state.sides.entries()) {
      try {
        checkFilled(side, state.seed);
      } catch (error) {
        face.fail("run", error, i);
        return false;
      }
    }
    return true;
  }

  function start() {
    newSeed();
    if (!isReady()) return;
    const entry = push(state, "generated", freshSides(state));
    run(entry, entry.sides.map((side, i) => ({ side: i, samples: side.samples, body: requestOf(state.sides[i], state.prompt, state) })));
  }

  function goOn() {
    newSeed();
    if (!isReady()) return;
    const entry = push(state, "continued", current(state).sides.map(copyOf));
    run(entry, entry.sides.flatMap((side, i) => side.samples.flatMap((sample, j) => (hasEnded(sample) ? [] : jobOf(entry, i, sample, j)))));
  }

  // Continue one sample: from the very tokens it has, since the same text can be written with others.
  function jobOf(entry, i, sample, j = 0) {
    const side = entry.sides[i];
    const from = { ...(state.sides[i] || state.sides[0]), model: side.model };
    reopen(sample);
    const ids = idsOf(sample);
    const prompt = side.promptIds && ids.length ? [...side.promptIds, ...ids] : entry.prompt + textOf(sample);
    side.words = wordsOf(from, state.seed);
    return { side: i, samples: [sample], body: requestOf(from, prompt, { n: 1, seed: state.seed + j }) };
  }

  // Cut a text before one of its tokens; where: {side, place} of the sample.
  function cut(where, at, what = "cut") {
    stop();
    state.prompt = shownEntry(state).prompt;
    const entry = push(state, `${what} at ${at + 1}`, shownEntry(state).sides.map(copyOf));
    const sample = entry.sides[where.side].samples[where.place];
    Object.assign(sample, { tokens: sample.tokens.slice(0, at), finish: null, n: 0 });
    return { entry, sample };
  }

  // The same, put another token there or leave it to chance, and go on.
  function branch(where, at, alternative) {
    newSeed();
    if (!isReady()) return;
    const was = shownEntry(state).sides[where.side].samples[where.place].tokens[at];
    const { entry, sample } = cut(where, at, alternative ? `“${clip(nameOf(alternative[1], alternative[0]))}”` : "drawn again");
    if (alternative) sample.tokens.push(chosen(was.top, alternative));
    run(entry, [jobOf(entry, where.side, sample)]);
  }

  // Put one token behind the text of a side, without drawing any; top: what else was likely there.
  async function write(i, { id, text, logprob }, top) {
    if (state.running) return;
    const sides = current(state) ? current(state).sides.map(copyOf) : freshSides(state, 1);
    try {
      sides[i].promptIds ??= (await ask("tokenize", { model: sides[i].model, prompt: state.prompt })).tokens;
    } catch (error) {
      face.fail("run", error, i);
      return;
    }
    reopen(sides[i].samples[0]);
    sides[i].samples[0].tokens.push(chosen(top, [id, text, logprob]));
    push(state, `+ “${clip(nameOf(text, id))}”`, sides);
    face.show();
  }

  async function run(entry, jobs) {
    stop();
    const control = new AbortController();
    Object.assign(state, { running: control, problems: { run: null, bars: null } });
    for (const job of jobs) entry.sides[job.side].request = job.body;
    face.show();
    face.said("Generating.");
    const done = await Promise.all(jobs.map((job) => read(entry, job, control.signal)));
    if (state.running !== null && state.running !== control) return; // another one has begun
    state.running = null;
    const failed = done.findIndex(Boolean);
    face.ended();
    if (failed >= 0) face.fail("run", done[failed], jobs[failed].side);
  }

  // Read one answer to its end. An error is returned; that the reader wished to stop is none.
  async function read(entry, { side, samples, body }, signal) {
    const asked = performance.now();
    for (const sample of samples) Object.assign(sample, { ahead: "", n: 0, asked, firstAt: 0, lastAt: 0, most: body.max_tokens });
    try {
      for await (const event of events("v1/completions", body, signal)) {
        entry.sides[side].promptIds ??= event.prompt_token_ids ?? null;
        for (const choice of event.choices) if (samples[choice.index]) addChoice(samples[choice.index], choice, performance.now());
        face.grew();
      }
      for (const sample of samples) await mend(body.model, sample, signal);
    } catch (error) {
      return error.name === "AbortError" ? null : error;
    }
    return null;
  }

  return { stop, start, goOn, branch, cut, write };
}

// A character whose bytes lie on both sides of a cut arrives in pieces; the server knows what they are together.
async function mend(model, sample, signal) {
  for (const [from, to] of brokenStretches(sample).slice(0, 8)) {
    const tokens = sample.tokens.slice(from, to);
    const { prompt } = await ask("detokenize", { model, tokens: tokens.map(({ id }) => id) }, signal);
    if (prompt.includes("\ufffd")) continue;
    tokens.forEach((token, i) => (sample.tokens[from + i] = { ...token, isJoined: true, text: i === tokens.length - 1 ? prompt : "" }));
    sample.changed = Math.min(sample.changed, from);
  }
}
