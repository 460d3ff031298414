// Reading and zooming a chart with pointer, finger or keys.

const MAX_TIP_ROWS = 14;

function listen(state) {
  const { svg, page } = state;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    state.drag = pixelOf(state, event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    const px = pixelOf(state, event);
    if (state.drag !== null) select(state, state.drag, px);
    page.cursor(state.x.value(px));
    showTip(state, state.x.value(px));
  });
  svg.addEventListener("pointerup", (event) => {
    const [from, to] = [state.drag, pixelOf(state, event)];
    state.drag = null;
    select(state, 0, 0);
    if (from !== null && Math.abs(to - from) > 8) page.zoom(state.x.value(Math.min(from, to)), state.x.value(Math.max(from, to)));
  });
  svg.addEventListener("pointercancel", () => endDrag(state));
  svg.addEventListener("pointerleave", () => state.drag === null && leave(state));
  svg.addEventListener("blur", () => leave(state));
  svg.addEventListener("dblclick", () => page.zoom(null));
  svg.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey && onKey(state, event.key)) event.preventDefault();
  });
}

function pixelOf({ svg, box }, event) {
  const { left, width } = svg.getBoundingClientRect();
  const px = ((event.clientX - left) / width) * svg.viewBox.baseVal.width;
  return Math.min(box.right, Math.max(box.left, px));
}

function endDrag(state) {
  state.drag = null;
  select(state, 0, 0);
}

function leave(state) {
  state.at = null;
  state.tip.hidden = true;
  state.page.cursor(null);
}

function select({ selection }, from, to) {
  selection.setAttribute("visibility", Math.abs(to - from) > 8 ? "visible" : "hidden");
  selection.setAttribute("x", Math.min(from, to));
  selection.setAttribute("width", Math.abs(to - from));
}

// ← → read the next value (with Shift the next tenth), + - zoom about it, 0 and Escape show all again.
function onKey(state, key) {
  const { page, x, lines } = state;
  const longest = lines.reduce((best, one) => (one.x.length > best.length ? one.x : best), []);
  if (!longest.length) return false;
  const at = state.at ?? (x.low + x.high) / 2;
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const visible = place(longest, x.high) - place(longest, x.low);
    const by = Math.max(1, Math.round(visible / 200)) * (key === "ArrowRight" ? 1 : -1);
    const next = longest[Math.min(longest.length - 1, Math.max(0, nearest(longest, at) + by))];
    page.cursor(next);
    showTip(state, Math.min(x.high, Math.max(x.low, next)));
  } else if (key === "+" || key === "=" || key === "-") {
    const middle = x.pixel(at);
    const half = ((state.box.right - state.box.left) / 2) * (key === "-" ? 2 : 0.5);
    page.zoom(x.value(middle - half), x.value(middle + half));
  } else if (key === "0" || key === "Escape") {
    page.zoom(null);
  } else return false;
  return true;
}

function moveCursor({ rule, x, box }, at) {
  if (!rule) return;
  const px = at === null ? NaN : x.pixel(at);
  const isSeen = px >= box.left - 0.5 && px <= box.right + 0.5;
  rule.setAttribute("visibility", isSeen ? "visible" : "hidden");
  if (isSeen) for (const end of ["x1", "x2"]) rule.setAttribute(end, px);
}

// A box beside the cursor: where it stands, each line's nearest value, and events close by. Text only, never markup.
function showTip(state, at) {
  const { tip, lines, x, page, chart, figure, svg, events } = state;
  state.at = at;
  tip.replaceChildren(element("b", {}, placeText(state, at)));
  const isSingle = page.data.runs.length === 1;
  for (const one of lines) {
    const i = nearest(one.x, at);
    const beyond = Math.max(x.pixel(one.x[0]) - x.pixel(at), x.pixel(at) - x.pixel(one.x[one.x.length - 1]));
    if (i < 0 || beyond > 12 || tip.childElementCount > MAX_TIP_ROWS || (!isSingle && one.what === "raw")) continue;
    const name = isSingle ? one.name : `${page.data.runs[one.index].name} · ${one.name}`;
    const error = one.error && isNumber(one.error[i]) ? ` ± ${number(one.error[i])}` : "";
    const row = element("div", { class: "row" });
    const key = element("span", { class: `key ${one.what}` }, name);
    key.style.setProperty("--key", lookOf(one, isSingle).stroke);
    row.append(key, element("span", { class: "value" }, FORMS[chart.form](one.y[i]) + error));
    tip.append(row);
  }
  for (const event of events) {
    if (Math.abs(x.pixel(event.x) - x.pixel(at)) <= 6) tip.append(element("div", { class: "happened" }, `${isSingle ? "" : `${page.data.runs[event.index].name}, `}step ${count(event.step)}: ${event.text}`));
  }
  tip.hidden = false;
  const [frame, drawn] = [figure.getBoundingClientRect(), svg.getBoundingClientRect()];
  const px = drawn.left - frame.left + x.pixel(at) * (drawn.width / svg.viewBox.baseVal.width);
  const isRight = px > frame.width / 2;
  tip.style.left = isRight ? "auto" : `${px + 12}px`;
  tip.style.right = isRight ? `${frame.width - px + 12}px` : "auto";
  tip.style.top = `${drawn.top - frame.top + 14}px`;
}

// All that the first line knows of the place: its step, tokens and time, or for several runs only the axis's own.
function placeText({ page, lines }, at) {
  const run = page.data.runs[0];
  const table = run.train.step.length ? run.train : run.val;
  if (page.data.runs.length > 1 || !lines.length || !table.step.length) return placeOf(page, at);
  const i = nearest(xsOf(run, table, page.view.x), at);
  return `step ${count(table.step[i])} · ${count(table.tokens[i])} tokens · ${duration(table.elapsed_s[i])}`;
}

function placeOf({ view }, at) {
  const { label, say } = X_AXES[view.x];
  if (view.x === "step") return `step ${say(Math.round(at))}`;
  return view.x === "time" ? say(at) : `${say(at)} ${label}`;
}
