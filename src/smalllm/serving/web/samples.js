// A sample: a text as the tokens that a server sent, and how fast it came. Nothing here touches the page.
// Its tokens: {id, label, text, logprob, top: [[id, label, logprob]], mark: chosen|cut|end, isJoined}.

// Ids of the tokens that end a document, which have no text.
export const endIds = new Set();

// A token on one line: spaces at its ends as dots, newlines and the like as signs.
export function nameOf(label, id) {
  if (label === "") return endIds.has(id) ? "(end)" : "(special)";
  const dots = (spaces) => "·".repeat(spaces.length);
  return label.replace(/^ +/, dots).replace(/ +$/, dots).replaceAll("\r", "␍").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

export const isPart = (label) => label.includes("\ufffd"); // of a character

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
  const last = sample.tokens.findLast(({ label }) => isPart(label));
  if (late && last) last.text += late; // of bytes that the end left alone
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

// ---------------------------------------------------------------- in words

export function number(x) {
  if (!Number.isFinite(x)) return "–";
  if (x === 0) return "0";
  if (Math.abs(x) < 0.001) return "<0.001";
  return Math.abs(x) >= 999.5 ? x.toLocaleString("en-US", { maximumFractionDigits: 0 }) : x.toPrecision(3);
}

export const count = (x) => (Number.isFinite(x) ? x.toLocaleString("en-US") : "–");

export function share(p) {
  if (!Number.isFinite(p)) return "–";
  return `${number(100 * p)}%`;
}

function speedOf({ n, asked, firstAt, lastAt }) {
  const words = [`${count(n)} ${n === 1 ? "token" : "tokens"}`];
  if (n > 1 && lastAt > firstAt) words.push(`${number((1000 * (n - 1)) / (lastAt - firstAt))} tokens/s`);
  if (firstAt) words.push(`first after ${number(firstAt - asked)} ms`);
  return words;
}

function endOf({ finish, tokens, n, most }) {
  if (finish === "stop") return tokens.at(-1)?.mark === "end" ? "the document ended" : "ended at a stop text";
  if (finish === "length") return n < most ? "ended at the full context" : "ended at max tokens";
  return "";
}

// How a text came to be, for the line under it.
export const wordsOn = (sample) => (sample.n ? [...speedOf(sample), endOf(sample)].filter(Boolean).join(" · ") : "");
