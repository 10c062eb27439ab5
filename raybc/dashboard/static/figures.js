// Figures over training steps and over time, and the importance of the axes.
import { heatMap } from "./axes.js";
import { count, metric, percent, ranked, score, scoreRange, show } from "./numbers.js";
import { ACCENT, COLOURS, REST, alpha, escape, hover, layout, logAxis, scoreAxis } from "./plots.js";

/** Trials with a colour of their own in the learning curves; intervals are drawn for the first of them. */
const NAMED = 6;
const WITH_BARS = 2;
/** Trials of one look; more are one path. */
const LINES = 60;
/** More costs of a chunk than this are a heat map of what they differ in. */
const BARS = 5;
/** What a chunk costs. */
const COSTS = ["flow_steps", "solver", "best_of_n"];
/** Lines with more points have no markers. */
const MARKED = 30;

export function curves(trials, run, open) {
  const list = ranked(
    trials.filter((t) => t.curve.length),
    run,
  );
  if (!list.length) return null;
  const named = list.filter((t) => t.status !== "pruned" && t.status !== "failed").slice(0, NAMED);
  const rest = others(
    list.filter((t) => !named.includes(t)),
    (t) => t.curve,
    named.length > 0,
    hover(),
  );
  const coloured = [];
  const below = [];
  named.forEach((t, i) => {
    const colour = COLOURS[i];
    const x = t.curve.map((p) => p[0]);
    const y = t.curve.map((p) => p[1]);
    if (run.seeds.length > 1)
      below.push({
        x: [...x, ...[...x].reverse()],
        y: [...t.curve.map((p) => p[2]), ...t.curve.map((p) => p[3]).reverse()],
        fill: "toself",
        fillcolor: alpha(colour, 0.13),
        line: { width: 0 },
        mode: "lines",
        legendgroup: `trial ${t.n}`,
        showlegend: false,
        hoverinfo: "skip",
      });
    coloured.push({
      x,
      y,
      customdata: x.map(() => t.n),
      text: t.curve.map((p) => `${p[4] === null ? "" : `95 % ${scoreRange([p[4], p[5]])}, `}${p[6]} episodes`),
      name: nameOf(t, run),
      legendgroup: `trial ${t.n}`,
      mode: "lines+markers",
      line: { color: colour, width: i ? 1.8 : 3.2 },
      marker: { size: i ? 6 : 8, color: colour },
      error_y:
        i < WITH_BARS
          ? {
              type: "data",
              symmetric: false,
              array: t.curve.map((p) => (p[5] ?? p[1]) - p[1]),
              arrayminus: t.curve.map((p) => p[1] - (p[4] ?? p[1])),
              color: alpha(colour, 0.6),
              thickness: 1.2,
              width: 4,
            }
          : undefined,
      hovertemplate: `trial ${t.n}, step %{x:,}: ${hover()}<br>%{text}<extra></extra>`,
    });
  });
  return {
    data: [...below, ...rest.traces, ...coloured.reverse()], // the best on top
    x: { title: { text: "training step" }, rangemode: "tozero" },
    y: scoreAxis(metric.episodes === false ? "" : "on search starts"),
    click: open,
    extra: { shapes: rest.shapes, legend: { ...layout({}).legend, traceorder: "reversed" } },
    label: `Line chart: ${metric.label} over training steps for ${list.length} trials; the table above has the last values.`,
  };
}

const nameOf = (t, run) => {
  const leads = t.n === run.leader && run.winner === null;
  return `trial ${t.n}${t.n === run.winner ? " (winner)" : leads ? " (leads)" : ""}`;
};

/** Trials without a colour of their own, grey: a trace for each status, and with many lines a path instead. */
function others(list, points, named, value) {
  const groups = new Map();
  const shapes = [];
  const traces = [];
  const width = Math.max(0, ...list.map((t) => points(t).at(-1)[0]));
  for (const t of list) {
    if (!groups.has(t.status)) groups.set(t.status, []);
    groups.get(t.status).push(t);
  }
  for (const [status, some] of groups) {
    const faded = status === "pruned" || status === "failed";
    const many = some.length > LINES;
    const lines = { x: [], y: [], customdata: [] };
    for (const t of some) {
      for (const [step, y] of points(t)) {
        lines.x.push(step);
        lines.y.push(y);
        lines.customdata.push(t.n);
      }
      lines.x.push(null);
      lines.y.push(null);
      lines.customdata.push(null);
    }
    if (many)
      shapes.push({
        type: "path",
        path: some.map((t) => outline(points(t), width)).join(""),
        line: { color: REST, width: 1 },
        opacity: faded ? 0.3 : 0.4,
        layer: "below",
      });
    const short = Math.max(...some.map((t) => points(t).length)) <= MARKED;
    traces.push({
      ...lines,
      name: `${named && !faded ? "other " : ""}${escape(status)}${many ? " (grey)" : ""}`,
      mode: many ? "none" : short ? "lines+markers" : "lines",
      opacity: faded ? 0.5 : 0.8,
      line: { color: REST, width: faded ? 1 : 1.4, dash: faded ? "dot" : "solid" },
      marker: { size: 4, color: REST },
      hovertemplate: `trial %{customdata}, step %{x:,}: ${value}<extra></extra>`,
    });
  }
  return { traces, shapes };
}

