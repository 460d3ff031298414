// The settings of a side, and what they do to the next token: its distribution as bars.

import { count, endIds, nameOf, number, share } from "./samples.js";
import { element } from "./tokens.js";

export const DEFAULTS = {
  temperature: 0.8, top_k: 0, top_p: 0.9, min_p: 0, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0,
  logit_bias: [], stop: "", max_tokens: 200, past_context: "slide", n: 1,
};

// As in generation/sampling.py: a preset says how tokens are drawn, and leaves length, stops and samples alone.
const OFF = { temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0, logit_bias: [] };
export const PRESETS = {
  greedy: { ...OFF, temperature: 0 },
  conservative: { ...OFF, temperature: 0.6, top_k: 40 },
  nucleus: { ...OFF, temperature: 0.8, top_p: 0.9 },
};

// Of each: its name, the slider's range, what stands beside it, what it does.
const SLIDERS = {
  temperature: ["Temperature", 0, 2, 0.05, "0: greedy", "Divides the logits; 0 takes the likeliest token."],
  top_k: ["Top-k", 0, 100, 1, "0: all", "Keep the k likeliest tokens."],
  top_p: ["Top-p", 0.01, 1, 0.01, "1: all", "Keep the likeliest tokens whose probabilities reach p together."],
  min_p: ["Min-p", 0, 1, 0.01, "0: all", "Keep tokens at least this fraction as likely as the likeliest."],
  repetition_penalty: ["Repetition", 1, 2, 0.05, "1: off", "Make tokens that occurred less likely: their logits are divided, if positive, or multiplied by it."],
  presence_penalty: ["Presence", -2, 2, 0.1, "0: off", "Taken from the logits of tokens that were generated before."],
  frequency_penalty: ["Frequency", -2, 2, 0.1, "0: off", "Taken from the logits of tokens once for each time they were generated before."],
  max_tokens: ["Max tokens", 1, 1000, 1, "", "Most tokens to add to the text."],
  n: ["Samples", 1, 8, 1, "", "So many texts from the same prompt."],
};
const GROUPS = [
  ["Sampling", ["temperature", "top_k", "top_p", "min_p"]],
  ["Penalties", ["repetition_penalty", "presence_penalty", "frequency_penalty"]],
  ["Length", ["max_tokens", "n"]],
];

const errorLine = (name) => element("p", { class: "error", id: `error-${name}`, role: "alert", hidden: true });

// The panel. act: {change(name, value), preset(name), bias(id, label, value), side(i), roll(), seed(value), keep(isKept)}.
export function buildPanel(root, act) {
  const fields = {};
  const tabs = element("div", { class: "tabs", role: "group", "aria-label": "Settings of", hidden: true });
  for (const i of [0, 1]) tabs.append(element("button", { type: "button", onclick: () => act.side(i) }, `Side ${"AB"[i]}`));
  const run = element("select", { id: "run", "aria-describedby": "error-model", onchange: () => act.change("model", run.value) });
  const facts = element("p", { class: "note", id: "facts" });
  const presets = element("div", { class: "presets", role: "group", "aria-label": "Presets" });
  for (const name of Object.keys(PRESETS)) presets.append(element("button", { type: "button", "data-preset": name, onclick: () => act.preset(name) }, name));
  root.append(tabs, element("label", { class: "field" }, "Run", run), facts, errorLine("model"), presets);
  for (const [title, names] of GROUPS) {
    const group = element("fieldset", {}, element("legend", {}, title));
    for (const name of names) group.append(...slider(name, fields, act));
    root.append(group);
  }
  root.append(rest(fields, act));
  return { tabs, run, facts, presets, fields };
}

function slider(name, fields, act) {
  const [label, min, max, step, aside, what] = SLIDERS[name];
  const range = element("input", { type: "range", min, max, step, "aria-label": `${label}: ${what}`, tabindex: "0" });
  const field = element("input", { type: "number", id: name, step: "any", "aria-describedby": `error-${name}`, inputmode: "decimal" });
  const change = (value) => act.change(name, value === "" ? null : Number(value));
  range.addEventListener("input", () => change((field.value = range.value)));
  field.addEventListener("input", () => {
    range.value = field.value;
    change(field.value);
  });
  fields[name] = [field, range];
  const head = element("label", { for: name, title: what }, label, element("small", {}, aside));
  return [element("div", { class: "slider" }, head, range, field), errorLine(name)];
}

