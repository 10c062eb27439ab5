// Asks for what is new every two seconds and draws it. Nothing is asked while the page is not looked at.
import { axisFigure, inBrush, parallel, settingFigure } from "./axes.js";
import {
  $,
  compareBy,
  count,
  duration,
  h,
  metric,
  percent,
  radios,
  score,
  scoreRange,
  sentence,
  video,
} from "./dom.js";
import * as figures from "./figures.js";
import { plan } from "./plots.js";
import { drawStatuses, drawTable, parseFilter, resetPage } from "./table.js";
import { close, open as openTrial } from "./trial.js";

const SECONDS = 2;
const trials = new Map();
const statuses = new Set(["completed", "running", "pruned", "failed"]);
let run = null;
let known = { generation: -1, revision: -1 };
let brush = new Map();
let importanceOf = "";
let offset = 0;
let timer = 0;
const videos = { outcome: "all", trial: "all", drawn: "" };

const open = (number) => openTrial(number, run);

$("all").hidden = !location.pathname.startsWith("/runs/"); // paths are relative, since a sweep may be one of several

async function poll() {
  clearTimeout(timer);
  try {
    if (!document.hidden) await ask();
    problem("");
  } catch (error) {
    problem(
      error instanceof TypeError
        ? "The dashboard does not answer: it was stopped, or its sweep has ended. What is shown is the last that was known. Start it again: python -m raybc.dashboard RUN_DIR"
        : error.message,
    );
  }
  timer = setTimeout(poll, 1000 * SECONDS);
}

async function ask() {
  const answer = await fetch(`api/run?generation=${known.generation}&revision=${known.revision}`);
  const news = await answer.json();
  if (!answer.ok) throw new Error(news.error ?? answer.statusText);
  offset = news.now - Date.now() / 1000;
  if (news.generation !== known.generation) trials.clear();
  known = { generation: news.generation, revision: news.revision };
  for (const trial of news.trials) trials.set(trial.n, trial);
  if (news.run) {
    const first = run === null;
    run = news.run;
    compareBy(run.metric, [...trials.values()]);
    draw();
    const wanted = /^#trial-(\d+)$/.exec(location.hash);
    if (first && wanted) open(Number(wanted[1]));
    document.documentElement.dataset.ready ??= Math.round(performance.now()); // ms, for benchmarks
  }
  since();
}

function problem(text) {
  $("problem").hidden = !text;
  if ($("problem").textContent !== text) $("problem").textContent = text;
}

function since() {
  if (!run) return;
  const last = run.rate.last;
  const ago = last ? duration(Math.max(0, Date.now() / 1000 + offset - last)) : null;
  const live = run.ended === null && trials.size > 0;
  $("state").textContent = live ? "running" : trials.size ? "ended" : "starting";
  $("state").className = `pill ${live ? "live" : ""}`;
  $("since").textContent = `${run.path}${ago ? ` \u00b7 last measurement ended ${ago} ago` : ""}`;
}

// --- what is shown -------------------------------------------------------------------------------------------------------

function chosen() {
  const all = [...trials.values()];
  const { test, error } = parseFilter($("filter").value, run);
  const passes = test ?? (() => true);
  const filtered = all.filter((t) => statuses.has(t.status) && (!$("with-videos").checked || t.videos) && passes(t));
  const shown = brush.size ? filtered.filter((t) => inBrush(t, brush, run, all)) : filtered;
  $("filter").setAttribute("aria-invalid", error ? "true" : "false");
  $("filter-help").textContent =
    error ??
    (shown.length === all.length
      ? `${count(all.length)} trials. A click on a heading sorts, on a row opens the trial.`
      : `${count(shown.length)} of ${count(all.length)} trials; the figures show these.`);
  return { all, filtered, shown };
}

function draw() {
  $("name").textContent = run.name;
  $("task").replaceChildren(...(run.task ? ["\u00b7 task ", h("code", {}, run.task)] : []));
  document.title = `${run.name} - raybc dashboard`;
  tiles();
  drawStatuses(run, statuses, drawShown);
  drawShown();
  plan($("plot-rate"), () => figures.rate(run.rate));
  errors();
  drawVideos();
}

function drawShown() {
  const { all, filtered, shown } = chosen();
  drawTable(shown, all, run, open, drawShown);
  plan($("plot-curves"), () => figures.curves(shown, run, open));
  axes(shown);
  plan($("plot-parallel"), () =>
    parallel(filtered, run, brush, (ranges) => {
      brush = ranges;
      resetPage();
      drawShown();
    }),
  );
  $("unbrush").hidden = !brush.size;
  plan($("plot-importance"), () => void importances());
}

