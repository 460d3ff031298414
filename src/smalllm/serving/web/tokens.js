// A text token by token: read from the server's chunks, drawn as it grows, with a card that shows what else was likely.
// Whatever a model wrote reaches the page through textContent alone.

const FULL_BITS = 10; // surprise at which a token has its deepest colour: one in a thousand, as on the page of `explain`
const bitsOf = (logprob) => -logprob / Math.LN2;

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export function number(x) {
  if (!Number.isFinite(x)) return "–";
  if (x === 0) return "0";
  return Math.abs(x) >= 999.5 ? x.toLocaleString("en-US", { maximumFractionDigits: 0 }) : x.toPrecision(3);
}

export const count = (x) => (Number.isFinite(x) ? x.toLocaleString("en-US") : "–");

export function share(p) {
  if (!Number.isFinite(p)) return "–";
  return p > 0 && p < 1e-5 ? "<0.001%" : `${number(100 * p)}%`;
}

// Ids of the tokens that end a document, which have no text.
export const endIds = new Set();

// A token on one line: spaces at its ends as dots, newlines and the like as signs.
export function nameOf(label, id) {
  if (label === "") return endIds.has(id) ? "(end)" : "(special)";
  const dots = (spaces) => "·".repeat(spaces.length);
  return label.replace(/^ +/, dots).replace(/ +$/, dots).replaceAll("\r", "␍").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

const isPart = (label) => label.includes("\ufffd"); // of a character

// A sample: its tokens {id, label, text, logprob, top: [[id, label, logprob]], mark, isJoined} and why it ended.
export function makeSample(tokens = []) {
  return { tokens, ahead: "", changed: tokens.length, finish: null, n: 0, most: 0, asked: 0, firstAt: 0, lastAt: 0 };
}

export function textOf(sample) {
  return sample.tokens.map((token) => (token.mark === "cut" ? "" : token.text)).join("");
}

export function idsOf(sample) {
  return sample.tokens.filter((token) => token.mark !== "cut" && token.mark !== "end").map((token) => token.id);
}

// Add a chunk's tokens. Its text can lag behind them (what may become a stop text is held back), so a token's text is
// its own label where that is whole; where a character's bytes are split over tokens it is what the offsets say.
export function addChoice(sample, choice, now) {
  const { token_ids: ids = [], logprobs, text = "" } = choice;
  const { tokens: labels = [], text_offset: offsets = [] } = logprobs || {};
  let late = text.slice(Math.min(sample.ahead.length, text.length));
  sample.ahead = sample.ahead.slice(text.length);
  ids.forEach((id, i) => {
    const label = labels[i] ?? "";
    const top = (logprobs?.top_token_ids?.[i] || []).map((one, j) => [one, logprobs.top_tokens[i][j], logprobs.top_token_logprobs[i][j]]);
    const token = { id, label, text: "", logprob: logprobs?.token_logprobs[i] ?? null, top };
    if (isPart(label)) {
      const characters = [...late];
      token.text = (i + 1 < ids.length ? characters.slice(0, offsets[i + 1] - offsets[i]) : characters).join("");
      late = late.slice(token.text.length);
      if (token.text) join(sample);
    } else {
      late = late.slice(giveRest(sample, late, label));
      token.text = label;
      sample.ahead += label.slice(late.length);
      late = late.slice(label.length);
    }
    sample.tokens.push(token);
  });
  if (ids.length) [sample.n, sample.firstAt, sample.lastAt] = [sample.n + ids.length, sample.firstAt || now, now];
  if (choice.finish_reason) finish(sample, choice.finish_reason);
}

// The tokens before this one have found their character: they are shown in it.
function join(sample) {
  for (let i = sample.tokens.length - 1; i >= 0 && sample.tokens[i].text === "" && isPart(sample.tokens[i].label); i--) {
    sample.tokens[i].isJoined = true;
    sample.changed = Math.min(sample.changed, i);
  }
}

// Text before that of a whole token belongs to the one before it: the sign for bytes that became no character, or
// what had been held back. How much it was.
function giveRest(sample, late, label) {
  const before = sample.tokens.at(-1);
  const at = late.indexOf(label);
  if (at <= 0 || !before || !isPart(before.label)) return 0;
  before.text += late.slice(0, at);
  sample.changed = Math.min(sample.changed, sample.tokens.length - 1);
  return at;
}

// What was shown but never sent as text lies behind a stop text: it is no part of the result.
function finish(sample, reason) {
  sample.finish = reason;
  let over = sample.ahead.length;
  sample.ahead = "";
  const last = sample.tokens.at(-1);
  if (reason !== "stop" || !last) return;
  if (last.label === "") last.mark = "end";
  for (let i = sample.tokens.length - 1; i >= 0 && over > 0; i--) {
    over -= sample.tokens[i].text.length;
    sample.tokens[i].mark = "cut";
    sample.changed = Math.min(sample.changed, i);
  }
}

// One of a token's alternatives in its place.
export function chosen(top, [id, label, logprob]) {
  return { id, label, text: isPart(label) ? "" : label, logprob, top, mark: "chosen" };
}

// Stretches of tokens that together should be characters, but are not: [from, to). A text cut within one has them.
export function brokenStretches({ tokens }) {
  const found = [];
  for (let i = 0, j; i < tokens.length; i = j + 1) {
    for (j = i; j < tokens.length && tokens[j].mark !== "cut" && isPart(tokens[j].label); j++);
    const text = tokens.slice(i, j).map((token) => token.text).join("");
    if (j > i && (text === "" || text.includes("\ufffd"))) found.push([i, j]);
  }
  return found;
}

// ---------------------------------------------------------------- the view

export function makeView(sample, { name, onBranch, onCut }) {
  const root = element("span", { class: "tokens", role: "listbox", tabindex: "0", "aria-label": name, "aria-orientation": "horizontal" });
  const view = { sample, root, at: -1, onBranch, onCut };
  sample.changed = 0;
  root.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") card.point(view, indexAt(view, event.target));
  });
  root.addEventListener("pointerleave", () => card.point(view, -1));
  root.addEventListener("click", (event) => {
    const i = indexAt(view, event.target);
    if (i >= 0 && window.getSelection().isCollapsed) card.open(view, i);
  });
  root.addEventListener("focus", () => root.matches(":focus-visible") && card.show(view, Math.max(0, view.at)));
  root.addEventListener("blur", () => card.isOpen || card.hide());
  root.addEventListener("keydown", (event) => onKey(view, event));
  draw(view);
  return view;
}

