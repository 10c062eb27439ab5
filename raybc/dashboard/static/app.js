// The page of a sweep: what is new is asked for every two seconds and drawn. What is looked at is in the address.
import { brushOf, ranges, read, typing, write } from "./address.js";
import { axisFigure, inBrush, parallel, settingFigure } from "./axes.js";
import { drawCourse } from "./course.js";
import { $, STATUSES, compareBy, count, duration, h, metric, percent, radios, sentence } from "./dom.js";
import { empty, noImportance, noRollout, noScore, noVideo } from "./empty.js";
import * as figures from "./figures.js";
import { filmBar } from "./film.js";
import { video } from "./films.js";
import { columns, parseFilter } from "./filter.js";
import { follow, get, ready } from "./live.js";
import { errors, stopped, tiles } from "./overview.js";
import { plan } from "./plots.js";
import { drawStarts } from "./starts.js";
import { drawStatuses, drawTable, resetPage, sort } from "./table.js";
import { close, measured, open as openTrial } from "./trial.js";
import { drawPair, pair } from "./two.js";

const trials = new Map();
const statuses = new Set(STATUSES);
let run = null;
let known = { generation: -1, revision: -1 };
let brush = new Map();
let importanceOf = "";
let offset = 0;
const videos = { outcome: "all", trial: "all", drawn: "" };

const open = (number) => openTrial(number, run);

$("all").hidden = !location.pathname.startsWith("/runs/"); // paths are relative, since a sweep may be one of several

async function ask() {
  const news = await get(`api/run?generation=${known.generation}&revision=${known.revision}`);
  offset = news.now - Date.now() / 1000;
  if (news.generation !== known.generation) trials.clear();
  known = { generation: news.generation, revision: news.revision };
  for (const trial of news.trials) trials.set(trial.n, trial);
  if (news.run || (run && run.state !== news.state)) {
    const first = run === null;
    run = { ...(news.run ?? run), state: news.state, resume: news.resume };
    compareBy(run.metric, [...trials.values()]);
    draw();
    if (first) openNamed();
    ready();
  }
  since();
}

function since() {
  if (!run) return;
  const last = run.rate.last;
  const ago = last ? duration(Math.max(0, Date.now() / 1000 + offset - last)) : null;
  $("state").textContent = run.state;
  $("state").className = `pill ${run.state === "running" ? "live" : ""}`;
  $("since").textContent = `${run.path}${ago ? ` \u00b7 last measurement ended ${ago} ago` : ""}`;
}

// --- what is shown -------------------------------------------------------------------------------------------------------

function chosen() {
  const all = [...trials.values()];
  const { test, error } = parseFilter($("filter").value, run);
  if (sort.key !== "rank" && !columns(run).some((column) => column.key === sort.key)) sort.key = "rank";
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
  stopped(run);
  tiles(run, trials);
  drawStatuses(run, statuses, drawShown);
  drawShown();
  plan($("plot-rate"), () => figures.rate(run.rate));
  errors(run);
  empty("rollouts", noRollout([...trials.values()], run), "rollouts-pair");
  drawStarts(run, `${known.generation}.${known.revision}`);
  drawVideos();
}

