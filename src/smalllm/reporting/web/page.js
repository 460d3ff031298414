// The page: its charts, its controls, and, where it is served, the news of a run that trains.

const page = {
  data: readData(document),
  charts: [],
  // range: what is shown of the x axis, null for all; focus: the run that stands out; hidden: names of runs
  view: { x: "step", y: "auto", logX: false, smooth: 0.02, everything: false, range: null, focus: null, hidden: new Set() },
  shown() {
    const all = this.data.runs.map((run, index) => [run, index]);
    const known = all.filter(([run]) => !this.view.hidden.has(run.name));
    return this.view.x === "flops" ? known.filter(([run]) => isNumber(run.flops_per_token)) : known;
  },
  xRange() {
    if (this.view.range) return this.view.range;
    let [low, high] = [Infinity, 0];
    for (const [run] of this.shown()) {
      for (const table of [run.train, run.val, ...Object.values(run.tasks)]) {
        for (const x of xsOf(run, table, this.view.x)) {
          if (!isNumber(x)) continue;
          high = Math.max(high, x);
          if (x > 0) low = Math.min(low, x);
        }
      }
    }
    high = high || 1;
    return this.view.logX ? [Math.min(low, high / 1.01), high] : [0, high];
  },
  zoom(low, high) {
    const [from, to] = low === null ? [0, 0] : [low, high];
    this.view.range = null;
    if (to > from) {
      const [first, last] = this.xRange();
      const range = [Math.max(first, from), Math.min(last, to)];
      if (range[1] > range[0] && (range[0] > first || range[1] < last)) this.view.range = range;
    }
    this.draw();
  },
  cursor(x) {
    for (const chart of this.charts) chart.cursor(x);
  },
  draw() {
    document.getElementById("reset").hidden = this.view.range === null;
    for (const chart of this.charts) chart.draw();
  },
};

function readData(source) {
  return JSON.parse(source.getElementById("data").textContent);
}

function buildCharts() {
  const plots = document.getElementById("plots");
  page.charts = page.data.charts.map((chart, i) => makeChart({ ...chart, first: i === 0 }, page));
  plots.replaceChildren(...page.charts.map((chart) => chart.figure));
  if (!page.charts.length) plots.append(element("p", {}, "Nothing to draw yet."));
  document.getElementById("controls").hidden = !page.charts.length;
  const knowsFlops = page.data.runs.some((run) => isNumber(run.flops_per_token));
  document.querySelector("input[value=flops]").disabled = !knowsFlops;
  buildRuns();
  page.draw();
}

// A button per run that hides or shows it; pointing at it makes its curves stand out.
function buildRuns() {
  const box = document.getElementById("runs");
  box.hidden = page.data.runs.length < 2;
  if (box.hidden) return;
  box.replaceChildren(
    ...page.data.runs.map((run, index) => {
      const button = element("button", { type: "button", "aria-pressed": String(!page.view.hidden.has(run.name)) });
      const key = element("span", { class: "key train" }, run.name);
      const { stroke, dash } = lookOf({ index }, false);
      key.style.setProperty("--key", stroke);
      if (dash) key.classList.add("dashed");
      button.append(key);
      button.addEventListener("click", () => {
        if (!page.view.hidden.delete(run.name)) page.view.hidden.add(run.name);
        button.setAttribute("aria-pressed", String(!page.view.hidden.has(run.name)));
        page.draw();
      });
      const focus = (which) => () => {
        page.view.focus = which;
        page.draw();
      };
      button.addEventListener("pointerenter", focus(index));
      button.addEventListener("pointerleave", focus(null));
      return button;
    }),
  );
}

function buildControls() {
  const { view } = page;
  const on = (id, act) => {
    const control = document.getElementById(id);
    control.addEventListener("input", () => {
      act(control);
      page.draw();
    });
  };
  for (const radio of document.querySelectorAll("input[name=x]")) {
    radio.addEventListener("change", () => {
      [view.x, view.range] = [radio.value, null];
      page.draw();
    });
  }
  on("log-x", (box) => { [view.logX, view.range] = [box.checked, null]; });
  on("scale-y", (choice) => { view.y = choice.value; });
  on("everything", (box) => { view.everything = box.checked; });
  on("smoothing", (slider) => {
    view.smooth = slider.value === "0" ? 0 : 0.002 * 100 ** (slider.value / 100);
    document.getElementById("smoothing-is").textContent = view.smooth ? `${number(100 * view.smooth)}% of the points` : "none";
  });
  document.getElementById("reset").addEventListener("click", () => page.zoom(null));
  let width = document.body.clientWidth;
  window.addEventListener("resize", () => {
    if (document.body.clientWidth !== width) page.draw();
    width = document.body.clientWidth;
  });
}

// Where the page is served it asks every few seconds whether it has changed, and takes over the new parts.
async function watch(tag) {
  const said = document.getElementById("live");
  let next = tag;
  try {
    const answer = await fetch("/", { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 200) {
      next = answer.headers.get("ETag");
      takeOver(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } else if (answer.status !== 304) throw new Error(await answer.text());
    said.textContent = `Live: asked at ${new Date().toLocaleTimeString()}.`;
  } catch (error) {
    said.textContent = `Not live: ${error.message}`;
  }
  setTimeout(() => watch(next), Number(document.body.dataset.every) * 1000);
}

function takeOver(fresh) {
  const open = new Map([...document.querySelectorAll("details")].map((one) => [one.dataset.key, one.open]));
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (other && other.innerHTML !== part.innerHTML) part.replaceChildren(...other.childNodes);
  }
  for (const one of document.querySelectorAll("details")) if (open.has(one.dataset.key)) one.open = open.get(one.dataset.key);
  document.title = fresh.title;
  const kindOf = ({ charts, runs }) => JSON.stringify([charts, runs.map((run) => run.name)]);
  const known = kindOf(page.data);
  page.data = readData(fresh);
  if (kindOf(page.data) === known) page.draw(); // keeps what the reader is at
  else buildCharts();
}

buildCharts();
buildControls();
if (document.body.dataset.every) watch("");