function axes(shown) {
  const grid = $("axis-grid");
  const names = [...run.axes, "sample setting"];
  if (grid.dataset.names !== names.join()) {
    grid.dataset.names = names.join();
    grid.replaceChildren(
      ...names.map((name) =>
        h(
          "figure",
          { class: "chart" },
          h("div", {
            class: "plot",
            role: "img",
            style: "height:280px",
            "data-axis": name,
            "aria-label": `${sentence(metric.label)} against ${name}`,
          }),
        ),
      ),
    );
  }
  for (const plot of grid.querySelectorAll(".plot")) {
    const name = plot.dataset.axis;
    if (name === "sample setting")
      plot.parentElement.hidden = ![...trials.values()].some((t) => t.by_setting.length > 1);
    plan(plot, () =>
      name === "sample setting" ? settingFigure(shown, run, open) : axisFigure(name, shown, run, open),
    );
  }
}

async function importances() {
  const revision = `${known.generation}.${known.revision}`;
  if (importanceOf !== revision) {
    importanceOf = revision;
    const found = await (await fetch("api/importance")).json();
    importances.found = found;
  }
  const found = importances.found ?? {};
  const plot = $("plot-importance");
  const note = found.axes
    ? `Optuna's PED-ANOVA over the ${count(found.trials)} trials that reached evaluation ${found.evaluation} (step ${count(found.step)}), compared there: how much an axis decides whether a trial is among the best ${Math.round(100 * found.best)} %. All trials, whatever the filter.${found.trials < 20 ? " With so few trials, a hint only." : ""}`
    : `Known when at least ${found.minimum ?? 6} trials with different scores were measured; ${found.trials ?? 0} so far.`;
  $("importance-note").textContent = note;
  plot.hidden = !found.axes;
  if (found.axes) {
    plot.style.height = `${90 + 34 * Object.keys(found.axes).length}px`;
    plan(plot, () => figures.importance(found));
  }
}

/** Which trial, by what, with which interval. */
function interval(best) {
  const pair = best.final ? best.final.interval : best.interval;
  const what = metric.rate ? "" : `, ${metric.label}`;
  return `trial ${best.n}${what}${pair ? `, 95 % CI ${scoreRange(pair)}` : ""}`;
}

function tiles() {
  const counts = run.counts;
  const best = trials.get(run.winner ?? run.leader);
  const totals = run.totals;
  const finished = (counts.completed ?? 0) + (counts.pruned ?? 0) + (counts.failed ?? 0);
  const tile = (name, value, ...notes) =>
    h(
      "div",
      { class: "card" },
      h("dt", {}, name),
      h("dd", {}, h("span", { class: "figure" }, value), h("span", { class: "sub" }, ...notes)),
    );
  const measured = best?.final;
  const recent = run.rate.rate?.slice(-3) ?? [];
  $("tiles").replaceChildren(
    tile(
      metric.episodes === false
        ? "Best on held-out data"
        : measured
          ? `${run.winner === null ? "Leader" : "Winner"} on final starts`
          : "Best on search starts",
      best ? score(measured ? measured.rate : best.score) : "-",
      best ? interval(best) : "no measurement yet",
      metric.episodes === false
        ? "; no success rate was measured: there is no environment"
        : best && !measured
          ? "; chosen on these starts, so optimistic"
          : "",
      measured?.errors ? `; ${measured.errors}` : "",
    ),
    tile(
      "Trials finished",
      `${count(finished)} / ${count(run.asked)}`,
      ["completed", "pruned", "failed", "running"]
        .filter((s) => counts[s])
        .map((s) => `${count(counts[s])} ${s}`)
        .join(", "),
    ),
    tile(
      "Episodes per second",
      run.rate.mean === null ? "-" : run.rate.mean.toFixed(1),
      `while measuring; ${recent.length ? recent.at(-1).toFixed(1) : "-"} lately; ${count(totals.episodes)} episodes`,
    ),
    tile(
      "Simulators",
      run.workers ?? "-",
      run.workers
        ? `processes${run.cpus ? ` on ${run.cpus} cores` : ""}${run.pool.restarts ? `, ${run.pool.restarts} restarts` : ""}`
        : "not known yet",
    ),
    tile(
      "Errors",
      count(totals.errors),
      totals.errors ? "in no mean; by kind below" : `of ${count(totals.episodes)} episodes`,
    ),
  );
  const parts = ["completed", "pruned", "failed", "running"].map((status) => [status, counts[status] ?? 0]);
  const all = Math.max(run.asked, trials.size, 1);
  $("progress").setAttribute("aria-label", parts.map(([status, n]) => `${n} ${status}`).join(", ") + ` of ${all}`);
  $("progress").replaceChildren(
    ...parts.map(([status, n]) => h("span", { class: status, style: `width:${(100 * n) / all}%` })),
  );
}