function rest(fields, act) {
  const box = element("div", { class: "rest" });
  const seed = element("input", { type: "number", id: "seed", min: 0, step: 1, "aria-describedby": "error-seed", oninput: () => act.seed(seed.value === "" ? null : Number(seed.value)) });
  const dice = element("button", { type: "button", id: "dice", title: "Another seed", "aria-label": "Another seed", onclick: act.roll }, "⚄");
  const keep = element("input", { type: "checkbox", id: "keep-seed", onchange: () => act.keep(keep.checked) });
  const stop = element("textarea", { id: "stop-texts", rows: 1, spellcheck: "false", placeholder: "one per line", title: "One in each line; \\n is a newline", "aria-describedby": "error-stop", oninput: () => act.change("stop", stop.value) });
  const past = element("select", { id: "past_context", "aria-describedby": "error-past_context", onchange: () => act.change("past_context", past.value) });
  past.append(element("option", { value: "slide" }, "forget the oldest"), element("option", { value: "stop" }, "stop"));
  const biases = element("ul", { class: "biases", id: "biases" });
  Object.assign(fields, { seed, keep, stop, past_context: past, biases });
  box.append(
    element("div", { class: "field seed" }, element("label", { for: "seed" }, "Seed"), seed, dice, element("label", {}, keep, "keep")), errorLine("seed"),
    element("label", { class: "field" }, "Stop texts", stop), errorLine("stop"),
    element("label", { class: "field" }, "Full context", past), errorLine("past_context"),
    element("fieldset", {}, element("legend", {}, "Logit bias"), element("p", { class: "note" }, "Click a token below “Next token” to make it likelier or less likely [-100 to 100]."), biases), errorLine("logit_bias"),
  );
  return box;
}

// Put a side's values into the fields; a field in which somebody writes is left alone.
export function showSettings(panel, { side, sides, seed, isSeedKept, models }, act) {
  const { fields } = panel;
  const { settings, model } = sides[side];
  panel.tabs.hidden = sides.length === 1;
  [...panel.tabs.children].forEach((tab, i) => tab.setAttribute("aria-pressed", i === side));
  panel.run.replaceChildren(...models.map(({ id }) => element("option", { value: id, selected: id === model }, id)));
  panel.facts.textContent = factsOf(models.find(({ id }) => id === model));
  const set = (field, value) => document.activeElement === field || (field.value = value ?? "");
  for (const name of Object.keys(SLIDERS)) for (const field of fields[name]) set(field, settings[name]);
  set(fields.seed, seed);
  set(fields.stop, settings.stop);
  fields.keep.checked = isSeedKept;
  fields.past_context.value = settings.past_context;
  for (const button of panel.presets.children) {
    const preset = PRESETS[button.dataset.preset];
    button.setAttribute("aria-pressed", Object.keys(preset).every((key) => JSON.stringify(settings[key]) === JSON.stringify(preset[key])));
  }
  showBiases(fields.biases, settings.logit_bias, act);
}

// Rows stay where the tokens are the same, so that one can be typed in.
function showBiases(list, biases, act) {
  const ids = [...biases.map(([id]) => id), endIds.size].join(" ");
  if (list.dataset.ids !== ids) list.replaceChildren(...biases.map((bias) => biasRow(bias, act)));
  list.dataset.ids = ids;
  biases.forEach(([, , value], i) => {
    const field = list.children[i].querySelector("input");
    if (document.activeElement !== field) field.value = value ?? "";
  });
}

function biasRow([id, label], act) {
  const name = nameOf(label, id);
  const field = element("input", { type: "number", min: -100, max: 100, step: 1, "aria-label": `Bias of ${name}`, "aria-describedby": "error-logit_bias" });
  field.addEventListener("input", () => act.bias(id, label, Number(field.value)));
  const remove = element("button", { type: "button", "aria-label": `Remove the bias of ${name}`, onclick: () => act.bias(id, label, null) }, "×");
  return element("li", {}, element("code", {}, name), field, remove);
}

export function factsOf(model) {
  if (!model) return "";
  const size = (x) => (x >= 1e6 ? `${number(x / 1e6)}M` : count(x));
  const facts = [`${size(model.n_parameters)} parameters`, `context ${count(model.context_length)}`, `vocabulary ${count(model.vocab_size)}`];
  if (Number.isFinite(model.bits_per_byte)) facts.push(`${number(model.bits_per_byte)} bits per byte`);
  return facts.join(" · ");
}

