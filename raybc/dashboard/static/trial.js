// One trial: recipe, curves, every measurement with its command, episodes, videos.
import {
  $,
  badge,
  command,
  copyButton,
  count,
  duration,
  h,
  metric,
  radios,
  score,
  scoreRange,
  sentence,
  show,
  statusWord,
} from "./dom.js";
import { legend, matrix, squares } from "./episodes.js";
import { lossCurve, trialCurve } from "./figures.js";
import { filmBar } from "./film.js";
import { video, withFilms } from "./films.js";
import { plan } from "./plots.js";
import { closeEpisode, openEpisode } from "./starts.js";

/** setting: the sample setting whose measurements are shown: "" (the chosen one of the trial), "all", or its label. */
export const measured = { setting: "", changed: () => {} };
const dialog = $("trial");
let opened = 0; // counts openings: an answer that comes late belongs to none
let before = null;

export function close() {
  closeEpisode();
  if (dialog.open) dialog.close();
}

dialog.addEventListener("close", () => {
  dialog.querySelectorAll("video").forEach((one) => one.pause());
  // Closed by hand: back to where it was opened, or, if it was opened by its address, to the same page without it.
  if (location.hash.startsWith("#trial-")) {
    if (history.state?.opened) history.back();
    else history.replaceState(null, "", location.pathname + location.search);
  }
  const row = before === null ? null : document.querySelector(`tr[data-trial="${before}"] .link`);
  row?.focus();
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) close();
});

/** outcome: of the final episodes that are to stand out, as links in the table name it. */
export async function open(number, run, outcome = null) {
  const mine = ++opened;
  const answer = await fetch(`api/trials/${number}`);
  if (!answer.ok || mine !== opened) return;
  const found = await answer.json();
  before = number;
  const name = `#trial-${number}${outcome ? `-${outcome}` : ""}`;
  if (location.hash !== name) history.pushState({ opened: true }, "", name);
  const finals = draw(found, run);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  if (outcome && finals) {
    finals.filter(outcome);
    finals.element.previousElementSibling.scrollIntoView({ behavior: "instant" });
  }
  if (found.trial.curve.length) plan(dialog.querySelector(".curve"), () => trialCurve(found.trial, found.rows));
  plan(dialog.querySelector(".loss"), () => lossCurve(found.losses));
}

const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value));
const plot = (name, label) =>
  h(
    "figure",
    { class: "chart" },
    h("div", { class: `plot ${name}`, role: "img", "aria-label": label, style: "height:270px" }),
  );

function draw(found, run) {
  const t = found.trial;
  const word = t.n === run.winner ? "winner" : statusWord(t.status, run);
  const groups = withFilms(found.episodes);
  const chosen = groups.filter((_, i) => found.rows[i].phase === "final" && found.rows[i].chosen);
  const finals = chosen.length ? matrix(chosen, { hasSuccess: metric.has_success, open: openEpisode }) : null;
  const outcomes = `${metric.has_success ? `${count(t.successes)} success, ` : ""}${count(t.failures)} failure, ${count(t.timeouts)} timeout, ${count(t.errors)} error`;
  dialog.replaceChildren(
    h(
      "div",
      { class: "dialog-head" },
      h("h2", { id: "trial-title", tabindex: "-1" }, `Trial ${t.n} `, badge(word)),
      h("button", { type: "button", class: "close", "aria-label": "Close", onclick: close }, "\u2715"),
    ),
    h(
      "ul",
      { class: "chips", "aria-label": "Recipe" },
      ...Object.entries(t.params).map(([k, v]) => h("li", {}, `${k} = ${show(v)}`)),
      t.setting ? h("li", {}, t.setting) : null,
    ),
    t.reason ? h("p", { class: "note" }, t.reason) : "",
    h(
      "dl",
      { class: "facts" },
      fact(
        `Search ${metric.label}, last evaluation`,
        t.score === null ? "not measured" : score(t.score) + (t.interval ? ` (95 % CI ${scoreRange(t.interval)})` : ""),
      ),
      fact(
        `Final ${metric.label}`,
        t.final
          ? `${score(t.final.rate)} (${t.final.interval ? `95 % CI ${scoreRange(t.final.interval)}, ` : ""}${count(t.final.episodes)} episodes)`
          : "not measured",
      ),
      ...(t.final?.tasks ?? []).map(([name, value, interval, episodes]) =>
        fact(
          `Final, ${name}`,
          value === null
            ? "not measured"
            : `${score(value)} (${interval ? `95 % CI ${scoreRange(interval)}, ` : ""}${count(episodes)} episodes)`,
        ),
      ),
      t.final?.seeds ? fact("Over seeds (95 % t interval)", scoreRange(t.final.seeds)) : null,
      fact("Proposed by", t.origin),
      fact("Episodes", outcomes),
      fact("Training, rollouts", `${duration(t.train)}, ${duration(t.rollout)}`),
    ),
    h(
      "div",
      { class: "two" },
      t.curve.length ? plot("curve", `${sentence(metric.label)} over training steps`) : "",
      plot("loss", "Training loss"),
    ),
    h("h3", {}, "The same again"),
    found.note ? h("p", { class: "soft small" }, found.note) : "",
    found.train_command ? command(found.train_command, `Copy the command that trains trial ${t.n} again`) : "",
    ...(finals ? [h("h3", {}, "Final starts"), finals.element] : []),
    ...videos(found),
    ...measurements(found, groups),
  );
  return finals;
}

