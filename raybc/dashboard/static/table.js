// The table of trials: sorting, and its rows.
import {
  $,
  STATUSES,
  badge,
  bar,
  copyButton,
  count,
  h,
  metric,
  ranked,
  score,
  scoreRange,
  show,
  statusWord,
} from "./dom.js";
import { noTrial } from "./empty.js";
import { columns } from "./filter.js";
import { Rows } from "./rows.js";

/** key: a column, or `rank` (the best first); down: the largest first. */
export const sort = { key: "rank", down: false };
const rows = new Rows($("rows"), $("table"), (t) => t.n);

function sorted(trials, run) {
  if (sort.key === "rank") return ranked(trials, run);
  const { value } = columns(run).find((column) => column.key === sort.key) ?? columns(run)[0];
  const known = [];
  const rest = [];
  for (const t of trials) (value(t) === null || value(t) === undefined ? rest : known).push(t);
  const order = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a.n - b.n);
  known.sort((a, b) => (sort.down ? order(b, a) : order(a, b)));
  return [...known, ...rest];
}

function head(run, redraw) {
  const cell = (column) => {
    const on = sort.key === column.key;
    const turn = () => {
      const down = ["score", "final"].includes(column.key) && metric.direction === "maximize"; // the best first
      if (!on) Object.assign(sort, { key: column.key, down });
      else if (sort.down === down) sort.down = !sort.down;
      else Object.assign(sort, { key: "rank", down: false });
      redraw(true);
      $("table")
        .querySelector(`button[data-key="${CSS.escape(column.key)}"]`)
        ?.focus();
    };
    const arrow = on ? (sort.down ? " \u25bc" : " \u25b2") : "";
    return h(
      "th",
      {
        scope: "col",
        class: column.number && !["trial", "score", "final"].includes(column.key) ? "num" : null,
        "aria-sort": on ? (sort.down ? "descending" : "ascending") : "none",
      },
      h("button", { type: "button", class: "sort", "data-key": column.key, onclick: turn }, column.title + arrow),
    );
  };
  return h("tr", {}, ...columns(run).map(cell));
}

/** How episodes ended that did not succeed; on final starts each leads to them. */
function ends(t) {
  const kinds = ["failure", "timeout", "error"].map((kind) => [kind, t.ends[`${kind}s`]]);
  return kinds.flatMap(([kind, n], i) => {
    const text = `${count(n)} ${kind}${n === 1 ? "" : "s"}`;
    const link = t.final && n ? h("a", { href: `#trial-${t.n}-${kind}` }, text) : text;
    return i ? [h("br"), link] : [link];
  });
}

function row(t, run, open) {
  const winner = t.n === run.winner;
  const leads = run.winner === null && t.n === run.leader;
  const word = winner ? "winner" : leads ? "leads" : statusWord(t.status, run);
  const rate = (value, interval, note) =>
    value === null
      ? h("span", { class: "soft" }, "-")
      : [
          h("strong", {}, score(value)),
          ` ${scoreRange(interval)}`,
          bar(value, interval),
          note ? h("span", { class: "sub" }, note) : null,
        ];
  const text = async () => (await (await fetch(`api/trials/${t.n}`)).json()).train_command;
  const again = () => copyButton(text, `Copy command that trains trial ${t.n} again`, "Copy command");
  const cells = columns(run).map((column) => {
    if (column.key === "trial")
      return h(
        "th",
        { scope: "row" },
        h("button", { type: "button", class: "link", "aria-label": `Open trial ${t.n}` }, String(t.n)),
        " ",
        badge(word),
        t.videos ? h("span", { class: "filmed-count", title: `${t.videos} videos` }, ` \u25b6\u202f${t.videos}`) : null,
        run.trainer ? null : h("span", { class: "sub" }, again()),
      );
    if (column.key === "score") return h("td", {}, rate(t.score, t.interval));
    if (column.key === "final")
      return h(
        "td",
        {},
        rate(t.final?.rate ?? null, t.final?.interval, t.final && `${count(t.final.episodes)} episodes`),
      );
    if (column.key === "failures") return h("td", {}, ...ends(t));
    return h("td", { class: column.number ? "num" : null }, show(column.value(t)));
  });
  return h(
    "tr",
    {
      class: winner || leads ? "winner" : t.status === "pruned" || t.status === "failed" ? "faded" : null,
      "data-trial": t.n,
      onclick: (event) => (event.target.closest(".small-button, a") || getSelection().toString() ? null : open(t.n)),
    },
    ...cells,
  );
}

/** Draw the table of `trials` (those that pass the filter, of `all`). */
export function drawTable(trials, all, run, open, redraw) {
  const table = $("table");
  const list = sorted(trials, run);
  const key = JSON.stringify([columns(run).map((column) => column.title), sort]);
  if (table.dataset.head !== key) {
    table.dataset.head = key;
    table.tHead.replaceChildren(head(run, redraw));
  }
  const best = run.winner ?? run.leader;
  rows.show(list, {
    make: (t) => row(t, run, open),
    same: (t) =>
      JSON.stringify([t, key, t.n === best && run.winner, t.n === best, run.state, metric.ends, metric.label]),
    columns: columns(run).length,
    nothing: all.length ? "No trial passes the filter." : noTrial(run),
  });
}

export function drawStatuses(run, chosen, redraw) {
  const fieldset = $("statuses");
  const legend = fieldset.querySelector("legend");
  const focused = document.activeElement?.closest("#statuses") ? document.activeElement.value : null;
  fieldset.replaceChildren(
    legend,
    ...STATUSES.filter((s) => run.counts[s]).map((status) =>
      h(
        "label",
        { class: "check" },
        h("input", {
          type: "checkbox",
          value: status,
          checked: chosen.has(status),
          onchange: (event) => {
            event.target.checked ? chosen.add(status) : chosen.delete(status);
            redraw(true);
          },
        }),
        ` ${count(run.counts[status])} ${statusWord(status, run)}`,
      ),
    ),
  );
  if (focused) fieldset.querySelector(`input[value="${focused}"]`)?.focus();
}

export const resetPage = () => rows.top();
