// The runs in a folder: a row for each, sweeps to look at alone or side by side.
import { read, typing, write } from "./address.js";
import { $, count, duration, h, radios } from "./dom.js";
import { follow, get, ready } from "./live.js";
import { Rows } from "./rows.js";
import { NOTHING, bestBar, bestCell, stateCell } from "./sweeps.js";

const KINDS = ["sweep", "training", "evaluation", "comparison"];
const sort = { key: "changed", down: true };
let picked = new Set();
let kind = "all";
let found = null;
const rows = new Rows($("rows"), $("table-index"), (run) => run.key);

/** Key, heading, what is sorted by, whether it is a number. */
const COLUMNS = [
  ["name", "Run", (run) => run.name, false],
  ["kind", "Kind", (run) => run.kind, false],
  ["state", "State", (run) => run.state ?? "", false],
  ["best", "Best (95\u00a0% interval)", (run) => run.best?.score ?? null, true],
  ["trials", "Progress", (run) => run.trials ?? null, true],
  ["hours", "Took", (run) => run.hours ?? null, true],
  ["changed", "Changed", (run) => run.changed, true],
  ["task", "Task", (run) => run.task ?? "", false],
];

async function ask() {
  found = await get("api/index");
  draw();
  ready();
}

const ago = (run) => (run.changed ? `${duration(Math.max(0, found.now - run.changed))} ago` : NOTHING);

function draw(push = null) {
  if (!found) return;
  if (push !== null) remember(push);
  $("name").textContent = found.folder;
  document.title = `${found.folder} - raybc dashboard`;
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const said = (run) =>
    `${run.name} ${run.kind} ${run.state ?? ""} ${run.task ?? ""} ${run.verdict ?? ""}`.toLowerCase();
  const shown = found.runs.filter(
    (run) => (kind === "all" || run.kind === kind) && words.every((word) => said(run).includes(word)),
  );
  const value = COLUMNS.find(([key]) => key === sort.key)[2];
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.name.localeCompare(b.name);
    return (x < y ? -1 : x > y ? 1 : 0) * (sort.down ? -1 : 1) || a.name.localeCompare(b.name);
  };
  const waiting = found.waiting ? ` ${count(found.waiting)} are still being read.` : "";
  $("filter-help").textContent =
    (shown.length === found.runs.length
      ? `${count(found.runs.length)} runs. Tick two sweeps or more to see them side by side.`
      : `${count(shown.length)} of ${count(found.runs.length)} runs.`) + waiting;
  heading();
  kinds();
  compareLink();
  rows.show(shown.sort(order), {
    make: row,
    same: (run) => JSON.stringify({ ...run, changed: 0 }),
    refresh: (element, run) => {
      // In place, since a row that is replaced under the mouse loses a click.
      const [tick, cell] = [element.querySelector("input"), element.querySelector(".ago")];
      if (tick) tick.checked = picked.has(run.key);
      if (cell && cell.textContent !== ago(run)) cell.textContent = ago(run);
    },
    columns: COLUMNS.length,
    nothing: found.runs.length
      ? "No run passes the filter."
      : "No run in this folder yet: a sweep appears here as soon as it begins.",
  });
}

function heading() {
  const head = $("table-index").tHead;
  const key = `${sort.key}${sort.down}`;
  if (head.dataset.key === key) return;
  head.dataset.key = key;
  const focused = document.activeElement?.dataset?.key;
  head.replaceChildren(
    h(
      "tr",
      {},
      ...COLUMNS.map(([name, title, , number]) => {
        const on = sort.key === name;
        const turn = () => {
          Object.assign(sort, {
            key: name,
            down: on ? !sort.down : ["best", "changed", "hours", "trials"].includes(name),
          });
          rows.top();
          draw(true);
        };
        return h(
          "th",
          {
            scope: "col",
            class: number && name !== "best" ? "num" : null,
            "aria-sort": on ? (sort.down ? "descending" : "ascending") : "none",
          },
          h(
            "button",
            { type: "button", class: "sort", "data-key": name, onclick: turn },
            title + (on ? (sort.down ? " \u25bc" : " \u25b2") : ""),
          ),
        );
      }),
    ),
  );
  if (focused) head.querySelector(`button[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function kinds() {
  const counts = KINDS.map((one) => [one, found.runs.filter((run) => run.kind === one).length]).filter(([, n]) => n);
  const options = [["all", "all"], ...counts.map(([one, n]) => [one, `${count(n)} ${one}${n > 1 ? "s" : ""}`])];
  const key = JSON.stringify([options, kind]);
  if ($("kinds").dataset.key === key) return;
  const focused = $("kinds").contains(document.activeElement);
  $("kinds").dataset.key = key;
  radios($("kinds"), "kind", options, kind, (value) => {
    kind = value;
    rows.top();
    draw(true);
  });
  if (focused) $("kinds").querySelector("input:checked")?.focus();
}

function compareLink() {
  const keys = found.runs.filter((run) => picked.has(run.key)).map((run) => run.key);
  const link = $("compare");
  const on = keys.length > 1;
  link.textContent = on ? `Side by side (${keys.length})` : "Side by side";
  link.setAttribute("aria-disabled", on ? "false" : "true");
  if (on) link.href = `several?${new URLSearchParams(keys.map((key) => ["run", key]))}`;
  else link.removeAttribute("href");
}

function row(run) {
  const tick = h("input", {
    type: "checkbox",
    "aria-label": `Side by side: ${run.name}`,
    disabled: run.kind !== "sweep" || Boolean(run.error),
    onchange: (event) => {
      event.target.checked ? picked.add(run.key) : picked.delete(run.key);
      draw(false);
    },
  });
  const name = h(
    "th",
    { scope: "row" },
    h(
      "span",
      { class: "named" },
      run.kind === "sweep" ? tick : "",
      h("span", {}, run.href ? h("a", { href: run.href }, run.name) : run.name),
    ),
  );
  if (run.error) return h("tr", {}, name, h("td", {}, run.kind), h("td", { colspan: 6, class: "wrap" }, run.error));
  const trials =
    run.kind === "sweep" && run.asked !== undefined ? `${count(run.trials)}/${count(run.asked)} trials` : "";
  return h(
    "tr",
    {},
    name,
    h("td", {}, run.kind),
    h("td", {}, stateCell(run)),
    h("td", {}, run.verdict ?? bestCell(run), bestBar(run)),
    h("td", { class: "num" }, trials || run.progress || NOTHING),
    h("td", { class: "num" }, run.hours ? duration(3600 * run.hours) : NOTHING),
    h("td", { class: "num ago" }),
    h("td", {}, run.task ? h("code", {}, run.task) : NOTHING),
  );
}

function remember(push) {
  write(
    {
      filter: $("filter").value.trim(),
      kind: kind === "all" ? "" : kind,
      sort: sort.key === "changed" && sort.down ? "" : `${sort.down ? "-" : ""}${sort.key}`,
      run: [...picked].sort(),
    },
    push,
  );
}

function restore() {
  const query = read();
  $("filter").value = query.get("filter") ?? "";
  kind = KINDS.includes(query.get("kind")) ? query.get("kind") : "all";
  const wanted = query.get("sort") ?? "-changed";
  const key = wanted.replace(/^-/, "");
  if (COLUMNS.some(([name]) => name === key)) Object.assign(sort, { key, down: wanted.startsWith("-") });
  picked = new Set(query.getAll("run"));
}

typing($("filter"), (push) => {
  rows.top();
  draw(push);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
addEventListener("popstate", () => {
  restore();
  draw();
});
restore();
follow(ask, "python -m raybc.dashboard FOLDER");
