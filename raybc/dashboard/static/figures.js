// The figures. Each is drawn when it is near the viewport and its data have changed.
import { $, h, percent, show } from "./dom.js";
import { ranked } from "./table.js";

const ACCENT = "#2878d0", COLOURS = [ACCENT, "#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9"], REST = "#868c95";
/** Trials with individual colours in the learning curves; intervals are drawn for the first of them. */
const NAMED = 6, WITH_BARS = 2;
/** Maximum number of trials of one style that are drawn as lines; more become one path. */
const LINES = 60;
/** Offsets of trials that have the same value of a list. */
const SPREAD = [0, 0.09, -0.09, 0.18, -0.18, 0.045, -0.045, 0.135, -0.135, 0.225, -0.225];
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const alpha = (colour, a) => `rgba(${[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)).join(",")},${a})`;

// --- drawing when seen -------------------------------------------------------------------------------------------------

const waiting = new Map(), seen = new Set(), makers = new Map();
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const plot = target.querySelector(".plot"); // observe its frame, because a figure without data is hidden
    isIntersecting ? seen.add(plot) : seen.delete(plot);
    if (isIntersecting) soon(plot);
  }
}, { rootMargin: "200px" });

// One figure per frame, in the order of the page, so that the page stays responsive.
const queue = new Set();
function soon(plot) {
  if (!queue.size) requestAnimationFrame(next);
  queue.add(plot);
}

function next() {
  const first = [...queue].sort((a, b) => (a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1))[0];
  queue.delete(first);
  if (seen.has(first)) flush(first);
  if (queue.size) setTimeout(() => requestAnimationFrame(next));
}

$("plotly").addEventListener("load", () => seen.forEach(soon)); // so that the table does not wait for it

function flush(plot) {
  const make = waiting.get(plot);
  if (!make || !window.Plotly) return;
  waiting.delete(plot);
  makers.set(plot, make);
  const spec = make();
  if (spec === undefined) return; // not drawn yet
  plot.hidden = !spec;
  if (!spec) return;
  plot.setAttribute("aria-label", spec.label);
  Plotly.react(plot, spec.data, layout(spec), { responsive: true, displayModeBar: false });
  plot.dataset.width ??= plot.clientWidth;
  if (spec.click && !plot.dataset.clicks) {
    plot.dataset.clicks = "1";
    plot.on("plotly_click", (event) => { const trial = event.points[0]?.customdata; if (trial !== undefined && trial !== null) spec.click(trial); });
  }
  spec.after?.(plot);
}

// Redraw at another width: a legend that wrapped once would keep its space otherwise.
let pause = 0;
addEventListener("resize", () => {
  clearTimeout(pause);
  pause = setTimeout(() => {
    for (const [plot, make] of makers) {
      if (!plot.isConnected) makers.delete(plot);
      else if (plot._fullLayout && Math.abs(plot._fullLayout.width - Number(plot.dataset.width)) > 60) {
        Plotly.purge(plot);
        for (const key of ["clicks", "brushes", "width"]) delete plot.dataset[key];
        plan(plot, make);
      }
    }
  }, 250);
});

/** Draw the result of `make` ({data, x, y, label, ...}, or null for nothing) in `plot` when it becomes visible. */
export function plan(plot, make) {
  waiting.set(plot, make);
  near.observe(plot.parentElement);
  if (seen.has(plot)) soon(plot);
}

