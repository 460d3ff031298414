// The page: what is written and chosen on it, and what it shows.

import { ApiError, asCurl, asPython, ask, copy } from "./client.js";
import { checkFilled, current, hasEnded, hasText, makeBranches, optionsOf, promptOf, requestOf, scorePrompt, shownEntry } from "./branches.js";
import { DEFAULTS, PRESETS, buildPanel, makeNexts, showSettings } from "./panel.js";
import { keep, kept, linkOf, linked } from "./store.js";
import { count, endIds, textOf, wordsOn } from "./samples.js";
import { card, draw, element, makeMirror, showTexts } from "./tokens.js";

const $ = (id) => document.getElementById(id);

// at: the entry of the history that is shown, or -1; problems: of the last run, and of the bars
const state = {
  prompt: "Once upon a time", sides: [{ model: "", settings: { ...DEFAULTS } }], side: 0, seed: 1, isSeedKept: false,
  theme: "auto", models: [], history: [], at: -1, running: null, problems: { run: null, bars: null },
};
let views = []; // of the samples on the page: {view, sample, side, place: its index in the side, note}
let [panel, nexts, mirror] = [null, null, null];

let isScheduled = false;
const branches = makeBranches(state, {
  show() {
    if (state.running && document.activeElement === $("generate")) focusOn("stop");
    show();
  },
  grew() {
    if (isScheduled) return;
    isScheduled = true;
    requestAnimationFrame(() => {
      isScheduled = false;
      showStatus();
      drawTexts();
    });
  },
  ended() {
    drawTexts();
    if (document.activeElement === $("stop")) focusOn("generate");
    show(false);
    this.said(`Done. ${$("status").textContent}`);
  },
  said(text) {
    $("said").textContent = text;
  },
  fail,
});

// A button that is about to be switched off hands the focus on.
function focusOn(id) {
  $(id).disabled = false;
  $(id).focus();
}

// Append what has come; a reader who is at the end of the text stays there.
function drawTexts() {
  const paper = $("paper");
  const isAtEnd = paper.scrollHeight - paper.scrollTop - paper.clientHeight < 60;
  for (const { view } of views) draw(view);
  if (isAtEnd) paper.scrollTop = paper.scrollHeight;
}

// ---------------------------------------------------------------- showing

// Nothing follows a text whose document has ended; the others can go on.
const canGoOn = () => Boolean(current(state)?.sides.some(({ samples }) => samples.some((sample) => sample.tokens.length && !hasEnded(sample))));

function showStatus() {
  for (const { note, sample } of views) if (note) note.textContent = wordsOn(sample);
  const samples = shownEntry(state)?.sides.flatMap((side) => side.samples) || [];
  if (samples.length === 1) $("status").textContent = wordsOn(samples[0]);
  else $("status").textContent = samples.length ? `${count(samples.reduce((sum, { n }) => sum + n, 0))} tokens in ${samples.length} texts` : "";
}

// Everything but what grows while a text is drawn. Views are made anew where other samples are to be seen.
function show(isAnew = true) {
  const entry = shownEntry(state);
  const [isCurrent, isRunning] = [Boolean(current(state)), Boolean(state.running)];
  if (isAnew) views = showTexts(entry, $("inline"), $("columns"), { cut: (where, at) => (branches.cut(where, at), show()), branch: branches.branch });
  mirror.show(state.prompt, state.models.length ? state.sides[state.side].model : null);
  if ($("prompt").value !== state.prompt) $("prompt").value = state.prompt;
  for (const root of [$("inline"), $("columns")]) root.classList.toggle("stale", Boolean(entry) && !isCurrent);
  $("generate").textContent = canGoOn() ? "Continue" : "Generate";
  $("generate").disabled = isRunning || !state.models.length;
  $("stop").disabled = !isRunning;
  $("again").disabled = isRunning || !hasText(entry);
  $("edit").disabled = isRunning || !isCurrent || !hasText(entry);
  $("compare").setAttribute("aria-pressed", state.sides.length === 2);
  document.body.classList.toggle("many", !$("columns").hidden || state.sides.length === 2);
  showStatus();
  showHistory();
  showSettings(panel, state, act);
  showProblems();
  nexts.refresh();
  keepSoon();
}