/** Training losses: found is {trial: [[step, loss], ...]}. */
export function losses(trials, run, found) {
  const list = ranked(
    trials.filter((t) => found[t.n]?.length),
    run,
  );
  if (!list.length) return null;
  const named = list.filter((t) => t.status !== "pruned" && t.status !== "failed").slice(0, NAMED);
  const rest = others(
    list.filter((t) => !named.includes(t)),
    (t) => found[t.n],
    named.length > 0,
    "%{y:.4g}",
  );
  const coloured = named.map((t, i) => ({
    x: found[t.n].map((p) => p[0]),
    y: found[t.n].map((p) => p[1]),
    name: nameOf(t, run),
    mode: found[t.n].length <= MARKED ? "lines+markers" : "lines",
    line: { color: COLOURS[i], width: i ? 1.6 : 2.6 },
    hovertemplate: `trial ${t.n}, step %{x:,}: %{y:.4g}<extra></extra>`,
  }));
  const values = list.flatMap((t) => found[t.n].map((p) => p[1]));
  return {
    data: [...rest.traces, ...coloured.reverse()],
    x: { title: { text: "training step" } },
    y: { title: { text: "training loss" }, ...(values.every((v) => v > 0) ? logAxis(values) : {}) },
    extra: { shapes: rest.shapes, legend: { ...layout({}).legend, traceorder: "reversed" } },
    label: `Line chart: training loss over training steps for ${list.length} trials.`,
  };
}

/** The winner at each cost of a chunk, with intervals. found: {title, bars: [{name, flow_steps, solver, best_of_n, value,
 * interval, episodes, chosen}]}. */
export function costs(found) {
  if (!found?.bars.length) return null;
  if (found.bars.length > BARS) {
    const chosen = found.bars.find((bar) => bar.chosen);
    const differs = (axis) => new Set(found.bars.map((bar) => bar[axis])).size > 1;
    const [across, ...rest] = COSTS.filter(differs);
    const up = rest.length ? rest : ["solver"];
    const y = (bar) => up.map((axis) => show(bar[axis])).join(", ");
    return heatMap({
      axes: [across, up.join(", ")],
      cells: found.bars.map((bar) => ({
        x: show(bar[across]),
        y: y(bar),
        value: bar.value,
        n: bar.episodes,
        text: `${bar.interval ? `95 % ${scoreRange(bar.interval)}, ` : ""}${count(bar.episodes)} episodes`,
      })),
      chosen: chosen && [show(chosen[across]), y(chosen)],
      what: `${metric.label} of the winner${metric.episodes === false ? "" : " on final starts"}`,
    });
  }
  const value = (bar) => bar.value ?? 0;
  const ends = (bar) => bar.interval ?? [value(bar), value(bar)];
  return {
    data: [
      {
        type: "bar",
        x: found.bars.map((bar) => escape(bar.name)),
        y: found.bars.map(value),
        width: 0.5,
        marker: { color: found.bars.map((bar) => (bar.chosen ? ACCENT : alpha(ACCENT, 0.45))) },
        error_y: {
          type: "data",
          symmetric: false,
          array: found.bars.map((bar) => ends(bar)[1] - value(bar)),
          arrayminus: found.bars.map((bar) => value(bar) - ends(bar)[0]),
          color: REST,
          thickness: 2,
          width: 7,
        },
        hovertemplate: `%{x}: ${hover()}<extra></extra>`,
      },
    ],
    x: { type: "category", title: { text: escape(found.title) } },
    y: scoreAxis(metric.episodes === false ? "" : "on final starts"),
    label: `Bar chart: ${metric.label} of the winner per ${found.title}: ${found.bars
      .map((bar) => `${bar.name} ${score(bar.value)} (${scoreRange(bar.interval)})`)
      .join(", ")}`,
  };
}

