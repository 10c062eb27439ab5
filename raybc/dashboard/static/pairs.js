// Two axes of a sweep at once: every trial at its place, and where there are enough, what lies between them.
import { placed, scale } from "./axes.js";
import { metric, score, show } from "./numbers.js";
import { colourScale, escape, variable } from "./plots.js";

/** Fewer trials than this have no surface between them. */
export const ENOUGH = 12;
/** Cells of the surface along an axis, and how far a trial reaches, as a part of an axis. */
const GRID = 40;
const REACH = 0.11;
/** Sum of weights below which nothing is known about a place. */
const KNOWN = 0.35;

/** Two selects that never have the same value: what one takes over, the other gets. changed: called after a choice. */
export function swapping(selects, changed) {
  const remember = () => selects.forEach((one) => (one.dataset.before = one.value));
  for (const select of selects)
    select.addEventListener("change", () => {
      const other = selects.find((one) => one !== select);
      if (other.value === select.value) other.value = select.dataset.before; // the axes change places
      remember();
      changed();
    });
  remember();
  return { remember };
}

/** The search score over two axes. With many trials, a mean weighted by distance, only near trials. */
export function pairFigure(trials, run, [xAxis, yAxis], open) {
  const list = trials.filter((t) => t.score !== null && [xAxis, yAxis].every((axis) => t.params[axis] !== undefined));
  if (!list.length || xAxis === yAxis) return null;
  const [x, y] = [xAxis, yAxis].map((axis) => {
    const values = list.map((t) => t.params[axis]);
    const own = scale(axis, run, values);
    return { own, at: spread(values, own), shown: placed(axis, own, values) };
  });
  const scores = list.map((t) => t.score);
  const colours = { cmin: Math.min(...scores), cmax: Math.max(...scores, Math.min(...scores) + 1e-9) };
  const shared = { colorscale: colourScale(), reversescale: metric.direction === "minimize" };
  const colorbar = { thickness: 10, tickformat: metric.rate ? ".0%" : "~g", outlinewidth: 0 };
  const top = run.winner ?? run.leader;
  const data = [];
  const surface = list.length >= ENOUGH ? between(x, y, scores) : null;
  if (surface)
    data.push({
      type: "contour",
      ...surface,
      zmin: colours.cmin,
      zmax: colours.cmax,
      ...shared,
      contours: { coloring: "heatmap" },
      connectgaps: false,
      opacity: 0.55,
      hoverinfo: "skip",
      showscale: false,
    });
  data.push({
    x: x.at,
    y: y.at,
    customdata: list.map((t) => t.n),
    mode: "markers",
    showlegend: false,
    marker: {
      color: scores,
      ...colours,
      ...shared,
      colorbar,
      showscale: true,
      size: list.map((t) => (t.n === top ? 17 : list.length > 200 ? 6 : 10)),
      symbol: list.map((t) => (t.n === top ? "star" : t.status === "pruned" ? "diamond" : "circle")),
      line: { color: variable("--ink"), width: 1 },
    },
    text: list.map(
      (t) =>
        `trial ${t.n} (${t.n === top ? "best" : escape(t.status)})<br>${[xAxis, yAxis]
          .map((axis) => `${escape(axis)} = ${escape(show(t.params[axis]))}`)
          .join("<br>")}<br>${score(t.score)}`,
    ),
    hoverinfo: "text",
  });
  return {
    data,
    x: x.shown,
    y: y.shown,
    click: open,
    label: `${surface ? "Contour chart" : "Scatter chart"}: ${metric.label} of ${list.length} trials over ${xAxis} and ${yAxis}.`,
  };
}

/** Places of values; those of a list stand in a small circle around it. */
function spread(values, own) {
  const used = new Map();
  return values.map((value) => {
    if (!own.names) return value;
    const before = used.get(own.place(value)) ?? 0;
    used.set(own.place(value), before + 1);
    return own.place(value) + 0.24 * Math.sin(2.4 * before) * Math.min(1, Math.sqrt(before / 12));
  });
}

/** The mean of scores weighted by distance on a grid, null where no trial is near. */
function between(x, y, scores) {
  const [xs, ys] = [x, y].map(({ at, own }) => {
    const flat = at.map((v) => (own.log ? Math.log10(v) : v));
    const low = own.names ? -0.5 : Math.min(...flat);
    const high = own.names ? own.names.length - 0.5 : Math.max(...flat);
    return { low, width: high - low || 1, flat };
  });
  const cells = Array.from({ length: GRID }, (_, i) => (i + 0.5) / GRID);
  const inside = ({ low, width, flat }, i) => (flat[i] - low) / width;
  const z = cells.map((v) =>
    cells.map((u) => {
      let sum = 0;
      let weights = 0;
      for (let i = 0; i < scores.length; i++) {
        const far = (inside(xs, i) - u) ** 2 + (inside(ys, i) - v) ** 2;
        const weight = Math.exp(-far / (2 * REACH ** 2));
        sum += weight * scores[i];
        weights += weight;
      }
      return weights > KNOWN ? sum / weights : null;
    }),
  );
  const back = ({ own }, { low, width }) => cells.map((u) => (own.log ? 10 ** (low + u * width) : low + u * width));
  return { x: back(x, xs), y: back(y, ys), z };
}