let keeping = 0;
function keepSoon() {
  clearTimeout(keeping);
  keeping = setTimeout(() => keep(state), 300);
}

function showHistory() {
  $("history").hidden = state.history.length < 2;
  const buttons = state.history.map(({ what }, i) => {
    const open = () => (branches.stop(), Object.assign(state, { at: i, prompt: state.history[i].prompt }), show());
    return element("li", {}, element("button", { type: "button", "aria-current": i === state.at && "true", onclick: open }, what));
  });
  const list = $("history").firstElementChild;
  list.replaceChildren(...buttons);
  list.scrollLeft = list.children[state.at]?.offsetLeft - list.clientWidth / 2 || 0;
}

// ---------------------------------------------------------------- problems

// error: null where all is well again.
function fail(of, error, side = state.side) {
  if (error && !(error instanceof ApiError)) console.error(error);
  state.problems[of] = error && { param: error.param, message: error.message, side };
  if (of === "run" && state.sides[side]) state.side = side;
  showSettings(panel, state, act);
  showProblems();
}

// Each problem at the control that it is about, else under the buttons.
function showProblems() {
  for (const line of document.querySelectorAll(".settings .error, #error, #error-prompt")) line.hidden = true;
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  for (const problem of Object.values(state.problems)) {
    if (!problem) continue;
    const isHere = problem.side === state.side && problem.param;
    const line = (isHere && $(`error-${problem.param}`)) || $("error");
    const said = problem.side === state.side ? problem.message : `Side ${"AB"[problem.side]}: ${problem.message}`;
    line.textContent = line.hidden || line.textContent === said ? said : `${line.textContent} ${said}`;
    line.hidden = false;
    line.closest("details")?.setAttribute("open", "");
    document.querySelector(`[aria-describedby~="${line.id}"]`)?.setAttribute("aria-invalid", "true");
  }
}

async function askNext(i, signal) {
  const side = state.sides[i];
  checkFilled(side);
  return ask("distribution", { ...optionsOf(side), prompt: await promptOf(state, i, signal), top: 50 }, signal);
}

function biasOn(i, { id, text }) {
  state.side = i;
  const { settings } = state.sides[i];
  if (!settings.logit_bias.some(([one]) => one === id)) act.change("logit_bias", [...settings.logit_bias, [id, text, 0]]);
  else show(false);
  const row = settings.logit_bias.findIndex(([one]) => one === id);
  const field = panel.fields.biases.children[row < 0 ? panel.fields.biases.children.length - 1 : row].querySelector("input");
  field.focus();
  field.select();
}

// ---------------------------------------------------------------- what the controls do

const act = {
  change(name, value) {
    const side = state.sides[state.side];
    if (name === "model") side.model = value;
    else side.settings = { ...side.settings, [name]: value };
    state.problems.run = null;
    show(false);
  },
  bias(id, label, value) {
    const others = state.sides[state.side].settings.logit_bias;
    act.change("logit_bias", value === null ? others.filter(([one]) => one !== id) : others.map((one) => (one[0] === id ? [id, label, value] : one)));
  },
  set(changes) {
    Object.assign(state, changes);
    show(false);
  },
  preset: (name) => act.set({ sides: state.sides.map((side, i) => (i === state.side ? { ...side, settings: { ...side.settings, ...PRESETS[name] } } : side)) }),
  side: (side) => act.set({ side }),
  roll: () => act.set({ seed: Math.floor(Math.random() * 2 ** 31) }),
  seed: (seed) => act.set({ seed, isSeedKept: true }),
  keep: (isSeedKept) => act.set({ isSeedKept }),
};

