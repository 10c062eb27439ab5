// Figures of what was searched: a chart for each axis, and all of them as parallel coordinates.
import { count, metric, score, show } from "./numbers.js";
import { ACCENT, REST, colourScale, escape, logAxis, scoreAxis, variable } from "./plots.js";

/** Trials with one value of a list stand beside each other. */
const SPREAD = [0, 0.09, -0.09, 0.18, -0.18, 0.045, -0.045, 0.135, -0.135, 0.225, -0.225];

/** Where the values of an axis lie: numbers as they are, lists side by side. */
export function scale(axis, run, values) {
  const spec = run.space[axis] ?? {};
  const numeric = !spec.values && values.every((v) => typeof v === "number");
  if (numeric)
    return { place: (v) => v, log: Boolean(spec.log) && Math.min(...values) > 0, low: spec.low, high: spec.high };
  const names = [...new Set([...(spec.values ?? []), ...values].map(show))];
  return { names, place: (v) => names.indexOf(show(v)) };
}

export function axisFigure(axis, trials, run, open) {
  const list = trials.filter((t) => t.score !== null && t.params[axis] !== undefined);
  if (!list.length) return null;
  const points = list.map((t) => ({ t, value: t.params[axis], rate: t.score }));
  return scatter(
    axis,
    points,
    scale(
      axis,
      run,
      points.map((p) => p.value),
    ),
    run,
    open,
  );
}

/** The score at each sample setting: a heat map where two sample axes or more were measured. */
export function settingFigure(trials, run, open) {
  const measured = trials.filter((t) => t.by_setting.length > 1);
  const axes = sampleAxes(measured);
  if (axes.length > 1) return settingsMap(measured, run, axes);
  const points = trials.flatMap((t) => t.by_setting.map(([value, rate, , setting]) => ({ t, value, rate, setting })));
  const only = onlyAxis(trials);
  if (only) points.forEach((p) => (p.value = show(p.setting[only])));
  const names = sortedNames(points.map((p) => p.value));
  return names.length > 1
    ? scatter(only || "sample setting", points, { names, place: (v) => names.indexOf(v) }, run, open)
    : null;
}

const sortedNames = (values) => [...new Set(values)].sort(new Intl.Collator("en", { numeric: true }).compare);

/** The sample axes on which the settings of trials differ, those with the most values first. */
function sampleAxes(trials) {
  const settings = trials.flatMap((t) => t.by_setting.map((entry) => entry[3]));
  const values = (axis) => new Set(settings.map((setting) => show(setting[axis]))).size;
  return Object.keys(settings[0] ?? {})
    .filter((axis) => values(axis) > 1)
    .sort((a, b) => values(b) - values(a));
}

/** The one sample axis on which all settings differ, as in most sweeps; "" where there is none. A policy without steps has
 * the setting 0, which is no value of flow_steps. */
function onlyAxis(trials) {
  const [axis, ...others] = sampleAxes(trials);
  const stepless = trials.some((t) => t.by_setting.some((entry) => !entry[3].flow_steps));
  return axis && !others.length && !(axis === "flow_steps" && stepless) ? axis : "";
}

/** The mean over trials at each pair of values of two sample axes; further axes are averaged. */
function settingsMap(trials, run, [xAxis, yAxis, ...further]) {
  const cells = new Map();
  for (const t of trials)
    for (const [, value, episodes, setting] of t.by_setting) {
      const key = JSON.stringify([show(setting[xAxis]), show(setting[yAxis])]);
      const cell = cells.get(key) ?? { sum: 0, measured: 0, trials: new Set(), episodes: 0 };
      cell.sum += value;
      cell.measured += 1;
      cell.trials.add(t.n);
      cell.episodes += episodes;
      cells.set(key, cell);
    }
  const top = trials.find((t) => t.n === (run.winner ?? run.leader));
  const chosen = top?.by_setting.find(([label]) => label === top.setting)?.[3];
  return heatMap({
    axes: [xAxis, yAxis],
    cells: [...cells].map(([key, cell]) => {
      const [x, y] = JSON.parse(key);
      const text = `mean of ${cell.trials.size} trials, ${count(cell.episodes)} episodes`;
      return { x, y, value: cell.sum / cell.measured, n: cell.episodes, text };
    }),
    chosen: chosen && [show(chosen[xAxis]), show(chosen[yAxis])],
    what: `mean ${metric.label} of ${trials.length} trials on search starts${further.length ? ` (mean over ${further.join(", ")})` : ""}`,
  });
}

