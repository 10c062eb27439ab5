// The sweep in numbers: tiles, the bar of trials, outcomes and errors.
import { $, command, count, h, metric, percent, score, scoreRange, statusWord } from "./dom.js";

/** Which trial, by what, with which interval. */
function interval(best) {
  const pair = best.final ? best.final.interval : best.interval;
  const what = metric.rate ? "" : `, ${metric.label}`;
  return `trial ${best.n}${what}${pair ? `, 95 % CI ${scoreRange(pair)}` : ""}`;
}

export function tiles(run, trials) {
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
        .map((s) => `${count(counts[s])} ${statusWord(s, run)}`)
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
  $("progress").setAttribute(
    "aria-label",
    parts.map(([status, n]) => `${n} ${statusWord(status, run)}`).join(", ") + ` of ${all}`,
  );
  $("progress").replaceChildren(
    ...parts.map(([status, n]) => h("span", { class: status, style: `width:${(100 * n) / all}%` })),
  );
}

/** How a run on which no process works is continued; kind: sweep, evaluation or training. */
export function stopped(run, kind = "sweep") {
  const box = $("stopped");
  box.hidden = run.state !== "stopped";
  if (box.hidden || box.dataset.command === run.resume) return;
  box.dataset.command = run.resume;
  const said = `This ${kind} was stopped before its end: no process works on it. Finished work is kept.`;
  box.replaceChildren(
    h("p", {}, run.resume ? `${said} This command continues it:` : `${said} Its command with --resume continues it.`),
    run.resume ? command(run.resume, `Copy the command that continues this ${kind}`) : "",
  );
}

/** Name, task and state of a run of an index, which is named as there. */
export function nameOfRun(kind, run) {
  const name = decodeURIComponent(/\/runs\/([^/]*)\//.exec(location.pathname)?.[1] ?? kind).replaceAll("~", "/");
  $("name").textContent = name;
  document.title = `${name} - raybc dashboard`;
  $("task").replaceChildren(...(run.task ? ["\u00b7 task ", h("code", {}, run.task)] : []));
  $("state").textContent = run.state;
  $("state").className = `pill ${run.state === "running" ? "live" : ""}`;
}

/** An entry of a list of facts; null where nothing is known. */
export const fact = (name, value) =>
  value === "" || value === null || value === undefined ? null : h("div", {}, h("dt", {}, name), h("dd", {}, value));

export function errors(run) {
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
