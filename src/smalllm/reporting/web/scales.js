// From values to pixels: an axis, its ticks, and the range worth showing.

// A linear or logarithmic axis between two values, drawn between two pixels.
function axis(low, high, from, to, isLog) {
  const turn = isLog ? Math.log10 : (x) => x;
  const back = isLog ? (x) => 10 ** x : (x) => x;
  const [a, b] = [turn(low), turn(high)];
  return {
    low, high, isLog,
    pixel: (x) => from + ((turn(x) - a) / (b - a || 1)) * (to - from),
    value: (p) => back(a + ((p - from) / (to - from || 1)) * (b - a)),
    ticks: (n) => ticks(low, high, n, isLog),
  };
}

function ticks(low, high, n, isLog) {
  if (isLog && high / low > 5) {
    const decades = Math.log10(high / low);
    const every = Math.max(1, Math.ceil(decades / n));
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      if (every > 1 && e % every) continue;
      for (const m of decades < 3 && n > 3 ? [1, 2, 5] : [1]) found.push(m * 10 ** e);
    }
    return found.filter((x) => x >= low * 0.999999 && x <= high * 1.000001);
  }
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) found.push(i * step || 0);
  return found;
}

// The x axes one can choose: how they are called, and how a place on them is written.
const X_AXES = {
  step: { label: "steps", say: count },
  tokens: { label: "tokens", say: count },
  time: { label: "time", say: duration },
  flops: { label: "FLOPs", say: scientific },
};

// Times have ticks of a unit of their own: hours are not a power of ten of seconds.
function timeUnit(seconds) {
  if (seconds < 180) return [1, "s"];
  if (seconds < 3 * 3600) return [60, "min"];
  return seconds < 3 * 86400 ? [3600, "h"] : [86400, "d"];
}

function quantile(sorted, q) {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(q * (sorted.length - 1))))];
}

// The lowest and highest value to show. "spread": single spikes and what lies before `settled` do not count.
function valueRange(lines, marks, { scale, isLog, settled, everything }) {
  let values = [];
  for (const { x, y } of lines) for (let i = 0; i < y.length; i++) if (isNumber(y[i]) && (everything || x[i] >= settled)) values.push(y[i]);
  values = values.concat(marks).filter((y) => !isLog || y > 0);
  if (!values.length) return isLog ? [1, 10] : [0, 1];
  values.sort((a, b) => a - b);
  const cut = scale === "spread" && !everything && values.length > 20;
  let [low, high] = cut ? [quantile(values, 0.002), quantile(values, 0.995)] : [values[0], values[values.length - 1]];
  if (marks.length) [low, high] = [Math.min(low, ...marks), Math.max(high, ...marks)];
  const foot = marks.includes(low) ? 0.1 : 0.08; // a level at the bottom has its name below it
  if (isLog) return [low / Math.max(1.15, marks.includes(low) ? (high / low) ** foot : 0), Math.max(high * 1.15, low * 1.3)];
  if (scale === "zero") return [Math.min(0, low), high > 0 ? high * 1.1 : 1];
  const margin = Math.max(high - low, 0.02 * Math.abs(high), 1e-9);
  return [low - foot * margin, high + 0.1 * margin];
}

// Where in a sorted list a value would stand.
function place(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The index of the nearest place on a sorted list, or -1 for an empty one.
function nearest(sorted, value) {
  const i = place(sorted, value);
  if (i === 0) return sorted.length ? 0 : -1;
  return i === sorted.length || value - sorted[i - 1] < sorted[i] - value ? i - 1 : i;
}
