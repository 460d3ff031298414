// A text token by token: drawn as it grows, with a card that shows what else was likely.
// Whatever a model wrote reaches the page through textContent alone.

import { isPart, nameOf, number, share } from "./samples.js";

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

// ---------------------------------------------------------------- the view

// The texts of an entry: one alone goes on in the line of its prompt, several have boxes. act: {branch, cut}.
// Returns what is to be drawn again as it grows: {view, sample, side, place: its index in the side, note}.
export function showTexts(entry, inline, columns, act) {
  card.hide();
  const views = [];
  const isInline = entry?.sides.length === 1 && entry.sides[0].samples.length === 1;
  const viewOf = (side, place, note) => {
    const [where, sample] = [{ side, place }, entry.sides[side].samples[place]];
    const view = makeView(sample, { onBranch: (at, other) => act.branch(where, at, other), onCut: (at) => act.cut(where, at) });
    views.push({ view, sample, note, ...where });
    return view.root;
  };
  inline.replaceChildren(...(isInline ? [viewOf(0, 0, null)] : []));
  columns.hidden = !entry || isInline;
  columns.replaceChildren(...(entry && !isInline ? entry.sides.map((side, i) => columnOf(entry, side, i, viewOf)) : []));
  return views;
}

// What lies under the text area: its text, which says how high it is, and after a pause the colours of its tokens.
// score(model, text, signal): the text as a sample, or null. The area gets the pointer, so it asks what is under it.
export function makeMirror(mirror, area, score) {
  const shown = { key: "", timer: 0, control: null };
  async function colour(text, model) {
    shown.control = new AbortController();
    const { signal } = shown.control;
    const sample = await score(model, text, signal).catch(() => null); // without, it stays plain
    if (!sample || signal.aborted) return;
    const view = { sample, root: mirror, box: mirror, spans: [], at: -1, isPrompt: true };
    sample.changed = 0;
    mirror.replaceChildren();
    draw(view);
    mirror.append("\u200b");
    area.onpointermove = ({ clientX, clientY, pointerType }) => {
      const under = document.elementsFromPoint(clientX, clientY).find((one) => mirror.contains(one) && one.dataset.i);
      if (pointerType === "mouse") card.point(view, under ? indexAt(view, under) : -1);
    };
    area.onpointerleave = () => card.point(view, -1);
  }
  function show(text, model) {
    if (mirror.textContent !== `${text}\u200b`) mirror.textContent = `${text}\u200b`; // the line may end behind it
    const key = JSON.stringify([model, text]);
    if (key === shown.key) return;
    shown.key = key;
    clearTimeout(shown.timer);
    shown.control?.abort();
    area.onpointermove = null;
    if (model !== null && text) shown.timer = setTimeout(() => colour(text, model), 300);
  }
  return { show };
}

function columnOf(entry, side, i, viewOf) {
  const title = entry.sides.length > 1 ? `${"AB"[i]} · ${side.model}` : side.model;
  const column = element("section", { class: "column" }, element("h2", {}, title), element("p", { class: "note" }, side.words));
  side.samples.forEach((_, j) => {
    const note = element("p", { class: "note" });
    column.append(element("div", { class: "box sample" }, element("div", { class: "text" }, viewOf(i, j, note)), note));
  });
  return column;
}

function makeView(sample, { onBranch, onCut }) {
  const root = element("span", { class: "tokens", role: "listbox", tabindex: "0", "aria-label": "Text, token by token", "aria-orientation": "horizontal" });
  const view = { sample, root, box: root, spans: [], at: -1, onBranch, onCut };
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
  return target !== root && root.contains(target) && target.dataset.i ? Number(target.dataset.i) : -1;
}

function onKey(view, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const last = view.sample.tokens.length - 1;
  const to = { ArrowLeft: view.at - 1, ArrowRight: view.at + 1, Home: 0, End: last }[event.key];
  if (to !== undefined) {
    card.show(view, Math.min(last, Math.max(0, to)));
    view.spans[view.at]?.scrollIntoView({ block: "nearest" });
  }
  else if (["ArrowDown", "Enter", " "].includes(event.key) && view.at >= 0) card.open(view, view.at, true);
  else return;
  event.preventDefault();
}