/** Scores at pairs of values, with the number of episodes in each cell and a frame around the chosen one. cells: [{x, y,
 * value, n, text}], all but value and n as text. */
export function heatMap({ axes: [xAxis, yAxis], cells, chosen, what }) {
  const xs = sortedNames(cells.map((cell) => cell.x));
  const ys = sortedNames(cells.map((cell) => cell.y));
  const at = (x, y) => cells.find((cell) => cell.x === x && cell.y === y);
  const rows = (value) => ys.map((y) => xs.map((x) => (at(x, y) ? value(at(x, y)) : null)));
  const many = xs.length > 8;
  const known = cells.map((cell) => cell.value);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const frame = chosen && {
    type: "rect",
    x0: xs.indexOf(chosen[0]) - 0.48,
    x1: xs.indexOf(chosen[0]) + 0.48,
    y0: ys.indexOf(chosen[1]) - 0.46,
    y1: ys.indexOf(chosen[1]) + 0.46,
    line: { color: variable("--ink"), width: 3 },
  };
  return {
    data: [
      {
        type: "heatmap",
        x: xs.map((_, i) => i),
        y: ys.map((_, i) => i),
        z: rows((cell) => cell.value),
        text: rows((cell) => `${score(cell.value)}${many ? "" : `<br>n=${count(cell.n)}`}`),
        texttemplate: "%{text}",
        hovertext: rows(
          (cell) =>
            `${escape(xAxis)} = ${escape(cell.x)}<br>${escape(yAxis)} = ${escape(cell.y)}<br>${score(cell.value)}<br>${escape(cell.text)}`,
        ),
        hoverinfo: "text",
        colorscale: colourScale(),
        reversescale: metric.direction === "minimize",
        zmin: low,
        zmax: high > low ? high : low + 1e-9,
        xgap: 2,
        ygap: 2,
        colorbar: { thickness: 10, tickformat: metric.rate ? ".0%" : "~g", outlinewidth: 0 },
      },
    ],
    x: { title: { text: escape(xAxis) }, tickvals: xs.map((_, i) => i), ticktext: xs.map(escape), showgrid: false },
    y: { title: { text: escape(yAxis) }, tickvals: ys.map((_, i) => i), ticktext: ys.map(escape), showgrid: false },
    extra: { shapes: frame ? [frame] : [] },
    label: `Heat map: ${what} over ${xAxis} and ${yAxis}: ${cells
      .map((cell) => `${cell.x}, ${cell.y}: ${score(cell.value)} (n=${cell.n})`)
      .join("; ")}`,
  };
}

/** An axis of a figure for an axis of the sweep, with the scale above. */
export function placed(axis, { log, low, high, names }, values) {
  const title = { text: escape(axis) };
  if (names)
    return {
      title,
      tickvals: names.map((_, i) => i),
      ticktext: names.map(escape),
      range: [-0.5, names.length - 0.5],
    };
  return log ? { title, ...logAxis([low, high, ...values]) } : { title };
}

function scatter(axis, points, { place, log, low, high, names }, run, open) {
  const groups = new Map();
  const used = new Map();
  const top = run.winner ?? run.leader;
  for (const point of points) {
    const key = point.t.n === top ? "best" : point.t.status;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(point);
  }
  const spread = (value) => {
    if (!names) return place(value);
    const before = used.get(place(value)) ?? 0;
    used.set(place(value), before + 1);
    return place(value) + SPREAD[before % SPREAD.length];
  };
  const size = points.length > 200 ? 5 : 8;
  const look = {
    best: { color: ACCENT, symbol: "star", size: 15 },
    completed: { color: REST, size },
    running: { color: "#2a9d78", size },
    pruned: { color: REST, symbol: "circle-open", size, opacity: 0.6 },
    failed: { color: "#c8523b", symbol: "x", size },
  };
  const data = ["pruned", "failed", "running", "completed", "best"]
    .filter((key) => groups.has(key))
    .map((key) => {
      const some = groups.get(key);
      return {
        x: some.map((p) => spread(p.value)),
        y: some.map((p) => p.rate),
        customdata: some.map((p) => p.t.n),
        mode: "markers",
        marker: { opacity: 0.85, ...look[key] },
        showlegend: false,
        text: some.map(
          (p) =>
            `trial ${p.t.n} (${key === "best" ? "best" : escape(p.t.status)})<br>${escape(axis)} = ${escape(show(p.value))}<br>${score(p.rate)}`,
        ),
        hoverinfo: "text",
      };
    });
  const x = placed(
    axis,
    { log, low, high, names },
    points.map((p) => p.value),
  );
  return {
    data,
    x,
    y: scoreAxis(),
    click: open,
    label: `Scatter chart: ${metric.label} against ${axis}, ${points.length} points.`,
  };
}

