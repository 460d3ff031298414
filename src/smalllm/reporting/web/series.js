// From the page's data to the lines of a chart.

// The places of a table's rows on the chosen axis; what it does not say is read off the train rows by step.
function xsOf(run, table, kind) {
  const direct = { step: table.step, tokens: table.tokens, time: table.elapsed_s, flops: table.tokens }[kind];
  const scale = kind === "flops" ? run.flops_per_token : 1;
  return (table.step || []).map((step, i) => (isNumber(direct && direct[i]) ? direct[i] * scale : xAtStep(run, step, kind)));
}

function xAtStep(run, step, kind) {
  const table = run.train.step.length ? run.train : run.val;
  const column = { step: table.step, tokens: table.tokens, time: table.elapsed_s, flops: table.tokens }[kind];
  const scale = kind === "flops" ? run.flops_per_token : 1;
  const i = place(table.step, step);
  if (kind === "step" || !table.step.length) return step;
  const [a, b] = [Math.max(0, i - 1), Math.min(i, table.step.length - 1)];
  const part = table.step[b] > table.step[a] ? (step - table.step[a]) / (table.step[b] - table.step[a]) : 0;
  return (column[a] + part * (column[b] - column[a])) * scale;
}

// Each value's average with its neighbours on both sides, weights falling exponentially over a share of the points,
// at least 4: it neither lags behind nor is biased at an end.
function smoothed(values, part) {
  const decay = 1 - 1 / Math.max(4, part * values.length);
  const averages = values.map((value) => (isNumber(value) ? { total: -value, weight: -1 } : null));
  for (const order of [averages.keys(), [...averages.keys()].reverse()]) {
    let [total, weight] = [0, 0];
    for (const i of order) {
      if (averages[i] === null) continue;
      [total, weight] = [decay * total + values[i], decay * weight + 1];
      averages[i].total += total;
      averages[i].weight += weight;
    }
  }
  return averages.map((average) => average && average.total / average.weight);
}

// One line: places and values without holes, so that the nearest point can be searched.
function line(run, table, key, kind, look) {
  const xs = xsOf(run, table, kind);
  const values = look.values || table[key] || [];
  const errors = table[`${key}_stderr`];
  const [x, y, error] = [[], [], errors ? [] : null];
  for (let i = 0; i < values.length; i++) {
    if (!isNumber(values[i]) || !isNumber(xs[i])) continue;
    x.push(xs[i]);
    if (errors) error.push(errors[i]);
    y.push(look.isExponential ? Math.exp(Math.min(300, Math.max(-50, values[i]))) : values[i]);
  }
  return { x, y, error, ...look };
}

// All lines of one run in a chart: the raw values, the smoothed ones over them, the validation on top.
function linesOf(run, index, chart, view) {
  const isExponential = chart.is_exponential;
  const lines = [];
  if (chart.rows === "task") {
    const table = run.tasks[chart.task];
    if (table) lines.push(line(run, table, chart.key, view.x, { index, what: "val", name: chart.key }));
    return lines;
  }
  if (chart.rows !== "val") {
    const isSmooth = chart.smooth && view.smooth > 0;
    if (!isExponential || !isSmooth) {
      const name = isSmooth || chart.rows === "both" ? "training" : chart.key.replaceAll("_", " ");
      lines.push(line(run, run.train, chart.key, view.x, { index, what: isSmooth ? "raw" : "train", name, isExponential }));
    }
    if (isSmooth) {
      const table = run.trend || run.train;
      const values = smoothed(table[chart.key] || [], view.smooth);
      lines.push(line(run, table, chart.key, view.x, { index, what: "train", name: "smoothed", values, isExponential }));
    }
  }
  if (chart.rows !== "train") lines.push(line(run, run.val, chart.key, view.x, { index, what: "val", name: "validation", isExponential }));
  return lines.filter((one) => one.x.length);
}

function levelsOf(runs, chart) {
  const levels = new Map();
  for (const run of runs) {
    for (const [name, value] of run.levels[chart.rows === "task" ? `task ${chart.task}` : chart.key] || []) {
      const drawn = chart.is_exponential ? Math.exp(Math.min(300, Math.max(-50, value))) : value;
      levels.set(`${name} ${number(drawn)}`, { name, value: drawn });
    }
  }
  return levels.size > 2 ? [] : [...levels].map(([text, level]) => ({ text, ...level }));
}

function eventsOf(run, view) {
  return run.events
    .filter((event) => isNumber(event.step))
    .map((event) => ({ text: event.event, step: event.step, x: xAtStep(run, event.step, view.x) }));
}
