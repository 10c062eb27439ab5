// The table of trials: filter language, sorting, rows.
import { $, badge, bar, copyButton, cost, count, h, metric, score, scoreRange, show } from "./dom.js";

const PAGE = 60;
const STATUSES = ["completed", "running", "pruned", "failed"];
const sort = { key: "rank", down: false };
let limit = PAGE;

/** Columns: key, title, value to sort and filter by (null: last), number or word. */
export function columns(run) {
  const settings = ["flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble", "solver"].some(
    (a) => run.space[a],
  );
  return [
    { key: "trial", title: "Trial", value: (t) => t.n, number: true },
    { key: "score", title: `Search ${metric.label}, 95 % CI`, value: (t) => t.score, number: true },
    // Without a simulator there are no final starts.
    ...(metric.episodes === false
      ? []
      : [
          {
            key: "final",
            title: `Final ${metric.label}, 95 % CI`,
            value: (t) => (t.final ? t.final.rate : null),
            number: true,
          },
        ]),
    ...run.axes.map((axis) => ({
      key: axis,
      title: axis,
      value: (t) => t.params[axis],
      number: typeof sample(axis) === "number",
    })),
    ...(settings ? [{ key: "setting", title: "Sample setting", value: (t) => t.setting }] : []),
    { key: "step", title: "Step", value: (t) => t.step, number: true },
    { key: "errors", title: "Errors", value: (t) => t.errors, number: true },
    { key: "origin", title: "Origin", value: (t) => t.origin },
  ];

  function sample(axis) {
    const spec = run.space[axis] || {};
    return spec.values ? spec.values[0] : spec.low;
  }
}

/** A predicate of a text such as `lr<0.001 status=pruned word`, or what is wrong with it. */
export function parseFilter(text, run) {
  const known = new Map(columns(run).map((column) => [column.key, column]));
  known.set("status", { value: (t) => t.status }).set("reason", { value: (t) => t.reason });
  const tests = [];
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const parts = /^([\w.]+)(<=|>=|!=|<|>|=|:)(.+)$/.exec(word);
    if (!parts) {
      const wanted = word.toLowerCase();
      tests.push((t) => words(t).includes(wanted));
      continue;
    }
    const [, key, sign, raw] = parts;
    if (!known.has(key)) return { error: `No column "${key}"; there are ${[...known.keys()].join(", ")}.` };
    const { value } = known.get(key);
    const number = Number(raw);
    if (/[<>]/.test(sign) && Number.isNaN(number)) return { error: `"${word}": expected a number after ${sign}.` };
    tests.push((t) => {
      const found = value(t);
      if (found === null || found === undefined) return false;
      if (sign === "<") return found < number;
      if (sign === "<=") return found <= number;
      if (sign === ">") return found > number;
      if (sign === ">=") return found >= number;
      const same = typeof found === "number" ? found === number : show(found).toLowerCase() === raw.toLowerCase();
      return sign === "!=" ? !same : same;
    });
  }
  return { test: (t) => tests.every((test) => test(t)) };
}

const words = (t) =>
  `trial ${t.n} ${t.status} ${t.origin} ${t.reason} ${t.setting} ${Object.entries(t.params)
    .map(([k, v]) => `${k}=${show(v)}`)
    .join(" ")}`.toLowerCase();

/** Best first: measured on final starts and chosen, then by status and search score. */
export function ranked(trials, run) {
  const winner = run.winner ?? run.leader;
  const place = (t) => [t.n === winner ? 0 : 1, t.final ? 0 : 1, STATUSES.indexOf(t.status), cost(t.score), t.n];
  return trials
    .map((t) => [place(t), t])
    .sort(([a], [b]) => compare(a, b))
    .map(([, t]) => t);
}

function compare(a, b) {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i] - b[i];
  return 0;
}

function sorted(trials, run) {
  if (sort.key === "rank") return ranked(trials, run);
  const { value } = columns(run).find((column) => column.key === sort.key) ?? columns(run)[0];
  const known = trials.filter((t) => value(t) !== null && value(t) !== undefined);
  const rest = trials.filter((t) => !known.includes(t));
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
      redraw();
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

function row(t, run, open) {
  const winner = t.n === run.winner;
  const leads = run.winner === null && t.n === run.leader;
  const word = winner ? "winner" : leads ? "leads" : t.status;
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
  const again = () => copyButton(text, `Copy the command that trains trial ${t.n} again`, "Copy command");
  const cells = columns(run).map((column) => {
    if (column.key === "trial")
      return h(
        "th",
        { scope: "row" },
        h("button", { type: "button", class: "link", "aria-label": `Open trial ${t.n}` }, String(t.n)),
        " ",
        badge(word),
        t.videos ? h("span", { class: "film", title: `${t.videos} videos` }, ` \u25b6\u202f${t.videos}`) : null,
        run.trainer ? null : h("span", { class: "sub" }, again()),
      );
    if (column.key === "score") return h("td", {}, rate(t.score, t.interval));
    if (column.key === "final")
      return h(
        "td",
        {},
        rate(t.final?.rate ?? null, t.final?.interval, t.final && `${count(t.final.episodes)} episodes`),
      );
    return h("td", { class: column.number ? "num" : null }, show(column.value(t)));
  });
  return h(
    "tr",
    {
      class: winner || leads ? "winner" : t.status === "pruned" || t.status === "failed" ? "faded" : null,
      "data-trial": t.n,
      onclick: (event) => (event.target.closest(".small-button") || getSelection().toString() ? null : open(t.n)),
    },
    ...cells,
  );
}

/** Draw the table of `trials` (those that pass the filter, of `all`). */
export function drawTable(trials, all, run, open, redraw) {
  const table = $("table");
  const more = $("more");
  const list = sorted(trials, run);
  table.tHead.replaceChildren(head(run, redraw));
  const rows = list.slice(0, limit).map((t) => row(t, run, open));
  if (!rows.length)
    rows.push(
      h(
        "tr",
        {},
        h(
          "td",
          { colspan: columns(run).length, class: "soft" },
          all.length ? "No trial passes the filter." : "No trial has started yet.",
        ),
      ),
    );
  table.tBodies[0].replaceChildren(...rows);
  more.hidden = list.length <= limit;
  more.textContent = `Show ${Math.min(PAGE, list.length - limit)} more of ${count(list.length)}`;
  more.onclick = () => {
    limit += PAGE;
    redraw();
  };
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
            redraw();
          },
        }),
        ` ${count(run.counts[status])} ${status}`,
      ),
    ),
  );
  if (focused) fieldset.querySelector(`input[value="${focused}"]`)?.focus();
}

export const resetPage = () => (limit = PAGE);
