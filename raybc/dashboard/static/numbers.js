// Numbers as text, the metric of a run, and the order of trials: what pages and figures share. No elements of a page.

// What trials are compared by, and the ends of the bars; set for each page by `compareBy`.
const SUCCESS = {
  label: "success",
  unit: "%",
  factor: 100,
  digits: 1,
  direction: "maximize",
  rate: true,
  has_success: true,
};
export const metric = { ...SUCCESS, ends: [0, 1] };

/** Take over the metric of a run, and what its trials measured as the ends of the bars. */
export function compareBy(found, trials) {
  Object.assign(metric, SUCCESS, found);
  if (metric.rate) {
    metric.ends = [0, 1];
    return;
  }
  const measured = trials.flatMap((t) => [t.score, ...(t.interval ?? []), t.final?.rate, ...(t.final?.interval ?? [])]);
  const known = measured.filter((v) => v !== null && v !== undefined);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const room = 0.05 * (high - low) || 1;
  metric.ends = known.length ? [low - room, high + room] : [0, 1];
}

const plain = (value) => {
  const scaled = value * metric.factor;
  if (metric.digits !== null) return scaled.toFixed(metric.digits);
  const size = Math.abs(scaled);
  return size >= 100 ? scaled.toFixed(1) : size >= 1 ? scaled.toFixed(2) : String(Number(scaled.toPrecision(3)));
};
const unit = () => (metric.unit ? `\u00a0${metric.unit}` : "");

/** A score and its interval as text, in the unit of the metric. */
export const score = (value) => (value === null || value === undefined ? "-" : plain(value) + unit());
export function scoreRange(pair) {
  if (!pair) return "";
  const [low, high] = pair.map(plain);
  return `${low}${/-/.test(low + high) ? "\u00a0to\u00a0" : "\u2013"}${high}${unit()}`;
}

/** Smaller for a better score; a missing one is the worst. */
export const cost = (value) =>
  value === null || value === undefined ? Infinity : metric.direction === "maximize" ? -value : value;

/** The score of people's headings, e.g. `D4RL score`. */
export const sentence = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

export const percent = (rate) => (rate === null || rate === undefined ? "-" : `${(100 * rate).toFixed(1)}\u00a0%`);
export const count = (number) => Number(number).toLocaleString("en");

/** A swept value as text, as `show` of raybc/report/text.py writes it: 0.0003, 8.3e-05, true, [256, 256]. */
export function show(value) {
  if (value === null || value === undefined) return "-";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : decimal(value);
  if (Array.isArray(value)) return `[${value.map((one) => JSON.stringify(one)).join(", ")}]`;
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Exact where people chose it; three significant digits where a sampler drew it, near 1 those of what is missing. */
function decimal(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value) || Number(value.toPrecision(6)) === value) return general(value, 6);
  if (size > 0.9 && size < 1) return value.toFixed(Math.min(2 - Math.floor(Math.log10(1 - size)), 15));
  return size >= 1000 && size < 1e6 ? value.toFixed(0) : general(value, 3);
}

/** Python's `%g`. */
function general(value, digits) {
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const power = Number(exponent);
  if (power >= -4 && power < digits) return String(Number(value.toFixed(Math.max(0, digits - 1 - power))));
  return `${Number(mantissa)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

/** A time as `duration` of raybc/report/text.py writes it. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${seconds.toFixed(0)} s`;
  const rounded = Math.round(seconds);
  const minutes = Math.floor(rounded / 60);
  const two = (value) => String(value).padStart(2, "0");
  return minutes < 60
    ? `${minutes} min ${two(rounded % 60)} s`
    : `${count(Math.floor(minutes / 60))} h ${two(minutes % 60)} min`;
}

export const STATUSES = ["completed", "running", "pruned", "failed"];

/** A status as people read it: no trial runs in a sweep that was stopped. */
export const statusWord = (status, run) => (status === "running" && run.state === "stopped" ? "unfinished" : status);

/** Best first: measured on final starts and chosen, then by status and search score. */
export function ranked(trials, run) {
  const winner = run.winner ?? run.leader;
  const place = (t) => [t.n === winner ? 0 : 1, t.final ? 0 : 1, STATUSES.indexOf(t.status), cost(t.score), t.n];
  return trials
    .map((t) => [place(t), t])
    .sort(([a], [b]) => compare(a, b))
    .map(([, t]) => t);
}

function compare(a, b) {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i] - b[i];
  return 0;
}