function errors() {
  const rows = [
    ...(metric.has_success ? [["success", run.totals.successes]] : []),
    ["failure (ended by the task)", run.totals.failures],
    ["timeout (step limit)", run.totals.timeouts],
    ["error (in no mean)", run.totals.errors],
  ];
  const kinds = Object.entries(run.kinds).sort(([, a], [, b]) => b - a);
  const valid = run.totals.successes + run.totals.failures + run.totals.timeouts + run.totals.errors;
  const table = (head, lines) =>
    h(
      "table",
      { class: "plain" },
      h("thead", {}, h("tr", {}, ...head.map((title, i) => h("th", { scope: "col", class: i ? "num" : null }, title)))),
      h(
        "tbody",
        {},
        ...lines.map(([name, ...values]) =>
          h("tr", {}, h("th", { scope: "row" }, name), ...values.map((v) => h("td", { class: "num" }, v))),
        ),
      ),
    );
  $("errors").replaceChildren(
    h("h3", {}, "Outcomes"),
    table(
      ["Episode ended in", "Episodes", "Share"],
      rows.map(([name, n]) => [name, count(n), valid ? percent(n / valid) : "-"]),
    ),
    h("h3", {}, "Errors by kind"),
    kinds.length
      ? table(
          ["Kind", "Episodes"],
          kinds.map(([kind, n]) => [kind, count(n)]),
        )
      : h("p", { class: "soft" }, "None."),
    run.first_error ? h("p", { class: "soft small" }, `The first: ${run.first_error}`) : "",
    run.pool.retries
      ? h(
          "p",
          { class: "soft small" },
          `${count(run.pool.retries)} episodes were tried again, ${count(run.pool.restarts)} processes replaced.`,
        )
      : "",
    ...(run.reasons.length
      ? [
          h("h3", {}, "Failed trials"),
          table(
            ["Reason", "Trials"],
            run.reasons.map(([reason, n]) => [
              reason.length > 160 ? reason.slice(0, 160) + "\u2026" : reason,
              count(n),
            ]),
          ),
        ]
      : []),
  );
}

function drawVideos() {
  const all = run.videos;
  const select = $("video-trial");
  const numbers = [...new Set(all.map((v) => v.trial))].sort((a, b) => a - b);
  const drawn = JSON.stringify([all, videos.outcome, videos.trial]);
  if (drawn === videos.drawn) return; // a video that plays is left alone
  videos.drawn = drawn;
  if (!numbers.includes(Number(videos.trial))) videos.trial = "all";
  select.replaceChildren(
    h("option", { value: "all" }, "all"),
    ...numbers.map((n) => h("option", { value: n }, `trial ${n}`)),
  );
  select.value = videos.trial;
  const here = all.filter((v) => videos.trial === "all" || v.trial === Number(videos.trial));
  const solved = here.filter((v) => v.outcome === "success");
  radios(
    $("outcomes"),
    "outcome",
    [
      ["all", `all ${here.length}`],
      ...(metric.has_success
        ? [
            ["success", `${solved.length} success`],
            ["failure", `${here.length - solved.length} failure`],
          ]
        : []),
    ],
    videos.outcome,
    (value) => {
      videos.outcome = value;
      drawVideos();
    },
  );
  const shown = here.filter(
    (v) => videos.outcome === "all" || (v.outcome === "success") === (videos.outcome === "success"),
  );
  $("video-grid").replaceChildren(...shown.map((v) => video(v)));
  if (!shown.length)
    $("video-grid").append(
      h(
        "p",
        { class: "soft" },
        all.length
          ? "No video of this kind."
          : "No videos yet: they are made at the end of a sweep. A trial's page has the command that films it.",
      ),
    );
}

// --- what people do ------------------------------------------------------------------------------------------------------

let typing = 0;
$("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    resetPage();
    run && drawShown();
  }, 150);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("with-videos").addEventListener("change", () => run && drawShown());
$("video-trial").addEventListener("change", (event) => {
  videos.trial = event.target.value;
  drawVideos();
});
$("clear").addEventListener("click", () => {
  $("filter").value = "";
  $("with-videos").checked = false;
  ["completed", "running", "pruned", "failed"].forEach((status) => statuses.add(status));
  brush = new Map();
  resetPage();
  if (run) draw();
});
$("unbrush").addEventListener("click", () => {
  brush = new Map();
  drawShown();
});
addEventListener("hashchange", () => {
  const wanted = /^#trial-(\d+)$/.exec(location.hash);
  wanted ? open(Number(wanted[1])) : close();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => run && draw());
poll();
