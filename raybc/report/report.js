// The figures of a sweep, which the dashboard shows as well, from the data that the page carries.
import { axisFigure, settingFigure } from "../dashboard/static/axes.js";
import { costs, curves, importance, losses } from "../dashboard/static/figures.js";
import { compareBy } from "../dashboard/static/numbers.js";
import { pairFigure, swapping } from "../dashboard/static/pairs.js";
import { plan } from "../dashboard/static/plots.js";
import { bestSoFar, timeline, timelineHeight, timelineNote } from "../dashboard/static/time.js";

const { run, trials, ...found } = JSON.parse(document.getElementById("data").textContent);
compareBy(run.metric, trials);

const chosen = (plot) => [...plot.closest("figure").querySelectorAll("select")].map((select) => select.value);
const figures = {
  curves: () => curves(trials, run),
  losses: () => losses(trials, run, found.losses),
  axis: (plot) => axisFigure(plot.dataset.axis, trials, run),
  settings: () => settingFigure(trials, run),
  pair: (plot) => pairFigure(trials, run, chosen(plot)),
  importance: () => importance(found.importance),
  trials: () => bestSoFar([{ name: run.name, curve: found.best }], 0),
  hours: () => bestSoFar([{ name: run.name, curve: found.best }], 1),
  timeline: () => timeline(found.timeline, trials),
  costs: () => costs(found.costs),
};
for (const plot of document.querySelectorAll(".plot[data-figure]")) {
  const draw = () => plan(plot, () => figures[plot.dataset.figure](plot));
  swapping([...plot.closest("figure").querySelectorAll("select")], draw);
  if (plot.dataset.figure === "timeline") {
    plot.style.height = `${timelineHeight(found.timeline)}px`;
    plot.nextElementSibling.textContent = timelineNote(found.timeline);
  }
  draw();
}