/** A curve as a part of an SVG path; a single measurement as a dash. One path for thousands of trials is drawn at once. */
function outline(curve, width) {
  if (curve.length === 1)
    return `M${curve[0][0] - width / 150},${curve[0][1]}L${curve[0][0] + width / 150},${curve[0][1]}`;
  return curve.map(([step, value], i) => `${i ? "L" : "M"}${step},${value}`).join("");
}

export function importance(found) {
  const entries = Object.entries(found.axes ?? {}).reverse();
  if (!entries.length) return null;
  return {
    data: [
      {
        type: "bar",
        orientation: "h",
        y: entries.map(([axis]) => escape(axis)),
        x: entries.map(([, share]) => share),
        text: entries.map(([, share]) => percent(share)),
        textposition: "auto",
        cliponaxis: false,
        marker: { color: ACCENT },
        hovertemplate: "%{y}: %{x:.1%}<extra></extra>",
      },
    ],
    x: { range: [0, 1.08], tickformat: ".0%", title: { text: "share of the importance" } },
    y: { type: "category" },
    label:
      "Bar chart: " +
      entries
        .map(([axis, share]) => `${axis} ${percent(share)}`)
        .reverse()
        .join(", "),
  };
}

export function rate(found) {
  if (!found.seconds.length) return null;
  const long = found.seconds.at(-1) > 300;
  const x = found.seconds.map((s) => (long ? s / 60 : s));
  return {
    data: [
      {
        x,
        y: found.rate,
        mode: "lines",
        line: { color: ACCENT, width: 1.6, shape: "hvh" },
        fill: "tozeroy",
        fillcolor: alpha(ACCENT, 0.15),
        hovertemplate: `%{x:.1f} ${long ? "min" : "s"}: %{y:.1f} episodes/s<extra></extra>`,
      },
    ],
    x: { title: { text: long ? "minutes" : "seconds" }, rangemode: "tozero" },
    y: { title: { text: "episodes per second" }, rangemode: "tozero" },
    label: "Line chart: episodes per second over the sweep.",
  };
}

/** One trial: each seed, and the mean with its interval. */
export function trialCurve(t, rows) {
  if (!t.curve.length) return null;
  const seeds = [...new Set(rows.map((r) => r.seed))];
  const data =
    seeds.length > 1
      ? seeds.map((seed) => {
          const own = rows.filter((r) => r.seed === seed && r.phase === "search" && r.chosen);
          return {
            x: own.map((r) => r.step),
            y: own.map((r) => r.rate),
            name: `seed ${seed}`,
            mode: "lines+markers",
            line: { color: REST, width: 1.2 },
            marker: { size: 5, color: REST },
            opacity: 0.8,
            hovertemplate: `seed ${seed}, step %{x:,}: ${hover()}<extra></extra>`,
          };
        })
      : [];
  data.push({
    x: t.curve.map((p) => p[0]),
    y: t.curve.map((p) => p[1]),
    name: "all seeds",
    mode: "lines+markers",
    line: { color: ACCENT, width: 3 },
    marker: { size: 8, color: ACCENT },
    error_y: {
      type: "data",
      symmetric: false,
      array: t.curve.map((p) => (p[5] ?? p[1]) - p[1]),
      arrayminus: t.curve.map((p) => p[1] - (p[4] ?? p[1])),
      color: alpha(ACCENT, 0.6),
      thickness: 1.5,
      width: 5,
    },
    hovertemplate: `step %{x:,}: ${hover()}<extra></extra>`,
  });
  return {
    data,
    x: { title: { text: "training step" }, rangemode: "tozero" },
    y: scoreAxis(),
    label: `Line chart: ${metric.label}${t.n === null ? "" : ` of trial ${t.n}`} over training steps; the table below has the numbers.`,
  };
}

export function lossCurve(found) {
  const data = Object.entries(found)
    .filter(([, points]) => points.length)
    .map(([seed, points], i) => ({
      x: points.map((p) => p[0]),
      y: points.map((p) => p[1]),
      name: `seed ${seed}`,
      mode: "lines",
      line: { color: COLOURS[i % COLOURS.length], width: 1.4 },
      hovertemplate: `seed ${seed}, step %{x:,}: %{y:.4g}<extra></extra>`,
    }));
  if (!data.length) return null;
  const positive = data.every((d) => Math.min(...d.y) > 0);
  return {
    data,
    x: { title: { text: "training step" } },
    y: { title: { text: "training loss" }, type: positive ? "log" : "linear", tickformat: "~g" },
    label: "Line chart: training loss of each seed.",
  };
}
