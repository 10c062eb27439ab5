// Two axes of a sweep at once, of which people choose.
import { $, h, show } from "./dom.js";
import { empty, noPair } from "./empty.js";
import { pairFigure, swapping } from "./pairs.js";
import { plan } from "./plots.js";

/** chosen: the axes in the address, [] for the first ones; changed: called when somebody chooses. */
export const pair = { chosen: [], changed: () => {} };

let first = []; // those that matter most, as soon as that is known; kept, since a figure must not change by itself

const selects = [$("pair-x"), $("pair-y")];
const values = swapping(selects, () => {
  pair.chosen = selects.map((select) => select.value);
  pair.changed();
});

/** The axes in which trials with a score differ. */
const differing = (trials, run) =>
  run.axes.filter((axis) => new Set(trials.filter((t) => t.score !== null).map((t) => show(t.params[axis]))).size > 1);

/** trials: those that the filter shows, of `all`; important: asks for the axes that matter most, in their order. */
export function drawPair(trials, all, run, open, important) {
  const axes = differing(all, run);
  empty("pair", noPair(axes), "pair-figure");
  if (axes.length < 2) return;
  const known = new Set(pair.chosen).size === 2 && pair.chosen.every((axis) => run.axes.includes(axis));
  const draw = () => {
    const [x, y] = known ? pair.chosen : first;
    const names = JSON.stringify(run.axes);
    if (selects[0].dataset.names !== names || selects[0].value !== x || selects[1].value !== y) {
      for (const [i, select] of selects.entries()) {
        select.dataset.names = names;
        select.replaceChildren(...run.axes.map((axis) => h("option", { value: axis }, axis)));
        select.value = [x, y][i];
      }
      values.remember();
    }
    return pairFigure(trials, run, [x, y], open);
  };
  plan($("plot-pair"), () => {
    if (known || first.length) return draw();
    important()
      .catch(() => [])
      .then((found) => {
        if (!first.length) first = [...new Set([...found.filter((axis) => axes.includes(axis)), ...axes])].slice(0, 2);
        plan($("plot-pair"), draw);
      });
    return undefined; // it comes later
  });
}
