// The page of an evaluation: its score with interval, and every episode. It follows one that runs.
import { $, bar, compareBy, count, h, metric, score, scoreRange, sentence } from "./dom.js";
import { empty } from "./empty.js";
import { episodeDialog, matrix, taskAt } from "./episodes.js";
import { withSources } from "./films.js";
import { followWhole } from "./live.js";
import { fact, nameOfRun, stopped } from "./overview.js";
import { NOTHING, column } from "./sweeps.js";
import { endStates } from "./states.js";

let groups = [];

const dialog = episodeDialog({
  others: (group, place) =>
    groups
      .filter((g) => g !== group && g.name === group.name)
      .map((g) => [g, g.episodes.findIndex((e, p) => e[0] === group.episodes[place][0] && taskAt(g, p) === "")])
      .filter(([, p]) => p >= 0),
});

function draw(found) {
  compareBy(
    found.metric,
    found.settings.flatMap((one) => [one, ...one.tasks]),
  );
  nameOfRun("evaluation", found);
  stopped(found, "evaluation");
  const best = found.settings.length === 1 ? found.settings[0] : null;
  $("since").textContent =
    found.done < found.asked && !found.until_halfwidth
      ? `${count(found.done)} of ${count(found.asked)} episodes so far`
      : `${count(found.done)} episodes`;
  $("tiles").replaceChildren(...(best ? tiles(best, found) : []));
  results(found);
  $("result-note").textContent = note(found);
  $("facts").replaceChildren(
    ...[
      fact("Policy", found.policy),
      fact("Training step", found.step ? count(found.step) : ""),
      fact("run_id", found.run_id),
      fact("Task", found.task || found.tasks.join(", ")),
      fact("Starts", `${found.starts.set}, ${count(found.starts.episodes)} from ${count(found.starts.first)} on`),
      fact("Instruction", found.instruction),
      fact("Stops early", found.until_halfwidth ? `at an interval of \u00b1${found.until_halfwidth}` : ""),
    ].filter(Boolean),
  );
  episodes(found);
}

function tiles(one, found) {
  const tile = (name, value, text) =>
    h(
      "div",
      { class: "card" },
      h("dt", {}, name),
      h("dd", {}, h("span", { class: "figure" }, value), h("span", { class: "sub" }, text)),
    );
  const interval = one.interval ? `95\u00a0% interval ${scoreRange(one.interval)}` : "no interval";
  return [
    tile(`${sentence(metric.label)} on ${found.starts.set} starts`, score(one.score), interval),
    found.metric.has_success
      ? tile("Solved", `${count(one.successes ?? 0)} / ${count(one.episodes)}`, "valid episodes")
      : tile("Episodes", count(one.episodes), "valid"),
    tile(
      "Not solved",
      count(one.failures + one.timeouts),
      `${count(one.failures)} failure, ${count(one.timeouts)} timeout`,
    ),
    tile("Errors", count(one.errors), "counted apart, in no mean"),
  ];
}

function results(found) {
  const several = found.settings.length > 1 || found.tasks.length > 1;
  $("results").hidden = !several;
  if (!several) return;
  const table = $("table-results");
  table.tHead.replaceChildren(
    h(
      "tr",
      {},
      column("sample setting"),
      ...(found.tasks.length > 1 ? [column("task")] : []),
      column(`${metric.label} (95\u00a0% interval)`),
      column(h("span", { class: "hidden" }, "interval as a bar")),
      ...["episodes", "failures", "timeouts", "errors", "mean return"].map((title) => column(title, true)),
    ),
  );
  const row = (one, setting, task) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, setting),
      ...(found.tasks.length > 1 ? [h("td", {}, task)] : []),
      h("td", {}, h("strong", {}, score(one.score)), one.interval ? ` ${scoreRange(one.interval)}` : ""),
      h("td", {}, metric.rate && one.score !== null ? bar(one.score, one.interval) : ""),
      ...[one.episodes, one.failures, one.timeouts, one.errors].map((n) => h("td", { class: "num" }, count(n))),
      h("td", { class: "num" }, one.return === null ? NOTHING : Number(one.return.toPrecision(3)).toString()),
    );
  table.tBodies[0].replaceChildren(
    ...found.settings.flatMap((one) => [
      row(one, one.name, "mean over tasks"),
      ...one.tasks.map((part) => row(part, one.name, part.name)),
    ]),
  );
}

/** What a reader must know before quoting the numbers. */
function note(found) {
  const bounds = found.settings.find((one) => one.bounds)?.bounds;
  const said = [];
  if (found.state !== "ended")
    said.push("These are the episodes so far, which favour those that end early: do not report this rate.");
  if (found.settings.length > 1)
    said.push("The best of several settings on the same starts is too high an estimate: measure it on other starts.");
  if (bounds) said.push(`If the errors counted, the rate would be between ${scoreRange(bounds)}.`);
  return said.join(" ");
}

function episodes(found) {
  groups = found.groups;
  for (const group of groups)
    group.films = Object.fromEntries(Object.entries(group.films).map(([place, one]) => [place, withSources(one)]));
  empty(
    "episodes",
    groups.length ? "" : "No episode has ended yet: each appears here as soon as it has.",
    "episodes-some",
  );
  if (!groups.length) return;
  const options = { hasSuccess: found.metric.has_success, open: dialog.open };
  const { element } = matrix(groups, { ...options, most: 1000 });
  element.classList.toggle("single", groups.length === 1);
  $("episodes-matrix").replaceChildren(element);
  const states = endStates(groups, options);
  $("episodes-ends").replaceChildren(...(states ? [h("h3", { class: "between" }, "Where episodes end"), states] : []));
}

followWhole("api/evaluation", draw, "python -m raybc.dashboard FOLDER");
