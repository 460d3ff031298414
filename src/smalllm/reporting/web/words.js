// Numbers as people read them, as in words.py.

const isNumber = (x) => typeof x === "number" && Number.isFinite(x);

function grouped(x) {
  return x.toLocaleString("en-US", { maximumFractionDigits: 0 });
}

function scientific(x) {
  if (!isNumber(x)) return "–";
  if (x === 0 || (Math.abs(x) >= 0.01 && Math.abs(x) < 1000)) return String(Number(x.toPrecision(3)));
  const [mantissa, exponent] = x.toExponential(2).split("e");
  return `${Number(mantissa)}e${Number(exponent)}`;
}

function number(x) {
  if (!isNumber(x)) return "–";
  if (x === 0) return "0";
  if (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e9) return scientific(x);
  return Math.abs(x) >= 999.5 ? grouped(Number(x.toPrecision(3))) : x.toPrecision(3);
}

function count(x) {
  if (!isNumber(x)) return "–";
  if (Math.abs(x) < 999999.5) return grouped(x);
  const rounded = Number(x.toPrecision(3));
  for (const [size, name] of [[1e12, "T"], [1e9, "B"]]) if (Math.abs(rounded) >= size) return number(rounded / size) + name;
  return `${number(rounded / 1e6)}M`;
}

function rate(x) {
  if (!isNumber(x)) return "–";
  return Math.abs(x) < 999.5 ? number(x) : count(Number(x.toPrecision(3)));
}

function share(x) {
  return isNumber(x) ? `${number(100 * x)}%` : "–";
}

function duration(x) {
  if (!isNumber(x)) return "–";
  const whole = Math.round(x);
  if (whole < 60) return `${number(x)} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(x / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  const hours = Math.round(x / 3600);
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const FORMS = { number, rate, scientific, share };