/** brush: axis -> ranges in the figure's numbers, kept over redraws; `changed` when people draw one. */
export function parallel(trials, run, brush, changed) {
  const list = trials.filter((t) => t.score !== null);
  if (!list.length || !run.axes.length) return null;
  if (!webgl())
    return {
      data: [],
      label: "not drawn",
      extra: {
        annotations: [
          {
            text: "This browser has no WebGL, which this figure needs.<br>The filter above the table does the same.",
            showarrow: false,
            x: 0.5,
            y: 0.5,
            xref: "paper",
            yref: "paper",
          },
        ],
        xaxis: { visible: false },
        yaxis: { visible: false },
      },
    };
  const dimensions = run.axes.map((axis) => dimension(axis, list, run));
  dimensions.push({
    key: "score",
    label: metric.label,
    values: list.map((t) => t.score),
    range: metric.ends,
    tickformat: metric.rate ? ".0%" : "~g",
  });
  for (const one of dimensions) if (brush.has(one.key)) one.constraintrange = brush.get(one.key);
  const font = { color: variable("--ink"), family: getComputedStyle(document.body).fontFamily };
  const data = [
    {
      type: "parcoords",
      dimensions: dimensions.map(({ key, ...rest }) => ({ ...rest, name: key })),
      line: {
        color: list.map((t) => t.score),
        cmin: metric.ends[0],
        cmax: metric.ends[1],
        reversescale: metric.direction === "minimize",
        colorscale: colourScale(),
        showscale: true,
        colorbar: { thickness: 10, tickformat: metric.rate ? ".0%" : "~g", tickfont: font, outlinewidth: 0 },
      },
      labelfont: { ...font, size: 12 },
      tickfont: { ...font, size: 11 },
      rangefont: { ...font, size: 10 },
      unselected: { line: { opacity: 0.08 } },
    },
  ];
  const after = (plot) => {
    if (plot.dataset.brushes) return;
    plot.dataset.brushes = "1";
    plot.on("plotly_restyle", () =>
      changed(
        new Map(plot.data[0].dimensions.filter((d) => d.constraintrange).map((d) => [d.name, d.constraintrange])),
      ),
    );
  };
  return {
    data,
    after,
    extra: { margin: { l: 70, r: 30, t: 44, b: 20 } },
    label: `Parallel coordinates of ${list.length} trials over ${run.axes.join(", ")} and ${metric.label}.`,
  };
}

function dimension(axis, list, run) {
  const raw = list.map((t) => t.params[axis]);
  const { place, log, low, high, names } = scale(axis, run, raw);
  const label = escape(axis);
  if (names)
    return {
      key: axis,
      label,
      values: raw.map(place),
      tickvals: names.map((_, i) => i),
      ticktext: names,
      range: [-0.2, names.length - 0.8],
    };
  if (!log) return { key: axis, label, values: raw };
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const m of [1, 3]) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) ticks.push(m * 10 ** e);
  return {
    key: axis,
    label,
    values: raw.map(Math.log10),
    range: [Math.log10(low), Math.log10(high)],
    tickvals: ticks.map(Math.log10),
    ticktext: ticks.map((v) => show(Number(v.toPrecision(2)))),
  };
}

/** Whether a trial lies in all ranges of a brush. */
export function inBrush(t, brush, run, all) {
  for (const [key, ranges] of brush) {
    const value = key === "score" ? t.score : position(key, t, run, all);
    if (value === null || Number.isNaN(value)) return false;
    const pairs = Array.isArray(ranges[0]) ? ranges : [ranges];
    if (!pairs.some(([low, high]) => value >= low && value <= high)) return false;
  }
  return true;
}

const scales = new WeakMap(); // all trials -> axis -> scale, since a scale looks at every trial
function position(axis, t, run, all) {
  if (!scales.has(all)) scales.set(all, new Map());
  const known = scales.get(all);
  if (!known.has(axis)) {
    const values = all.map((other) => other.params[axis]);
    known.set(axis, scale(axis, run, values));
  }
  const { place, log } = known.get(axis);
  return log ? Math.log10(t.params[axis]) : place(t.params[axis]);
}

function webgl() {
  webgl.known ??= Boolean(document.createElement("canvas").getContext("webgl"));
  return webgl.known;
}