function indexAt({ root }, target) {
  return target.parentNode === root ? Number(target.dataset.i) : -1;
}

function onKey(view, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const last = view.sample.tokens.length - 1;
  const to = { ArrowLeft: view.at - 1, ArrowRight: view.at + 1, Home: 0, End: last }[event.key];
  if (to !== undefined) {
    card.show(view, Math.min(last, Math.max(0, to)));
    view.root.childNodes[view.at]?.scrollIntoView({ block: "nearest" });
  }
  else if (["ArrowDown", "Enter", " "].includes(event.key) && view.at >= 0) card.open(view, view.at, true);
  else return;
  event.preventDefault();
}

// Draw what is new; tokens that stand already are touched only where they have changed.
export function draw(view) {
  const { sample, root } = view;
  const fresh = document.createDocumentFragment();
  while (root.childNodes.length > sample.tokens.length) root.lastChild.remove();
  for (let i = Math.min(sample.changed, root.childNodes.length); i < sample.tokens.length; i++) {
    const token = sample.tokens[i];
    const span = root.childNodes[i] || element("span", { role: "option", "data-i": i });
    const isBroken = token.text === "" && isPart(token.label) && !token.isJoined;
    span.className = ["tok", token.mark, token.label === "" && "end", isBroken && "part", token.text.includes("\n") && "line"].filter(Boolean).join(" ");
    span.textContent = token.text;
    if (isBroken) span.setAttribute("aria-label", "part of a character");
    const depth = token.logprob === null ? 0 : Math.min(1, bitsOf(token.logprob) / FULL_BITS);
    span.style.setProperty("--s", depth.toFixed(2));
    if (!span.parentNode) fresh.append(span);
  }
  sample.changed = sample.tokens.length;
  root.append(fresh);
}

// ---------------------------------------------------------------- the card

