// One chart: an SVG that is drawn anew for every width and view, with a cursor that reads values.

const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 3", "2 2.5", "9 3 2 3"];
const N_COLOURS = 7;
let nCharts = 0;

function element(name, attributes = {}, text = "") {
  const made = name === "svg" || SVG_NAMES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

const SVG_NAMES = new Set(["g", "path", "line", "text", "rect", "circle", "clipPath", "defs"]);

// The look of a line: one run has a colour per kind of line, several have a colour each.
function lookOf(one, isSingle) {
  if (isSingle) return { stroke: `var(--plot-${one.what})`, dash: "" };
  return { stroke: `var(--run-${one.index % N_COLOURS})`, dash: DASHES[Math.floor(one.index / N_COLOURS) % DASHES.length] };
}

function pathOf(one, xAxis, yAxis) {
  let path = "";
  const [first, last] = [place(one.x, xAxis.low) - 1, place(one.x, xAxis.high) + 1];
  for (let i = Math.max(0, first); i < Math.min(one.x.length, last); i++) {
    if ((xAxis.isLog && one.x[i] <= 0) || (yAxis.isLog && one.y[i] <= 0)) continue;
    const [px, py] = [xAxis.pixel(one.x[i]), Math.min(1e4, Math.max(-1e4, yAxis.pixel(one.y[i])))];
    path += `${path ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`;
  }
  return path;
}

// Builds a figure for a chart; returns how to draw it, to move its cursor, and its element.
function makeChart(chart, page) {
  const id = `c${nCharts++}`;
  const figure = element("figure", { class: chart.first ? "first" : "other" });
  const svg = element("svg", { tabindex: "0", role: "img" });
  const tip = element("div", { class: "tip", role: "status", hidden: "" });
  const legend = element("p", { class: "legend" });
  const caption = element("figcaption");
  const title = element("h3", {}, chart.title);
  if (chart.label.toLowerCase() !== chart.title.toLowerCase()) title.append(element("small", {}, chart.label));
  figure.append(title, legend, svg, tip, caption);
  const state = { id, chart, page, figure, svg, tip, legend, caption, lines: [], events: [], drag: null, at: null };
  listen(state);
  return { figure, draw: () => draw(state), cursor: (x) => moveCursor(state, x) };
}

function draw(state) {
  const { chart, page, svg, figure } = state;
  const { view } = page;
  const runs = page.shown();
  state.lines = runs.flatMap(([run, index]) => linesOf(run, index, chart, view));
  state.events = runs.flatMap(([run, index]) => eventsOf(run, view).map((event) => ({ ...event, index })));
  const width = Math.max(240, figure.clientWidth - 2 * parseFloat(getComputedStyle(figure).paddingLeft));
  const height = Math.round(chart.first ? Math.min(400, Math.max(250, 0.42 * width)) : Math.min(270, Math.max(210, 0.55 * width)));
  const isLog = view.y === "log" || (view.y === "auto" && chart.scale === "wide" && spreadsFar(state.lines));
  const [x0, x1] = page.xRange();
  const settled = view.range ? x0 : x0 + 0.02 * (x1 - x0);
  const visible = state.lines.map((one) => inside(one, x0, x1));
  const levels = levelsOf(runs.map(([run]) => run), chart);
  const options = { scale: chart.scale, isLog, settled, everything: view.everything };
  const [y0, y1] = valueRange(visible, view.range ? [] : levels.map((level) => level.value), options);
  const bottom = height - 36;
  const yTicks = axis(y0, y1, bottom, 12, isLog).ticks(5);
  const yTexts = yTicks.map((y) => tickText(chart, y));
  const left = 14 + 7.1 * Math.max(2, ...yTexts.map((text) => text.length));
  state.x = axis(x0, x1, left, width - 14, view.logX);
  state.y = axis(y0, y1, bottom, 12, isLog);
  state.box = { left, right: width - 14, top: 12, bottom };
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  drawFrame(state, yTicks, yTexts, width, height);
  drawLines(state, runs.length, levels);
  describe(state, runs);
  state.rule = element("line", { class: "rule", y1: 12, y2: bottom, visibility: "hidden" });
  state.selection = element("rect", { class: "selection", y: 12, height: bottom - 12, visibility: "hidden" });
  svg.append(state.selection, state.rule);
}

function inside(one, low, high) {
  const [first, last] = [place(one.x, low), place(one.x, high * (1 + 1e-12))];
  return { x: one.x.slice(first, last + 1), y: one.y.slice(first, last + 1) };
}

// Spikes of a hundred times the usual value are common.
function spreadsFar(lines) {
  const values = lines.flatMap((one) => one.y).filter((y) => y > 0).sort((a, b) => a - b);
  return values.length > 1 && values[values.length - 1] > 8 * quantile(values, 0.01);
}

function tickText(chart, y) {
  if (chart.form === "scientific") return scientific(y);
  if (y !== 0 && (Math.abs(y) < 1e-3 || Math.abs(y) >= 1e6)) return Math.abs(y) < 1e15 && Math.abs(y) >= 1e6 ? count(y) : scientific(y);
  return String(Number(y.toPrecision(4))).replace(/\B(?=(\d{3})+$)/g, Math.abs(y) >= 1000 ? "," : "");
}

function drawFrame(state, yTicks, yTexts, width, height) {
  const { svg, box, x, y, id, page } = state;
  const clip = element("clipPath", { id });
  clip.append(element("rect", { x: box.left, y: box.top - 4, width: box.right - box.left + 4, height: box.bottom - box.top + 4 }));
  const defs = element("defs");
  defs.append(clip);
  svg.append(defs);
  yTicks.forEach((value, i) => {
    const py = y.pixel(value);
    if (py < 4) return;
    svg.append(element("line", { class: "grid", x1: box.left, x2: box.right, y1: py, y2: py }));
    svg.append(element("text", { x: box.left - 7, y: py + 4, "text-anchor": "end" }, yTexts[i]));
  });
  svg.append(element("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  const [unit, unitName] = page.view.x === "time" ? timeUnit(x.high) : [1, ""];
  const scaled = axis(x.low / unit, x.high / unit, 0, 1, x.isLog);
  const say = page.view.x === "flops" ? scientific : (value) => (page.view.x === "time" ? String(Number(value.toPrecision(4))) : count(value));
  let end = -1e9;
  for (const value of scaled.ticks(width < 480 ? 4 : 7)) {
    const [px, text] = [x.pixel(value * unit), say(value)];
    if (px - 3.5 * text.length < end + 8) continue;
    end = px + 3.5 * text.length;
    svg.append(element("line", { class: "base", x1: px, x2: px, y1: box.bottom, y2: box.bottom + 4 }));
    svg.append(element("text", { x: Math.min(px, width - 3.6 * text.length), y: box.bottom + 17, "text-anchor": "middle" }, text));
  }
  const label = X_AXES[page.view.x].label + (unitName ? ` [${unitName}]` : "");
  svg.append(element("text", { class: "label", x: box.right, y: height - 3, "text-anchor": "end" }, label));
}

function drawLines(state, nRuns, levels) {
  const { svg, box, x, y, id, page, lines } = state;
  const isSingle = page.data.runs.length === 1;
  const group = element("g", { "clip-path": `url(#${id})` });
  for (const { text, name, value } of levels) {
    const py = y.pixel(value);
    const role = name === "floor" ? "floor" : "level";
    group.append(element("line", { class: `level ${role}`, x1: box.left, x2: box.right, y1: py, y2: py }));
  }
  for (const event of state.events) {
    const px = x.pixel(event.x);
    if (px < box.left - 1 || px > box.right + 1 || !Number.isFinite(px)) continue;
    group.append(element("line", { class: "event", x1: px, x2: px, y1: box.top, y2: box.bottom }));
    group.append(element("path", { class: "mark", d: `M${px - 5} ${box.top - 4}h10l-5 8z` }));
  }
  for (const one of lines) {
    const { stroke, dash } = lookOf(one, isSingle);
    const part = page.view.focus === null || page.view.focus === one.index ? "" : " faded";
    const path = element("path", { class: `curve ${one.what}${isSingle ? "" : " of-many"}${part}`, d: pathOf(one, x, y) });
    path.style.stroke = stroke;
    if (one.what !== "raw") path.style.strokeDasharray = dash;
    group.append(path);
    const [first, last] = [place(one.x, x.low), place(one.x, x.high * (1 + 1e-12))];
    if ((one.what === "val" && last - first <= 60) || one.x.length < 3) {
      for (let i = first; i <= Math.min(last, one.x.length - 1); i++) {
        const [cx, cy] = [x.pixel(one.x[i]), y.pixel(one.y[i])];
        if (!Number.isFinite(cx) || !Number.isFinite(cy)) continue;
        const dot = element("circle", { class: `dot${part}`, cx, cy, r: last - first <= 30 ? 3.2 : 2.2 });
        dot.style.fill = stroke;
        if (one.error && isNumber(one.error[i])) {
          const [y1, y2] = [y.pixel(one.y[i] - one.error[i]), y.pixel(one.y[i] + one.error[i])];
          const whisker = element("line", { class: `whisker${part}`, x1: cx, x2: cx, y1: y1 || y2, y2 });
          whisker.style.stroke = stroke;
          group.append(whisker);
        }
        group.append(dot);
      }
    }
  }
  for (const { text, name, value } of levels) { // over the curves, so that they can be read
    const py = y.pixel(value);
    const near = name === "floor" ? Math.min(py + 13, box.bottom - 3) : py < box.top + 16 ? py + 13 : py - 4;
    const role = name === "floor" ? "floor" : "level";
    group.append(element("text", { class: `halo ${role}`, x: box.right - 2, y: near, "text-anchor": "end" }, text));
  }
  svg.append(group);
}

// The legend, what a screen reader says, and what lies above the frame.
function describe(state, runs) {
  const { chart, page, legend, svg, caption, lines, y, events } = state;
  legend.replaceChildren();
  if (page.data.runs.length === 1 && (lines.length > 1 || (events.length && chart.first))) {
    for (const one of lines) {
      const key = element("span", { class: `key ${one.what}` }, one.name);
      key.style.setProperty("--key", lookOf(one, true).stroke);
      legend.append(key);
    }
  } else if (page.data.runs.length > 1 && chart.first) {
    legend.textContent = "Thick: training, smoothed. Dots: validation. Thin: single batches.";
  }
  if (events.length && chart.first) legend.append(element("span", { class: "key event" }, "event"));
  const ends = runs.map(([run, index]) => {
    const one = lines.filter((l) => l.index === index).pop();
    return one ? `${run.name}: ${one.name} from ${FORMS[chart.form](one.y[0])} to ${FORMS[chart.form](one.y[one.y.length - 1])}` : "";
  });
  svg.setAttribute("aria-label", `${chart.title} over ${X_AXES[page.view.x].label}. ${ends.filter(Boolean).join("; ")}. Arrow keys read values.`);
  let [highest, at] = [y.high, null];
  for (const one of lines) for (let i = 0; i < one.y.length; i++) if (one.y[i] > highest && one.x[i] >= state.x.low && one.x[i] <= state.x.high) [highest, at] = [one.y[i], one.x[i]];
  caption.textContent = chart.caption + (at === null ? "" : ` Above the frame: ${FORMS[chart.form](highest)} at ${placeOf(page, at)}.`);
}
