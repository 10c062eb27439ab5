// Elements and formatted numbers. Text from a run is only ever set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

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
  const seen = trials.flatMap((t) => [t.score, ...(t.interval ?? []), t.final?.rate, ...(t.final?.interval ?? [])]);
  const known = seen.filter((v) => v !== null && v !== undefined);
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

export function show(value) {
  if (value === null || value === undefined) return "-";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.round(minutes / 1440)} days`;
}

export const badge = (word) => h("span", { class: `badge ${word}` }, word);

/** A score with its interval as a bar: a rate from 0 to 100 %, anything else from the lowest to the highest. */
export function bar(value, range) {
  const place = (v) => (v - metric.ends[0]) / (metric.ends[1] - metric.ends[0]);
  const rate = place(value);
  const interval = range?.map(place);
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  const part = (name, x, y, width, height) => {
    const rect = document.createElementNS(NS, "rect");
    for (const [key, set] of Object.entries({ class: name, x, y, width, height })) rect.setAttribute(key, set);
    svg.append(rect);
  };
  for (const [key, set] of Object.entries({
    class: "bar",
    viewBox: "0 0 100 10",
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  }))
    svg.setAttribute(key, set);
  part("track", 0, 4, 100, 2);
  if (interval) part("range", 100 * interval[0], 1.5, 100 * (interval[1] - interval[0]), 7);
  part("point", Math.min(Math.max(100 * rate - 0.7, 0), 98.6), 0, 1.4, 10);
  return svg;
}

/** A button that copies `text` (a string, or a function that returns a promise of one) and confirms it. */
export function copyButton(text, label, name = "Copy") {
  const button = h("button", { type: "button", class: "small-button", "aria-label": label, title: label }, name);
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(typeof text === "function" ? await text() : text);
    } catch {
      said = "Not allowed";
    }
    button.textContent = said;
    setTimeout(() => (button.textContent = name), 1500);
  });
  return button;
}

export const command = (text, label) =>
  h("div", { class: "command" }, h("pre", { tabindex: "0" }, text), copyButton(text, label));

export function video(entry, withTrial = true) {
  const what = `trial ${entry.trial}, seed ${entry.seed}, ${entry.split} start ${entry.index}`;
  const source = "videos/" + entry.file.split("/").map(encodeURIComponent).join("/");
  return h(
    "figure",
    {},
    h("video", {
      src: source,
      controls: true,
      playsinline: true,
      preload: "metadata",
      "aria-label": `${what}: ${entry.outcome}`,
    }),
    h(
      "figcaption",
      {},
      badge(entry.outcome),
      ` after ${entry.steps} steps`,
      h("br"),
      withTrial ? what : `seed ${entry.seed}, ${entry.split} start ${entry.index}`,
      `, ${entry.setting ?? `flow_steps ${entry.flow_steps}`}`,
    ),
  );
}

/** Radio buttons; calls `choose(value)` on a change. Keeps the choice if it still exists. */
export function radios(fieldset, name, options, chosen, choose) {
  const legend = fieldset.querySelector("legend");
  fieldset.replaceChildren(
    ...(legend ? [legend] : []),
    ...options.map(([value, label]) =>
      h(
        "label",
        { class: "check" },
        h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }),
        ` ${label}`,
      ),
    ),
  );
}
