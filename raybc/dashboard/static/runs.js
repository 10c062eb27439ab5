// Several sweeps side by side.
import { $, compareBy, count, h, metric, show } from "./dom.js";
import { follow, get, ready } from "./live.js";
import { COLOURS, REST, plan } from "./plots.js";
import { NOTHING, bestBar, bestCell, column, hours, stateCell } from "./sweeps.js";
import { bestSoFar } from "./time.js";

let drawn = "";

const colour = (i) => COLOURS[i] ?? REST;

async function ask() {
  const found = await get(`api/runs${location.search}`);
  const same = JSON.stringify({ ...found, now: 0 });
  if (same === drawn) return; // nothing moves under the reader's hands
  drawn = same;
  draw(found);
  ready();
}

function head(table, ...cells) {
  $(table).tHead.replaceChildren(h("tr", {}, ...cells));
}

function draw(found) {
  $("name").textContent = `${count(found.runs.length)} sweeps`;
  const label =
    found.one_metric && found.runs.some((run) => run.metric)
      ? found.runs.find((run) => run.metric).metric.label
      : "score";
  head(
    "table-runs",
    column("sweep"),
    column("state"),
    column("trials", true),
    column("best", true),
    column(`${label} (95\u00a0% interval)`),
    column(h("span", { class: "hidden" }, "interval as a bar")),
    column("core-hours", true),
    column("task"),
  );
  $("table-runs").tBodies[0].replaceChildren(...found.runs.map((run, i) => row(run, i)));
  common(found.common);
  figures(found);
  recipes(found);
  options(found);
}

function named(run, i) {
  return h(
    "th",
    { scope: "row" },
    h("span", { class: "square", style: `background:${colour(i)}`, "aria-hidden": "true" }),
    " ",
    h("a", { href: run.href }, run.name),
    h("span", { class: "sub soft small" }, run.path),
  );
}

function row(run, i) {
  if (run.error) return h("tr", {}, named(run, i), h("td", { colspan: 7, class: "wrap" }, run.error));
  compareBy(run.metric, run.best ? [{ score: run.best.score, interval: run.best.interval }] : []);
  const best = run.best;
  const { completed, pruned, failed } = run.counts;
  return h(
    "tr",
    {},
    named(run, i),
    h("td", {}, stateCell(run)),
    h(
      "td",
      { class: "num", title: `${completed} completed, ${pruned} pruned, ${failed} failed` },
      `${count(run.trials)}/${count(run.asked)}`,
    ),
    h(
      "td",
      { class: "num" },
      best ? h("a", { href: `${run.href}#trial-${best.trial}` }, `trial ${best.trial}`) : NOTHING,
    ),
    h("td", {}, bestCell(run)),
    h("td", {}, bestBar(run)),
    h("td", { class: "num" }, hours(run.core_hours)),
    h("td", {}, h("code", {}, run.task)),
  );
}

/** The best recipes on the final starts that all measured, in the words of `raybc compare`. */
function common(found) {
  $("common").hidden = !found;
  if (!found) return;
  const known = Boolean(found.starts);
  $("common-scroll").hidden = !known;
  $("common-note").textContent = known
    ? `The best recipe of each sweep on the ${count(found.starts)} final starts that all of them measured${found.of > found.starts ? ` (of ${count(found.of)})` : ""}. These starts chose nothing.`
    : found.note;
  $("common-lines").replaceChildren();
  if (!known) return;
  head(
    "table-common",
    column("sweep"),
    column(metric.label, true),
    column("95\u00a0% interval", true),
    column(metric.rate ? "solved" : "episodes", true),
  );
  $("table-common").tBodies[0].replaceChildren(
    ...found.arms.map(([name, ...cells]) =>
      h("tr", {}, h("th", { scope: "row" }, name), ...cells.map((cell) => h("td", { class: "num" }, cell))),
    ),
  );
  const said = found.lines.map(([line, more]) => h("p", { class: more ? "soft small" : null }, line));
  const notes = found.notes.map((note) => h("p", { class: "soft small" }, note));
  $("common-lines").replaceChildren(...said, ...notes);
}

function figures(found) {
  const drawable = found.runs.map((run, i) => [run, i]).filter(([run]) => run.curve?.length);
  $("no-figures").hidden = found.one_metric;
  $("figures").hidden = !found.one_metric;
  if (drawable.length) compareBy(drawable[0][0].metric, []);
  const shown = found.one_metric ? drawable.map(([run, i]) => ({ ...run, colour: colour(i) })) : [];
  plan($("plot-trials"), () => bestSoFar(shown, 0));
  plan($("plot-hours"), () => bestSoFar(shown, 1));
}

function matrix(section, table, first, rows, runs) {
  $(section).hidden = !rows.length;
  head(table, column(first), ...runs.map((run) => column(run.name)));
  $(table).tBodies[0].replaceChildren(
    ...rows.map(([name, values]) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, h("code", {}, name)),
        ...values.map((v) => h("td", { class: "wrap" }, v === null || v === undefined ? NOTHING : show(v))),
      ),
    ),
  );
}

function recipes(found) {
  const measured = found.runs.filter((run) => run.best);
  const rows = found.axes.map((axis) => [axis, measured.map((run) => run.best.params[axis])]);
  const settings = measured.map((run) => run.best.setting);
  if (new Set(settings).size > 1) rows.push(["sample setting", settings]);
  matrix("differences", "table-axes", "axis", rows, measured);
}

function options(found) {
  matrix(
    "options",
    "table-options",
    "option",
    found.options.map((one) => [one.name, one.values]),
    found.runs,
  );
}

$("all").hidden = !location.pathname.endsWith("/several"); // one of the pages of an index
follow(ask, "python -m raybc.dashboard RUN RUN ...");