/** chosen: somebody has just chosen what is shown, so it is a step that "back" goes back. */
function drawShown(chosenNow = false) {
  if (chosenNow) remember(true);
  const { all, filtered, shown } = chosen();
  drawTable(shown, all, run, open, drawShown);
  const none = noScore(all, shown, run);
  empty("curves", none, "plot-curves");
  empty("axes", none, "axes-note", "axis-grid");
  empty("parallel", brush.size ? "" : none, "parallel-note", "plot-parallel");
  plan($("plot-curves"), () => figures.curves(shown, run, open));
  axes(shown);
  drawPair(shown, all, run, open, async () => Object.keys((await importances()).axes ?? {}));
  drawCourse(run, shown, all, `${known.generation}.${known.revision}`, open);
  plan($("plot-parallel"), () =>
    parallel(filtered, run, brush, (chosenRanges) => {
      brush = chosenRanges;
      resetPage();
      drawShown(true);
    }),
  );
  $("unbrush").hidden = !brush.size;
  plan($("plot-importance"), () => void drawImportances());
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

/** Why optuna-dashboard shows other shares, and which. */
function elsewhere(found) {
  if (!found) return "";
  const shares = Object.entries(found.axes).map(([axis, share]) => `${axis} ${percent(share)}`);
  return ` optuna-dashboard computes the same over the ${count(found.trials)} completed trials alone, by their last scores and the best 10 %: ${shares.join(", ") || "nothing yet"}.`;
}

/** The importances, asked for once after each change. */
function importances() {
  const revision = `${known.generation}.${known.revision}`;
  if (importanceOf !== revision) {
    importanceOf = revision;
    importances.found = get("api/importance");
  }
  return importances.found;
}

async function drawImportances() {
  const found = await importances();
  const plot = $("plot-importance");
  const note = found.axes
    ? `Optuna's PED-ANOVA over the ${count(found.trials)} trials that reached evaluation ${found.evaluation} (step ${count(found.step)}), compared there: how much an axis decides whether a trial is among the best ${Math.round(100 * found.best)} %. All trials, whatever the filter.${found.trials < 20 ? " With so few trials, a hint only." : ""}${elsewhere(found.completed)}`
    : noImportance(found);
  $("importance-note").textContent = note;
  plot.hidden = !found.axes;
  if (found.axes) {
    plot.style.height = `${90 + 34 * Object.keys(found.axes).length}px`;
    plan(plot, () => figures.importance(found));
  }
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
  empty("videos", shown.length ? "" : all.length ? "No video of this kind." : noVideo(run), "video-grid");
}

// --- what people do ------------------------------------------------------------------------------------------------------

/** Put what is looked at into the address; push: as a step that "back" goes back. */
function remember(push) {
  const hidden = STATUSES.filter((status) => !statuses.has(status));
  write(
    {
      filter: $("filter").value.trim(),
      hide: hidden.join(","),
      videos: $("with-videos").checked ? "only" : "",
      sort: sort.key === "rank" ? "" : `${sort.down ? "-" : ""}${sort.key}`,
      range: ranges(brush),
      pair: pair.chosen.join(),
      setting: measured.setting,
    },
    push,
  );
}

/** Take over what the address says. */
function restore() {
  const query = read();
  const hidden = (query.get("hide") ?? "").split(",");
  STATUSES.forEach((status) => (hidden.includes(status) ? statuses.delete(status) : statuses.add(status)));
  $("filter").value = query.get("filter") ?? "";
  $("with-videos").checked = query.get("videos") === "only";
  const key = query.get("sort") ?? "rank";
  Object.assign(sort, { key: key.replace(/^-/, ""), down: key.startsWith("-") });
  brush = brushOf(query.getAll("range"));
  pair.chosen = query.get("pair")?.split(",") ?? [];
  measured.setting = query.get("setting") ?? "";
}

/** Open the trial that the address names, and let the episodes of an outcome stand out. */
function openNamed() {
  const wanted = /^#trial-(\d+)(?:-(unsolved|failure|timeout|error))?$/.exec(location.hash);
  wanted ? openTrial(Number(wanted[1]), run, wanted[2]) : close();
}

typing($("filter"), (push) => {
  remember(push);
  resetPage();
  run && drawShown();
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("with-videos").addEventListener("change", () => run && drawShown(true));
$("video-trial").addEventListener("change", (event) => {
  videos.trial = event.target.value;
  drawVideos();
});
$("clear").addEventListener("click", () => {
  $("filter").value = "";
  $("with-videos").checked = false;
  STATUSES.forEach((status) => statuses.add(status));
  brush = new Map();
  resetPage();
  remember(true);
  if (run) draw();
});
$("unbrush").addEventListener("click", () => {
  brush = new Map();
  drawShown(true);
});
addEventListener("popstate", () => {
  restore();
  if (!run) return;
  draw();
  openNamed();
});
addEventListener("hashchange", () => run && openNamed());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => run && draw());
measured.changed = () => remember(true);
pair.changed = () => drawShown(true);
$("film-bar").replaceChildren(filmBar());
restore();
follow(ask, "python -m raybc.dashboard RUN");