export function stopTexts(text) {
  const signs = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };
  return text.split("\n").filter(Boolean).map((line) => line.replace(/\\[nt\\]/g, (sign) => signs[sign]));
}

// ---------------------------------------------------------------- the next token

const WAIT_MS = 150; // after the last change, so that a moving slider does not ask at every step

// What may come next, for each side. face: {find(i, signal), bias(i, token), write(i, token, top), fail(error, i)}.
export function makeNexts(root, state, face) {
  const shown = { bars: [], timer: 0, control: null };
  async function findAll() {
    shown.control = new AbortController();
    const { signal } = shown.control;
    state.problems.bars = null;
    await Promise.all(shown.bars.map(async (bars, i) => {
      try {
        showBars(bars, await face.find(i, signal));
      } catch (error) {
        if (error.name !== "AbortError") face.fail(error, i);
      }
    }));
    if (!signal.aborted && !state.problems.bars) face.fail(null);
  }
  function refresh() {
    if (shown.bars.length !== state.sides.length) {
      shown.bars = state.sides.map((_, i) => makeBars(state.sides.length > 1 ? `Next token · ${"AB"[i]}` : "Next token", i, face));
      root.replaceChildren(...shown.bars.map((bars) => bars.root));
    }
    clearTimeout(shown.timer);
    shown.control?.abort();
    if (!state.running && state.models.length) shown.timer = setTimeout(findAll, WAIT_MS);
  }
  return { refresh };
}

function makeBars(name, i, face) {
  const summary = element("p", { class: "note" });
  const list = element("ol", { tabindex: "0", "aria-label": "Likeliest tokens" });
  const root = element("section", { class: "box next", "aria-label": name }, element("h2", {}, name), summary, list);
  const bars = { root, summary, list, rows: [], top: [] };
  bars.bias = (token) => face.bias(i, token);
  bars.write = (token) => face.write(i, token, bars.top);
  return bars;
}

// Rows are kept and change, so that a moving slider moves them.
function showBars(bars, { tokens, n_kept, kept_mass, entropy }) {
  const cut = tokens.some((token) => token.probability === 0) ? "; hatched: cut" : "";
  const kept = `${count(n_kept)} ${n_kept === 1 ? "token" : "tokens"} kept, ${share(kept_mass)} of the mass`;
  bars.summary.textContent = `${kept} · entropy ${number(entropy / Math.LN2)} bits. Thick: drawn from; thin: the model itself${cut}.`;
  bars.top = tokens.map(({ id, text, logprob }) => [id, text, logprob]).sort((a, b) => b[2] - a[2]).slice(0, 10);
  const highest = Math.max(1e-9, ...tokens.map(({ logprob, probability }) => Math.max(Math.exp(logprob), probability)));
  while (bars.rows.length < tokens.length) bars.rows.push(barRow(bars));
  bars.rows.forEach((row, i) => (row.root.hidden = i >= tokens.length));
  tokens.forEach((token, i) => showRow(bars.rows[i], token, highest));
}

function showRow(row, token, highest) {
  const [name, drawn, own] = [nameOf(token.text, token.id), token.probability, Math.exp(token.logprob)];
  row.token = token;
  row.root.classList.toggle("cut", drawn === 0);
  row.name.textContent = name;
  row.value.textContent = drawn === 0 ? "cut" : share(drawn);
  row.root.style.setProperty("--p", (drawn / highest).toFixed(4));
  row.root.style.setProperty("--model", (own / highest).toFixed(4));
  row.bias.title = `${name}: ${drawn === 0 ? "cut" : share(drawn)}, ${share(own)} under the model itself. Click to bias it.`;
  row.bias.setAttribute("aria-label", row.bias.title);
  row.write.setAttribute("aria-label", `Write ${name}`);
}

function barRow({ list, bias, write }) {
  const [name, value] = [element("code", {}), element("span", {})];
  const row = { name, value, token: null };
  row.bias = element("button", { type: "button", class: "bar", onclick: () => bias(row.token) }, name, element("i", {}), value);
  row.write = element("button", { type: "button", class: "write", title: "Write it", onclick: () => write(row.token) }, "+");
  row.root = element("li", {}, row.bias, row.write);
  list.append(row.root);
  return row;
}