function compare() {
  branches.stop();
  const [side] = state.sides;
  const other = state.models.find(({ id }) => id !== side.model)?.id || side.model;
  state.sides = state.sides.length === 2 ? [side] : [side, { model: other, settings: structuredClone(side.settings) }];
  state.side = state.sides.length - 1;
  show();
}

async function said(button, text) {
  const before = button.textContent;
  const isCopied = await copy(text);
  button.textContent = isCopied ? "Copied" : "Select it below";
  $("said").textContent = isCopied ? "Copied." : "";
  setTimeout(() => (button.textContent = before), 1200);
}

// The request that was sent for what is shown; before the first, the one that would be sent.
function requestShown() {
  const entry = shownEntry(state);
  return entry?.sides[Math.min(state.side, entry.sides.length - 1)].request || requestOf(state.sides[state.side], state.prompt, state);
}

function showTheme() {
  document.documentElement.dataset.theme = state.theme;
  $("theme").textContent = `Theme: ${state.theme}`;
}

function listen() {
  const on = (id, action) => $(id).addEventListener("click", (event) => action(event.currentTarget));
  const generate = () => (canGoOn() ? branches.goOn() : branches.start());
  on("generate", generate);
  on("stop", branches.stop);
  on("again", branches.start);
  on("clear", () => (branches.stop(), Object.assign(state, { prompt: "", at: -1 }), show(), $("prompt").focus()));
  on("edit", () => {
    const [sample] = current(state).sides[Math.min(state.side, current(state).sides.length - 1)].samples;
    Object.assign(state, { prompt: state.prompt + textOf(sample), at: -1 });
    show();
    $("prompt").focus();
  });
  on("compare", compare);
  on("share", (button) => said(button, linkOf(state)));
  on("copy-text", (button) => said(button, state.prompt + (current(state) ? textOf(current(state).sides[0].samples[0]) : "")));
  on("copy-curl", (button) => said(button, asCurl(requestShown())));
  on("copy-python", (button) => said(button, asPython(requestShown())));
  on("theme", () => {
    state.theme = { auto: "light", light: "dark", dark: "auto" }[state.theme];
    showTheme();
    keep(state);
  });
  $("prompt").addEventListener("input", () => {
    state.prompt = $("prompt").value;
    state.problems.run = null;
    show(false);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.running) branches.stop();
    else if (event.key === "Escape" && card.isOpen) card.hide();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("generate").disabled) (event.shiftKey ? branches.start : generate)();
    else return;
    event.preventDefault();
  });
  window.addEventListener("hashchange", takeLink);
  window.addEventListener("pagehide", () => keep(state));
  $("paper").addEventListener("click", (event) => event.target === event.currentTarget && $("prompt").focus());
}

function takeLink() {
  const found = linked();
  if (!found) return;
  branches.stop();
  Object.assign(state, found, { side: 0, at: -1 });
  takeModels();
  show();
}

function takeModels() {
  for (const side of state.sides) if (!state.models.some(({ id }) => id === side.model)) side.model = state.models[0]?.id || "";
}

async function open() {
  Object.assign(state, kept());
  const link = linked();
  if (link) Object.assign(state, link, { at: -1 });
  panel = buildPanel($("settings"), act);
  nexts = makeNexts($("nexts"), state, {
    find: askNext,
    bias: biasOn,
    write: branches.write,
    fail: (error, i) => fail("bars", error, i),
  });
  mirror = makeMirror($("mirror"), $("prompt"), (...prompt) => scorePrompt(state, ...prompt));
  card.listen();
  listen();
  showTheme();
  show();
  try {
    state.models = (await ask("v1/models")).data;
  } catch (error) {
    return fail("run", error);
  }
  for (const { eos_id } of state.models) endIds.add(eos_id);
  $("about").textContent = state.models.map(({ id }) => id).join(", ");
  takeModels();
  show();
}

open();
