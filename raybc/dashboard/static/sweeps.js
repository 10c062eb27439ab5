// Cells about a sweep in a table of several.
import { badge, bar, compareBy, copyButton, count, h, metric, score, scoreRange } from "./dom.js";

export const NOTHING = "\u2013";
export const column = (text, number = false) => h("th", { scope: "col", class: number ? "num" : null }, text);
export const pill = (state) => h("span", { class: `pill ${state === "running" ? "live" : ""}` }, state);
/** The state of a run, and how one that was stopped is continued. */
export const stateCell = (run) => [
  pill(run.state ?? NOTHING),
  run.resume
    ? h(
        "span",
        { class: "sub" },
        copyButton(run.resume, `Copy command that continues it: ${run.resume}`, "Copy command"),
      )
    : "",
];
export const hours = (value) =>
  value === null || value === undefined
    ? NOTHING
    : value < 10
      ? Number(value.toPrecision(2)).toString()
      : count(Math.round(value));

/** The best score of a run with its interval and the starts that it is of. */
export function bestCell(run) {
  const { best } = run;
  if (!best || best.score === null) return NOTHING;
  compareBy(run.metric, [best]);
  const range = best.interval ? ` (${scoreRange(best.interval)})` : "";
  return [
    `${score(best.score)}${range} `,
    /^\w+$/.test(best.on) ? badge(best.on) : h("span", { class: "sub" }, best.on),
  ];
}

export function bestBar(run) {
  if (!run.best || run.best.score === null) return "";
  compareBy(run.metric, [run.best]);
  return metric.rate ? bar(run.best.score, run.best.interval) : "";
}