// One card for the page. It shows the token under the pointer or the arrow keys; opened by a click, it stays and acts.
export const card = {
  isOpen: false,
  view: null,

  mark(view, i) {
    this.view?.root.childNodes[this.view.at]?.removeAttribute("id");
    this.view?.root.querySelector(".at")?.classList.remove("at");
    this.view = view;
    if (i < 0 || !view) return;
    view.at = i;
    const span = view.root.childNodes[i];
    span.id = "at";
    span.classList.add("at");
    view.root.setAttribute("aria-activedescendant", "at");
  },

  point(view, i) {
    if (this.isOpen || (i >= 0 && this.view === view && view.at === i && !this.box.hidden)) return;
    if (i >= 0) this.show(view, i);
    else if (document.activeElement !== view.root) this.hide();
  },

  show(view, i) {
    if (!view.sample.tokens[i]) return;
    this.isOpen = false;
    this.mark(view, i);
    fill(this.box, view, i);
    this.box.classList.remove("open");
    this.box.hidden = false;
    place(this.box, view.root.childNodes[i]);
  },

  open(view, i, isByKey = false) {
    this.show(view, i);
    this.isOpen = true;
    this.box.classList.add("open");
    if (isByKey) this.box.querySelector("button")?.focus();
  },

  hide() {
    this.mark(null, -1);
    this.isOpen = false;
    this.box.hidden = true;
  },

  listen() {
    this.box = document.getElementById("card");
    document.addEventListener("pointerdown", (event) => {
      if (this.isOpen && !this.box.contains(event.target) && !this.view.root.contains(event.target)) this.hide();
    });
    this.box.addEventListener("keydown", (event) => {
      const buttons = [...this.box.querySelectorAll("button")];
      const at = buttons.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (event.key === "Escape") {
        const { view } = this;
        this.show(view, view.at);
        view.root.focus({ focusVisible: true });
        event.stopPropagation();
      } else if (to !== undefined) buttons[Math.min(buttons.length - 1, Math.max(0, to))].focus();
      else return;
      event.preventDefault();
    });
    const follow = (event) => {
      if (this.box.hidden || event.target === this.box) return;
      if (this.isOpen || document.activeElement === this.view.root) place(this.box, this.view.root.childNodes[this.view.at]);
      else this.hide();
    };
    for (const kind of ["resize", "scroll"]) window.addEventListener(kind, follow, { capture: true, passive: true });
  },
};

function fill(box, view, i) {
  const token = view.sample.tokens[i];
  const rank = token.top.findIndex(([id]) => id === token.id);
  const facts = [token.logprob === null ? "probability not known" : `${share(Math.exp(token.logprob))} · ${number(bitsOf(token.logprob))} bits`];
  if (token.logprob !== null && token.top.length) facts.push(rank >= 0 ? `rank ${rank + 1}` : `rank above ${token.top.length}`);
  if (token.mark === "chosen") facts.push("put there by you");
  if (token.mark === "cut") facts.push("behind the stop text");
  const head = element("p", { class: "what" }, element("b", {}, `“${nameOf(token.label, token.id)}”`), element("small", {}, ` id ${token.id}`));
  const list = element("ol", {});
  for (const [id, label, logprob] of token.top) {
    const row = element("button", { type: "button", "aria-current": id === token.id && "true", onclick: () => view.onBranch(i, [id, label, logprob]) });
    row.append(element("code", {}, nameOf(label, id)), element("i", {}), element("span", {}, share(Math.exp(logprob))));
    row.style.setProperty("--p", Math.exp(logprob).toFixed(4));
    list.append(element("li", {}, row));
  }
  const acts = element("p", { class: "row" });
  acts.append(element("button", { type: "button", onclick: () => view.onBranch(i, null) }, "Draw again from here"));
  acts.append(element("button", { type: "button", onclick: () => view.onCut(i) }, "Cut from here"));
  const hint = element("small", { class: "hint" }, "Click, or ↓, to go on from here with another.");
  box.replaceChildren(head, element("p", {}, facts.join(" · ")), list, acts, hint);
}

// Under the token, or above it where there is no room below; narrow screens have it at their foot.
function place(box, span) {
  const narrow = window.matchMedia("(max-width: 760px)").matches;
  const [at] = span.getClientRects();
  if (narrow || !at) {
    for (const side of ["left", "top"]) box.style.removeProperty(side);
    return;
  }
  const { offsetWidth: width, offsetHeight: height } = box;
  const fits = at.bottom + height + 12 < window.innerHeight || at.top < height + 12;
  box.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 12))}px`;
  box.style.top = `${fits ? at.bottom + 6 : at.top - height - 6}px`;
}
