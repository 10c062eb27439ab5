// Drawing: a figure is drawn when it is near the screen and what it shows has changed. And what figures share.
import { metric, show } from "./numbers.js";

export const ACCENT = "#2878d0";
export const COLOURS = [ACCENT, "#c9790b", "#2a9d78", "#b0559e", "#c8523b", "#7b76d9"];
export const REST = "#868c95";
export const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
export const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const alpha = (colour, a) =>
  `rgba(${[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)).join(",")},${a})`;

const makers = new Map();
const waiting = new Set();
const seen = new Set();
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const plot = target.querySelector(".plot"); // its frame is observed: a figure without data is hidden
      isIntersecting ? seen.add(plot) : seen.delete(plot);
      if (isIntersecting) soon(plot);
    }
  },
  { rootMargin: "200px" },
);

// One figure a frame, the first of the page first: the page answers in between.
const queue = new Set();
function soon(plot) {
  if (!queue.size) requestAnimationFrame(next);
  queue.add(plot);
}

function next() {
  const first = [...queue].sort((a, b) =>
    a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1,
  )[0];
  queue.delete(first);
  if (seen.has(first)) flush(first);
  if (queue.size) setTimeout(() => requestAnimationFrame(next));
}

document.getElementById("plotly")?.addEventListener("load", () => seen.forEach(soon)); // the table need not wait for it

function flush(plot, width) {
  if (!waiting.has(plot) || !window.Plotly) return;
  waiting.delete(plot);
  const spec = makers.get(plot)();
  if (spec === undefined) return; // it comes later
  plot.hidden = !spec;
  if (!spec) return;
  plot.setAttribute("aria-label", spec.label);
  Plotly.react(plot, spec.data, { ...layout(spec), width }, { responsive: true, displayModeBar: false });
  plot.dataset.width ??= plot.clientWidth;
  if (spec.click && !plot.dataset.clicks) {
    plot.dataset.clicks = "1";
    plot.on("plotly_click", (event) => {
      const trial = event.points[0]?.customdata;
      if (trial !== undefined && trial !== null) spec.click(trial);
    });
  }
  spec.after?.(plot);
}

// Another width: drawn again, since a legend that wrapped once keeps its place otherwise.
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

/** Draw what `make` gives ({data, x, y, label, ...}, null: nothing) in `plot` as soon as it is looked at. */
export function plan(plot, make) {
  makers.set(plot, make);
  waiting.add(plot);
  near.observe(plot.parentElement);
  if (seen.has(plot)) soon(plot);
}

/** Draw every figure again as soon as it is looked at, e.g. in other colours. */
export const redraw = () => makers.forEach((make, plot) => plan(plot, make));

/** Draw every figure now, no wider than `width` pixels, for paper. */
export function drawAll(width) {
  for (const plot of makers.keys()) {
    waiting.add(plot);
    flush(plot, Math.min(plot.clientWidth, width));
  }
}

export function layout({ x = {}, y = {}, extra = {} }) {
  const grid = variable("--grid");
  const ink = variable("--ink");
  const soft = variable("--soft");
  const line = variable("--line");
  const axis = (own) => ({
    automargin: true,
    zeroline: false,
    gridcolor: grid,
    linecolor: line,
    ...own,
    title: { standoff: 10, font: { color: ink }, ...own.title },
  });
  return {
    margin: { l: 56, r: 16, t: 12, b: 44 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest",
    font: { color: soft, family: getComputedStyle(document.body).fontFamily, size: 12 },
    legend: { orientation: "h", yanchor: "bottom", y: 1.01, x: 0, bgcolor: "rgba(0,0,0,0)", font: { color: ink } },
    hoverlabel: { bgcolor: variable("--card"), bordercolor: line, font: { color: ink } },
    xaxis: axis(x),
    yaxis: axis(y),
    ...extra,
  };
}

/** The axis of the score; `where`: behind its name, e.g. `on search starts`. */
export function scoreAxis(where = "") {
  const title = { text: escape(`${metric.label} ${where}`.trim()) };
  return metric.rate ? { title, range: [-0.04, 1.04], tickformat: ".0%", dtick: 0.2 } : { title };
}

/** How plotly writes a score when the mouse is over it. */
export const hover = () => (metric.rate ? "%{y:.1%}" : "%{y:.5~g}");

/** A logarithmic axis around values whose labels do not overlap: decades, or 1, 2, 5 if these are few. */
export function logAxis(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!(value > 0)) continue;
    low = Math.min(low, Math.log10(value));
    high = Math.max(high, Math.log10(value));
  }
  const room = 0.06 * (high - low) || 0.1;
  const range = [low - room, high + room];
  const tickvals = [];
  for (let power = Math.floor(range[0]); power <= range[1]; power++)
    for (const digit of high - low < 1.6 ? [1, 2, 5] : [1]) {
      const value = Number(`${digit}e${power}`);
      if (Math.log10(value) >= range[0] && Math.log10(value) <= range[1]) tickvals.push(value);
    }
  const few = tickvals.length > 1; // else plotly finds better ones
  return { type: "log", range, ...(few ? { tickvals, ticktext: tickvals.map(show) } : { tickformat: "~g" }) };
}

/** From the worst to the best score. */
export const colourScale = () =>
  matchMedia("(prefers-color-scheme: dark)").matches && document.documentElement.dataset.print === undefined
    ? [
        [0, "#4a4f58"],
        [0.5, "#3f7fc0"],
        [1, "#a8dcff"],
      ]
    : [
        [0, "#d5d9df"],
        [0.5, "#7fb0e6"],
        [1, "#0b3d78"],
      ];