function videos(found) {
  const grid = h("div", { class: "grid videos" });
  const fieldset = h("fieldset", { class: "radios" }, h("legend", { class: "hidden" }, "Outcome"));
  const hint = found.film_command
    ? [
        h("p", { class: "soft small" }, "Film more of it, which leaves this run as it is:"),
        command(found.film_command, "Copy the command that films this trial"),
      ]
    : [];
  if (!found.videos.length) return [h("h3", {}, "Videos"), h("p", { class: "soft" }, "None of this trial."), ...hint];
  const fill = (outcome) =>
    grid.replaceChildren(
      ...found.videos
        .filter((v) => outcome === "all" || (v.outcome === "success") === (outcome === "success"))
        .map((v) => video(v, false)),
    );
  const solved = found.videos.filter((v) => v.outcome === "success").length;
  radios(
    fieldset,
    "trial-outcome",
    [
      ["all", `all ${found.videos.length}`],
      ...(metric.has_success
        ? [
            ["success", `${solved} success`],
            ["failure", `${found.videos.length - solved} failure`],
          ]
        : []),
    ],
    "all",
    fill,
  );
  fill("all");
  return [h("h3", {}, "Videos"), fieldset, filmBar(), grid, ...hint];
}

function measurements(found, groups) {
  const body = h("tbody");
  const episodes = h("div", { class: "episodes", "aria-live": "polite" });
  const settings = [...new Set(found.rows.map((r) => r.setting))].sort(
    new Intl.Collator("en", { numeric: true }).compare,
  );
  const own = found.rows.find((r) => r.chosen)?.setting;
  const options = [["", `the chosen one${own ? `: ${own}` : ""}`], ...settings.map((s) => [s, s]), ["all", "all"]];
  const choice = h(
    "select",
    {
      onchange: () => {
        measured.setting = choice.value;
        measured.changed();
        fill();
      },
    },
    ...options.map(([value, text]) => h("option", { value }, text)),
  );
  choice.value = options.some(([value]) => value === measured.setting) ? measured.setting : "";
  const passes = (r) => choice.value === "all" || (choice.value ? r.setting === choice.value : r.chosen);
  const strip = (r) =>
    episodes.replaceChildren(
      h(
        "p",
        { class: "small" },
        `${r.phase} starts, evaluation ${r.evaluation}, seed ${r.seed}, ${r.setting}: each square is an episode, in the order of the starts; it opens what is known of it.`,
      ),
      squares(groups[r.place], openEpisode),
      legend(metric.has_success),
    );
  const fill = () =>
    body.replaceChildren(
      ...[...found.rows]
        .reverse()
        .filter(passes)
        .map((r) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, r.phase),
            h("td", { class: "num" }, count(r.step)),
            h("td", { class: "num" }, String(r.seed)),
            h("td", {}, r.setting),
            h("td", {}, h("strong", {}, score(r.rate)), ` ${scoreRange(r.interval)}`),
            h("td", { class: "num" }, metric.has_success ? `${r.successes}/${r.episodes}` : String(r.episodes)),
            h("td", { class: "num" }, String(r.failures)),
            h("td", { class: "num" }, String(r.timeouts)),
            h("td", { class: "num" }, String(r.errors)),
            h("td", { class: "num" }, r.mean_steps_success === null ? "-" : r.mean_steps_success.toFixed(1)),
            h(
              "td",
              {},
              h("button", { type: "button", class: "small-button", onclick: () => strip(r) }, "Episodes"),
              " ",
              r.command
                ? copyButton(r.command, "Copy the command that measures this row again")
                : h(
                    "span",
                    {
                      class: "soft small",
                      title: "Policies of the last two evaluations are kept; train it again first",
                    },
                    "not kept",
                  ),
            ),
          ),
        ),
    );
  fill();
  if (!found.rows.length) return [];
  const head = [
    "Starts",
    "Step",
    "Seed",
    "Setting",
    `${sentence(metric.label)}, 95 % CI`,
    metric.has_success ? "Solved" : "Episodes",
    "Failures",
    "Timeouts",
    "Errors",
    "Steps to success",
    "Again",
  ];
  return [
    h("h3", {}, "Measurements"),
    settings.length > 1 ? h("p", { class: "choice" }, h("label", {}, "Sample setting ", choice)) : "",
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Measurements" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ...head.map((title, i) =>
              h("th", { scope: "col", class: [1, 2, 5, 6, 7, 8, 9].includes(i) ? "num" : null }, title),
            ),
          ),
        ),
        body,
      ),
    ),
    episodes,
  ];
}