function layout({ x = {}, y = {}, extra = {} }) {
  const grid = variable("--grid"), ink = variable("--ink"), soft = variable("--soft"), line = variable("--line");
  const axis = (own) => ({ automargin: true, zeroline: false, gridcolor: grid, linecolor: line, ...own, title: { standoff: 10, font: { color: ink }, ...own.title } });
  return {
    margin: { l: 56, r: 16, t: 12, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { color: soft, family: getComputedStyle(document.body).fontFamily, size: 12 },
    legend: { orientation: "h", yanchor: "bottom", y: 1.01, x: 0, bgcolor: "rgba(0,0,0,0)", font: { color: ink } },
    hoverlabel: { bgcolor: variable("--card"), bordercolor: line, font: { color: ink } },
    xaxis: axis(x), yaxis: axis(y), ...extra,
  };
}

const rateAxis = (title) => ({ title: { text: title }, range: [-0.04, 1.04], tickformat: ".0%", dtick: 0.2 });

// --- figures -------------------------------------------------------------------------------------------------------------

export function curves(trials, run, open) {
  const list = ranked(trials.filter((t) => t.curve.length), run);
  if (!list.length) return null;
  const named = list.filter((t) => t.status !== "pruned" && t.status !== "failed").slice(0, NAMED);
  const data = [], below = [], shapes = [];
  const rest = new Map(), width = Math.max(...list.map((t) => t.curve.at(-1)[0]));
  for (const t of list) if (!named.includes(t)) rest.set(t.status, [...(rest.get(t.status) ?? []), t]);
  for (const [status, some] of rest) {
    const faded = status === "pruned" || status === "failed", many = some.length > LINES;
    const lines = { x: [], y: [], customdata: [] };
    for (const t of some) {
      for (const [step, rate] of t.curve) { lines.x.push(step); lines.y.push(rate); lines.customdata.push(t.n); }
      lines.x.push(null); lines.y.push(null); lines.customdata.push(null);
    }
    if (many) shapes.push({ type: "path", path: some.map((t) => outline(t.curve, width)).join(""), line: { color: REST, width: 1 }, opacity: faded ? 0.3 : 0.4, layer: "below" });
    data.push({ ...lines, name: `${named.length && !faded ? "other " : ""}${status}${many ? " (grey)" : ""}`, mode: many ? "none" : "lines+markers", opacity: faded ? 0.5 : 0.8,
      line: { color: REST, width: faded ? 1 : 1.4, dash: faded ? "dot" : "solid" }, marker: { size: 4, color: REST },
      hovertemplate: "trial %{customdata}, step %{x:,}: %{y:.1%}<extra></extra>" });
  }
  named.forEach((t, i) => {
    const colour = COLOURS[i], x = t.curve.map((p) => p[0]), y = t.curve.map((p) => p[1]);
    if (run.seeds.length > 1)
      below.push({ x: [...x, ...[...x].reverse()], y: [...t.curve.map((p) => p[2]), ...t.curve.map((p) => p[3]).reverse()], fill: "toself", fillcolor: alpha(colour, 0.13),
        line: { width: 0 }, mode: "lines", legendgroup: `trial ${t.n}`, showlegend: false, hoverinfo: "skip" });
    const word = t.n === run.winner ? " (winner)" : t.n === run.leader && run.winner === null ? " (leads)" : "";
    data.push({ x, y, customdata: x.map(() => t.n), text: t.curve.map((p) => `95 % ${percent(p[4])} to ${percent(p[5])}, ${p[6]} episodes`), name: `trial ${t.n}${word}`, legendgroup: `trial ${t.n}`, mode: "lines+markers",
      line: { color: colour, width: i ? 1.8 : 3.2 }, marker: { size: i ? 6 : 8, color: colour },
      error_y: i < WITH_BARS ? { type: "data", symmetric: false, array: t.curve.map((p) => p[5] - p[1]), arrayminus: t.curve.map((p) => p[1] - p[4]), color: alpha(colour, 0.6), thickness: 1.2, width: 4 } : undefined,
      hovertemplate: `trial ${t.n}, step %{x:,}: %{y:.1%}<br>%{text}<extra></extra>` });
  });
  const last = data.splice(data.length - named.length).reverse(); // the best on top
  return { data: [...below, ...data, ...last], x: { title: { text: "training step" }, rangemode: "tozero" }, y: rateAxis("success on search starts"), click: open,
    extra: { shapes, legend: { ...layout({}).legend, traceorder: "reversed" } },
    label: `Line chart: success on search starts over training steps for ${list.length} trials; the table above has the last values.` };
}

/** A curve as a part of an SVG path; a single evaluation as a dash. One path for thousands of trials is fast. */
function outline(curve, width) {
  if (curve.length === 1) return `M${curve[0][0] - width / 150},${curve[0][1]}L${curve[0][0] + width / 150},${curve[0][1]}`;
  return curve.map(([step, rate], i) => `${i ? "L" : "M"}${step},${rate}`).join("");
}

/** Positions of the values of an axis: numbers as they are, values of lists as categories. */
function scale(axis, run, values) {
  const spec = run.space[axis] ?? {};
  const numeric = !spec.values && values.every((v) => typeof v === "number");
  if (numeric) return { place: (v) => v, log: Boolean(spec.log) && Math.min(...values) > 0, low: spec.low, high: spec.high };
  const names = [...new Set([...(spec.values ?? []), ...values].map(show))];
  return { names, place: (v) => names.indexOf(show(v)) };
}

export function axisFigure(axis, trials, run, open) {
  const list = trials.filter((t) => t.score !== null && t.params[axis] !== undefined);
  if (!list.length) return null;
  const points = list.map((t) => ({ t, value: t.params[axis], rate: t.score }));
  return scatter(axis, points, scale(axis, run, points.map((p) => p.value)), run, open);
}

export function settingFigure(trials, run, open) {
  const points = trials.flatMap((t) => t.by_setting.map(([value, rate]) => ({ t, value, rate })));
  const plain = points.every((p) => /^flow_steps=\d+$/.test(p.value)); // the one sample axis of most sweeps
  if (plain) points.forEach((p) => (p.value = p.value.slice("flow_steps=".length)));
  const names = [...new Set(points.map((p) => p.value))].sort(new Intl.Collator("en", { numeric: true }).compare);
  return names.length > 1 ? scatter(plain ? "flow_steps" : "sample setting", points, { names, place: (v) => names.indexOf(v) }, run, open) : null;
}

function scatter(axis, points, { place, log, low, high, names }, run, open) {
  const groups = new Map(), used = new Map(), top = run.winner ?? run.leader;
  for (const point of points) {
    const key = point.t.n === top ? "best" : point.t.status;
    groups.set(key, [...(groups.get(key) ?? []), point]);
  }
  const spread = (value) => {
    if (!names) return place(value);
    const before = used.get(place(value)) ?? 0;
    used.set(place(value), before + 1);
    return place(value) + SPREAD[before % SPREAD.length];
  };
  const size = points.length > 200 ? 5 : 8;
  const look = { best: { color: ACCENT, symbol: "star", size: 15 }, completed: { color: REST, size }, running: { color: "#2a9d78", size }, pruned: { color: REST, symbol: "circle-open", size, opacity: 0.6 }, failed: { color: "#c8523b", symbol: "x", size } };
  const data = ["pruned", "failed", "running", "completed", "best"].filter((key) => groups.has(key)).map((key) => {
    const some = groups.get(key);
    return { x: some.map((p) => spread(p.value)), y: some.map((p) => p.rate), customdata: some.map((p) => p.t.n), mode: "markers", marker: { opacity: 0.85, ...look[key] }, showlegend: false,
      text: some.map((p) => `trial ${p.t.n} (${key === "best" ? "best" : p.t.status})<br>${escape(axis)} = ${escape(show(p.value))}<br>${percent(p.rate)}`), hoverinfo: "text" };
  });
  const x = { title: { text: escape(axis) } };
  if (names) Object.assign(x, { tickvals: names.map((_, i) => i), ticktext: names.map(escape), range: [-0.5, names.length - 0.5] });
  if (log) {
    const ends = [Math.log10(low), Math.log10(high)], room = 0.05 * (ends[1] - ends[0]);
    Object.assign(x, { type: "log", range: [ends[0] - room, ends[1] + room], dtick: ends[1] - ends[0] < 1.6 ? "D2" : 1, tickformat: "~g" });
  }
  return { data, x, y: rateAxis("success"), click: open, label: `Scatter chart: success on search starts against ${axis}, ${points.length} points.` };
}

/** brush: axis -> ranges in the figure's numbers, kept across redraws; `changed`: called when the user draws one. */
export function parallel(trials, run, brush, changed) {
  const list = trials.filter((t) => t.score !== null);
  if (!list.length || !run.axes.length) return null;
  if (!webgl()) return { data: [], label: "not drawn", extra: { annotations: [{ text: "This browser has no WebGL, which this figure needs.<br>The filter above the table does the same.", showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper" }], xaxis: { visible: false }, yaxis: { visible: false } } };
  const dimensions = run.axes.map((axis) => dimension(axis, list, run));
  dimensions.push({ key: "score", label: "success", values: list.map((t) => t.score), range: [0, 1], tickformat: ".0%" });
  for (const one of dimensions) if (brush.has(one.key)) one.constraintrange = brush.get(one.key);
  const font = { color: variable("--ink"), family: getComputedStyle(document.body).fontFamily };
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const data = [{ type: "parcoords", dimensions: dimensions.map(({ key, ...rest }) => ({ ...rest, name: key })),
    line: { color: list.map((t) => t.score), cmin: 0, cmax: 1, colorscale: dark ? [[0, "#4a4f58"], [0.5, "#3f7fc0"], [1, "#a8dcff"]] : [[0, "#d5d9df"], [0.5, "#7fb0e6"], [1, "#0b3d78"]], showscale: true, colorbar: { thickness: 10, tickformat: ".0%", tickfont: font, outlinewidth: 0 } },
    labelfont: { ...font, size: 12 }, tickfont: { ...font, size: 11 }, rangefont: { ...font, size: 10 }, unselected: { line: { opacity: 0.08 } } }];
  const after = (plot) => {
    if (plot.dataset.brushes) return;
    plot.dataset.brushes = "1";
    plot.on("plotly_restyle", () => changed(new Map(plot.data[0].dimensions.filter((d) => d.constraintrange).map((d) => [d.name, d.constraintrange]))));
  };
  return { data, after, extra: { margin: { l: 70, r: 30, t: 44, b: 20 } }, label: `Parallel coordinates of ${list.length} trials over ${run.axes.join(", ")} and success.` };
}

function dimension(axis, list, run) {
  const raw = list.map((t) => t.params[axis]), { place, log, low, high, names } = scale(axis, run, raw);
  const label = escape(axis);
  if (names) return { key: axis, label, values: raw.map(place), tickvals: names.map((_, i) => i), ticktext: names, range: [-0.2, names.length - 0.8] };
  if (!log) return { key: axis, label, values: raw };
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const m of [1, 3]) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) ticks.push(m * 10 ** e);
  return { key: axis, label, values: raw.map(Math.log10), range: [Math.log10(low), Math.log10(high)], tickvals: ticks.map(Math.log10), ticktext: ticks.map((v) => String(Number(v.toPrecision(2)))) };
}

/** Whether a trial is within all ranges of a brush. */
export function inBrush(t, brush, run, all) {
  for (const [key, ranges] of brush) {
    const value = key === "score" ? t.score : position(key, t, run, all);
    if (value === null || Number.isNaN(value)) return false;
    const pairs = Array.isArray(ranges[0]) ? ranges : [ranges];
    if (!pairs.some(([low, high]) => value >= low && value <= high)) return false;
  }
  return true;
}

function position(axis, t, run, all) {
  const { place, log } = scale(axis, run, all.map((other) => other.params[axis]));
  return log ? Math.log10(t.params[axis]) : place(t.params[axis]);
}

function webgl() {
  webgl.known ??= Boolean(h("canvas").getContext("webgl"));
  return webgl.known;
}

export function importance(found) {
  const entries = Object.entries(found.axes ?? {}).reverse();
  if (!entries.length) return null;
  return { data: [{ type: "bar", orientation: "h", y: entries.map(([axis]) => escape(axis)), x: entries.map(([, share]) => share), text: entries.map(([, share]) => percent(share)), textposition: "auto", cliponaxis: false, marker: { color: ACCENT }, hovertemplate: "%{y}: %{x:.1%}<extra></extra>" }],
    x: { range: [0, 1.08], tickformat: ".0%", title: { text: "share of the importance" } }, y: { type: "category" }, label: "Bar chart: " + entries.map(([axis, share]) => `${axis} ${percent(share)}`).reverse().join(", ") };
}

export function rate(found) {
  if (!found.seconds.length) return null;
  const long = found.seconds.at(-1) > 300, x = found.seconds.map((s) => (long ? s / 60 : s));
  return { data: [{ x, y: found.rate, mode: "lines", line: { color: ACCENT, width: 1.6, shape: "hvh" }, fill: "tozeroy", fillcolor: alpha(ACCENT, 0.15), hovertemplate: `%{x:.1f} ${long ? "min" : "s"}: %{y:.1f} episodes/s<extra></extra>` }],
    x: { title: { text: long ? "minutes" : "seconds" }, rangemode: "tozero" }, y: { title: { text: "episodes per second" }, rangemode: "tozero" }, label: "Line chart: episodes per second over the sweep." };
}

/** One trial: each seed, and the mean with its Wilson interval. */
export function trialCurve(t, rows) {
  if (!t.curve.length) return null;
  const seeds = [...new Set(rows.map((r) => r.seed))];
  const data = seeds.length > 1 ? seeds.map((seed) => {
    const own = rows.filter((r) => r.seed === seed && r.phase === "search" && r.chosen);
    return { x: own.map((r) => r.step), y: own.map((r) => r.rate), name: `seed ${seed}`, mode: "lines+markers", line: { color: REST, width: 1.2 }, marker: { size: 5, color: REST }, opacity: 0.8, hovertemplate: `seed ${seed}, step %{x:,}: %{y:.1%}<extra></extra>` };
  }) : [];
  data.push({ x: t.curve.map((p) => p[0]), y: t.curve.map((p) => p[1]), name: "all seeds", mode: "lines+markers", line: { color: ACCENT, width: 3 }, marker: { size: 8, color: ACCENT },
    error_y: { type: "data", symmetric: false, array: t.curve.map((p) => p[5] - p[1]), arrayminus: t.curve.map((p) => p[1] - p[4]), color: alpha(ACCENT, 0.6), thickness: 1.5, width: 5 }, hovertemplate: "step %{x:,}: %{y:.1%}<extra></extra>" });
  return { data, x: { title: { text: "training step" }, rangemode: "tozero" }, y: rateAxis("success"), label: `Line chart: success of trial ${t.n} over training steps; the table below has the numbers.` };
}

export function lossCurve(losses) {
  const data = Object.entries(losses).filter(([, points]) => points.length).map(([seed, points], i) => ({ x: points.map((p) => p[0]), y: points.map((p) => p[1]), name: `seed ${seed}`, mode: "lines", line: { color: COLOURS[i % COLOURS.length], width: 1.4 }, hovertemplate: `seed ${seed}, step %{x:,}: %{y:.4g}<extra></extra>` }));
  if (!data.length) return null;
  const positive = data.every((d) => Math.min(...d.y) > 0);
  return { data, x: { title: { text: "training step" } }, y: { title: { text: "training loss" }, type: positive ? "log" : "linear", tickformat: "~g" }, label: "Line chart: training loss of each seed." };
}
