// The page of a training: scores and losses over steps. It follows one that runs.
import { $, compareBy, count, h, metric, score, scoreRange, sentence } from "./dom.js";
import { empty } from "./empty.js";
import { lossCurve, trialCurve } from "./figures.js";
import { followWhole } from "./live.js";
import { fact, nameOfRun, stopped } from "./overview.js";
import { plan } from "./plots.js";
import { column } from "./sweeps.js";

function draw(found) {
  compareBy(
    found.metric,
    found.rows.map((row) => ({ score: row.rate, interval: row.interval })),
  );
  nameOfRun("training", found);
  stopped(found, "training");
  const of = found.steps ? ` of ${count(found.steps)}` : "";
  $("since").textContent = `step ${count(found.step)}${of}${found.failure ? ` \u00b7 ${found.failure}` : ""}`;
  const losses = Object.values(found.losses).some((points) => points.length);
  empty("scores", losses || found.rows.length ? "" : "Nothing yet: losses appear with the first lines of train.csv.");
  for (const [id, shown, make] of [
    ["plot-curve", found.curve.length > 0, () => trialCurve({ n: null, curve: found.curve }, found.rows)],
    ["plot-loss", losses, () => lossCurve(found.losses)],
  ]) {
    $(id).parentElement.hidden = !shown;
    if (shown) plan($(id), make);
  }
  table(found);
  const checkpoint = ({ seed, steps, of: all, best }) =>
    `${found.seeds.length > 1 ? `seed ${seed}: ` : ""}${steps.length ? steps.map(count).join(", ") : "none"}${
      all > steps.length ? ` (the last of ${count(all)})` : ""
    }${best === null ? "" : `; best: ${count(best)}`}`;
  $("facts").replaceChildren(
    ...[
      fact("Task", found.task),
      fact(found.seeds.length > 1 ? "Seeds" : "Seed", found.seeds.join(", ")),
      fact("Compared by", metric.label),
      fact("Checkpoints at steps", found.checkpoints.map(checkpoint).join(" \u00b7 ")),
    ].filter(Boolean),
  );
  $("options").replaceChildren(...found.options.map((option) => h("li", {}, option)));
}

function table(found) {
  empty(
    "evaluations",
    found.rows.length
      ? ""
      : "No evaluation yet: rows appear with the first one (--eval_interval), or never without a simulator or held-out data.",
    "evaluations-some",
  );
  const episodes = found.rows.some((row) => row.episodes);
  $("table-evaluations").tHead.replaceChildren(
    h(
      "tr",
      {},
      column("step", true),
      column("seed", true),
      column(`${sentence(metric.label)}, 95\u00a0% CI`),
      ...(episodes ? [column("episodes", true), column("errors", true)] : []),
    ),
  );
  const cell = (text) => h("td", { class: "num" }, text);
  $("table-evaluations").tBodies[0].replaceChildren(
    ...[...found.rows]
      .sort((a, b) => b.step - a.step || (a.seed < b.seed ? -1 : 1))
      .map((row) =>
        h(
          "tr",
          {},
          h("th", { scope: "row", class: "num" }, count(row.step)),
          cell(row.seed),
          h("td", {}, h("strong", {}, score(row.rate)), ` ${scoreRange(row.interval)}`),
          ...(episodes ? [cell(count(row.episodes)), cell(count(row.errors))] : []),
        ),
      ),
  );
}

followWhole("api/training", draw, "python -m raybc.dashboard FOLDER");