// Draw what is new; tokens that stand already are touched only where they have changed. Behind each line that the
// text itself ends a box begins, so that the browser lays out the last one again and not all.
export function draw(view) {
  const { sample, spans } = view;
  for (let i = sample.changed; i < sample.tokens.length; i++) {
    if (i === spans.length) {
      const before = sample.tokens[i - 1]?.text;
      if (before?.endsWith("\n") && !view.isPrompt) view.root.append((view.box = element("span", { class: "lines", role: "presentation" })));
      spans.push(element("span", { role: "option", "data-i": i }));
      view.box.append(spans[i]);
    }
    drawToken(spans[i], sample.tokens[i]);
  }
  sample.changed = sample.tokens.length;
}

function drawToken(span, token) {
  const isBroken = token.text === "" && isPart(token.label) && !token.isJoined;
  span.className = ["tok", token.mark, token.label === "" && "end", isBroken && "part", token.text.includes("\n") && "line"].filter(Boolean).join(" ");
  span.textContent = token.text;
  if (isBroken) span.setAttribute("aria-label", "part of a character");
  const depth = token.logprob === null ? 0 : Math.min(1, bitsOf(token.logprob) / FULL_BITS);
  span.style.setProperty("--s", depth.toFixed(2));
}

// ---------------------------------------------------------------- the card

// One card for the page. It shows the token under the pointer or the arrow keys; opened by a click, it stays and acts.
export const card = {
  isOpen: false,
  view: null,

  mark(view, i) {
    this.view?.spans[this.view.at]?.removeAttribute("id");
    this.view?.root.querySelector(".at")?.classList.remove("at");
    this.view = view;
    if (i < 0 || !view) return;
    view.at = i;
    const span = view.spans[i];
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
    place(this.box, view.spans[i]);
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
      if (this.isOpen || document.activeElement === this.view.root) place(this.box, this.view.spans[this.view.at]);
      else this.hide();
    };
    for (const kind of ["resize", "scroll"]) window.addEventListener(kind, follow, { capture: true, passive: true });
  },
};

function fill(box, view, i) {
  const token = view.sample.tokens[i];
  const rank = token.top.findIndex(([id]) => id === token.id);
  const facts = [token.logprob === null ? "follows nothing: the model had nothing to expect it from" : `${share(Math.exp(token.logprob))} · ${number(bitsOf(token.logprob))} bits`];
  if (token.logprob !== null && token.top.length) facts.push(rank >= 0 ? `rank ${rank + 1}` : `beyond rank ${token.top.length}`);
  if (token.mark === "chosen") facts.push("put there by you");
  if (token.mark === "cut") facts.push("behind the stop text");
  const head = element("p", { class: "what" }, element("b", {}, `“${nameOf(token.label, token.id)}”`), element("small", {}, ` id ${token.id}`));
  const list = element("ol", {});
  const highest = Math.exp(Math.max(...token.top.map(([, , logprob]) => logprob)));
  for (const [id, label, logprob] of token.top) {
    const row = element("button", { type: "button", "aria-current": id === token.id && "true", onclick: () => view.onBranch(i, [id, label, logprob]) });
    row.append(element("code", {}, nameOf(label, id)), element("i", {}), element("span", {}, share(Math.exp(logprob))));
    row.style.setProperty("--p", (Math.exp(logprob) / highest).toFixed(4));
    list.append(element("li", {}, row));
  }
  const acts = element("p", { class: "row" });
  acts.append(element("button", { type: "button", onclick: () => view.onBranch(i, null) }, "Draw again from here"));
  acts.append(element("button", { type: "button", onclick: () => view.onCut(i) }, "Cut from here"));
  const hint = element("small", { class: "hint" }, "Click, or ↓, to go on from here with another.");
  box.replaceChildren(head, element("p", {}, facts.join(" · ")), list, ...(view.isPrompt ? [] : [acts, hint]));
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
