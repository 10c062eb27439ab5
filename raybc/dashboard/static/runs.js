// Several sweeps side by side. Asks for what is there every two seconds while the page is looked at.
import { $, badge, bar, compareBy, count, h, metric, score, scoreRange, sentence, show } from "./dom.js";
import { COLOURS, REST, escape, hover, plan, scoreAxis } from "./plots.js";

const SECONDS = 2;
const NOTHING = "\u2013";
let drawn = "";

const colour = (i) => COLOURS[i] ?? REST;

async function poll() {
  try {
    if (!document.hidden) await ask();
    problem("");
  } catch (error) {
    problem(
      error instanceof TypeError
        ? "The dashboard does not answer: it was stopped. What is shown is the last that was known. Start it again: python -m raybc.dashboard RUN RUN ..."
        : error.message,
    );
  }
  setTimeout(poll, 1000 * SECONDS);
}

function problem(text) {
  $("problem").hidden = !text;
  if ($("problem").textContent !== text) $("problem").textContent = text;
}

async function ask() {
  const answer = await fetch("api/runs");
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error ?? answer.statusText);
  const same = JSON.stringify({ ...found, now: 0 });
  if (same === drawn) return; // nothing moves under the reader's hands
  drawn = same;
  draw(found);
  document.documentElement.dataset.ready ??= Math.round(performance.now());
}

function head(table, ...cells) {
  $(table).tHead.replaceChildren(h("tr", {}, ...cells));
}

const column = (text, number = false) => h("th", { scope: "col", class: number ? "num" : null }, text);

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
    column(""),
    column("core-hours", true),
    column("task"),
  );
  $("table-runs").tBodies[0].replaceChildren(...found.runs.map((run, i) => row(run, i)));
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
    h(
      "td",
      {},
      h("span", { class: `pill ${run.live ? "live" : ""}` }, run.live ? "running" : run.trials ? "ended" : "starting"),
    ),
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
    h(
      "td",
      {},
      best ? `${score(best.score)} (${scoreRange(best.interval) || NOTHING}) ` : NOTHING,
      best && badge(best.on),
    ),
    h("td", {}, best && metric.rate && best.score !== null ? bar(best.score, best.interval) : ""),
    h("td", { class: "num" }, run.core_hours < 10 ? run.core_hours.toPrecision(2) : count(Math.round(run.core_hours))),
    h("td", {}, h("code", {}, run.task)),
  );
}

function figures(found) {
  const drawable = found.runs.map((run, i) => [run, i]).filter(([run]) => run.curve?.length);
  $("no-figures").hidden = found.one_metric;
  $("figures").hidden = !found.one_metric;
  if (drawable.length) compareBy(drawable[0][0].metric, []);
  const shown = found.one_metric ? drawable : [];
  const make = (place, x, name) => () => {
    const data = shown.flatMap(([run, i]) => {
      const points = run.curve.filter((point) => point[place] !== null);
      if (!points.length) return [];
      return {
        x: points.map((point) => point[place]),
        y: points.map((point) => point[2]),
        name: escape(run.name),
        mode: "lines+markers",
        line: { color: colour(i), width: 2, shape: "hv" },
        marker: { size: 4, color: colour(i) },
        hovertemplate: `${escape(run.name)}: ${hover()} after %{x:,.3~g} ${name}<extra></extra>`,
      };
    });
    if (!data.length) return null;
    const said = shown.map(([run]) => `${run.name} ${score(run.curve.at(-1)[2])}`).join(", ");
    return {
      data,
      x: { title: { text: x }, rangemode: "tozero" },
      y: scoreAxis("on search starts"),
      label: `${sentence(metric.label)}, best so far over ${name}: ${said}`,
    };
  };
  plan($("plot-trials"), make(0, "trials that have ended", "trials"));
  plan($("plot-hours"), make(1, "hours", "hours"));
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

document.addEventListener("visibilitychange", () => document.hidden || ask().catch((error) => problem(error.message)));
poll();
