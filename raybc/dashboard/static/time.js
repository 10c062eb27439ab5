// Figures over time: the best score so far, and when each trial ran.
import { count, duration, metric, score, sentence } from "./numbers.js";
import { ACCENT, REST, alpha, escape, hover, scoreAxis } from "./plots.js";

/** Colours of the statuses of trials. */
const OF_STATUS = { completed: ACCENT, pruned: "#9aa3af", failed: "#c8523b", running: "#2a9d78" };
const OVER = [
  { title: "trials that have ended", name: "trials" },
  { title: "hours since the first training began", name: "hours" },
];

/** The best score so far over trials that have ended (place 0) or hours (place 1). runs: [{name, curve, colour}], with
 * curve: [[trials, hours, score], ...]. */
export function bestSoFar(runs, place) {
  const { title, name } = OVER[place];
  const shown = runs
    .map((run) => ({ ...run, points: run.curve.filter((point) => point[place] !== null) }))
    .filter((run) => run.points.length);
  if (!shown.length) return null;
  const minutes = place === 1 && Math.max(...shown.map((run) => run.points.at(-1)[1])) < 1.5;
  const x = (point) => point[place] * (minutes ? 60 : 1);
  const unit = minutes ? "minutes" : name;
  const data = shown.map((run) => ({
    x: run.points.map(x),
    y: run.points.map((point) => point[2]),
    name: escape(run.name),
    mode: "lines+markers",
    line: { color: run.colour ?? ACCENT, width: 2, shape: "hv" },
    marker: { size: 5, color: run.colour ?? ACCENT },
    hovertemplate: `${shown.length > 1 ? `${escape(run.name)}: ` : ""}${hover()} after %{x:,.3~g} ${unit}<extra></extra>`,
  }));
  const said = shown.map((run) => `${run.name} ${score(run.points.at(-1)[2])}`).join(", ");
  return {
    data,
    x: { title: { text: minutes ? title.replace("hours", "minutes") : title }, rangemode: "tozero" },
    y: scoreAxis(metric.episodes === false ? "" : "on search starts"),
    extra: { showlegend: shown.length > 1 },
    label: `Line chart: ${sentence(metric.label)}, best so far over ${unit}: ${said}`,
  };
}

/** Height of the timeline in pixels. */
export const timelineHeight = (found) =>
  110 +
  30 * Object.values(found.stages).filter((spans) => spans.length).length +
  (found.slots <= 4 ? 46 : 22) * found.slots;

/** What the timeline shows. */
export function timelineNote(found) {
  const episodes = found.stages.episodes ? ", and when episodes ran" : "";
  const breaks = found.breaks ? ` Breaks in which the sweep did not run are left out (${duration(found.breaks)}).` : "";
  const last = found.since ? ` Of a long sweep, the last ${count(found.most)} trials.` : "";
  return `When trials ran, by slot: full bars are training, framed bars rollouts, light bars the whole trial with its waits. Trials that follow each other share a slot. Above: the stages of the sweep${episodes}.${breaks}${last}`;
}

/** When each trial trained and was measured. found: {slots, seconds, since, trials: {number: {slot, spans: [[kind, start,
 * end], ...]}}, stages: {name: [[start, end], ...]}}, in seconds since the sweep began; since: when the first of these
 * trials began, where earlier ones are left out, else 0. */
export function timeline(found, trials, open) {
  const list = trials.filter((t) => found.trials[t.n]);
  if (!list.length) return null;
  const spansOf = (t) => found.trials[t.n].spans;
  const first = (t) => spansOf(t)[0][1];
  const last = (t) => Math.max(...spansOf(t).map((span) => span[2]));
  const all = found.seconds;
  const [unit, per] = all > 7200 ? ["hours", 3600] : all > 120 ? ["minutes", 60] : ["seconds", 1];
  const stages = Object.entries(found.stages).filter(([, spans]) => spans.length);
  const place = (n) => found.trials[n].slot + 1;
  const data = [];
  const bars = (spans, name, colour, more) =>
    data.push({
      type: "bar",
      orientation: "h",
      base: spans.map((span) => span.from / per),
      x: spans.map((span) => (span.to - span.from) / per),
      y: spans.map((span) => span.y),
      customdata: spans.map((span) => span.n ?? null),
      hovertext: spans.map((span) => `${escape(span.what)}<br>${duration(span.to - span.from)}`),
      hoverinfo: "text",
      marker: { color: colour },
      name: escape(name),
      ...more,
    });
  for (const status of Object.keys(OF_STATUS)) {
    const some = list.filter((t) => t.status === status);
    if (!some.length) continue;
    const colour = OF_STATUS[status];
    const spans = (kind) =>
      some.flatMap((t) =>
        spansOf(t)
          .filter((span) => span[0] === kind)
          .map(([, from, to]) => ({ from, to, y: place(t.n), n: t.n, what: `trial ${t.n} (${status}), ${kind}` })),
      );
    const whole = some.map((t) => ({
      from: first(t),
      to: last(t),
      y: place(t.n),
      n: t.n,
      what: `trial ${t.n} (${status}), ${score(t.score)}`,
    }));
    bars(whole, status, alpha(colour, 0.22), { width: 0.82, showlegend: false });
    bars(spans("training"), status, colour, { width: 0.82, legendgroup: status });
    bars(spans("rollouts"), status, alpha(colour, 0.6), {
      width: 0.46,
      legendgroup: status,
      showlegend: false,
      marker: { color: alpha(colour, 0.25), line: { color: colour, width: 1 } },
    });
  }
  stages.forEach(([name, spans], i) =>
    bars(
      spans.map(([from, to]) => ({ from, to, y: -i - 0.25, what: `stage ${name}` })),
      name,
      alpha(REST, 0.55),
      { width: 0.5, showlegend: false },
    ),
  );
  const rows = found.slots;
  const step = Math.ceil(rows / 12);
  const slots = Array.from({ length: rows }, (_, i) => i + 1).filter((i) => (i - 1) % step === 0);
  return {
    data,
    x: {
      title: { text: `${unit} since the sweep began` },
      ...(found.since ? { range: [found.since / per, all / per] } : { rangemode: "tozero" }),
    },
    y: {
      tickvals: [...stages.map((_, i) => -i - 0.25), ...slots],
      ticktext: [...stages.map(([name]) => escape(name)), ...slots.map((i) => `slot ${i}`)],
      range: [rows + 0.6, -stages.length - 0.1 + 0.25],
      showgrid: false,
    },
    click: open,
    extra: { barmode: "overlay", bargap: 0 },
    label: `Timeline of ${list.length} trials in ${rows} slots over ${duration(all)}: ${stages
      .map(([name, spans]) => `${name} ${duration(spans.reduce((sum, [a, b]) => sum + b - a, 0))}`)
      .join(", ")}.`,
  };
}
