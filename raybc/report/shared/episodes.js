// Episodes as squares, and one episode with everything that is known of it. Pages differ in where the data come from.
//
// A group is the episodes of one policy at one sample setting on one set of starts:
//   {name, trial, seed, step, phase, setting, limit, base, tasks, episodes: [[start, outcome, steps, return, largest]],
//    messages, films: {place: film}, command, ends}
// command: films one start; START_INDEX, TASK_NAME and TASK_PLACE stand for it.
import { badge, command, h, radios } from "./elements.js";
import { film, filmBar } from "./film.js";
import { count, show } from "./numbers.js";

export const OUTCOMES = ["success", "failure", "timeout", "error"];

export const taskAt = (group, place) => (group.tasks?.length ? group.tasks[place % group.tasks.length] : "");
const named = (group, place) => {
  const task = taskAt(group, place);
  return `${group.phase} start ${group.episodes[place][0]}${task ? ` of ${task}` : ""}`;
};
const described = ([, outcome, steps, total]) => `${outcome} after ${count(steps)} steps, return ${show(total)}`;

/** A square that opens its episode. */
export function square(group, place, open, focusable = true) {
  const entry = group.episodes[place];
  const said = `${group.name ? `${group.name}, ` : ""}${named(group, place)}: ${described(entry)}${group.films?.[place] ? ", filmed" : ""}`;
  return h("button", {
    type: "button",
    class: `square ${entry[1]}${group.films?.[place] ? " filmed" : ""}`,
    "aria-label": said,
    title: said,
    tabindex: focusable ? null : "-1",
    onclick: () => open(group, place),
  });
}

/** One tab stop for many squares: arrows move between them, row by row where they have rows. */
export function arrows(box) {
  const squares = () => [...box.querySelectorAll("button.square")];
  const first = squares()[0];
  if (first) first.tabIndex = 0;
  box.addEventListener("keydown", (event) => {
    const all = squares();
    const here = all.indexOf(event.target);
    if (here < 0) return;
    const row = event.target.closest("tr");
    const column = row ? [...row.cells].indexOf(event.target.closest("td")) : 0;
    const near = (other) => other?.cells?.[column]?.querySelector("button");
    const next = {
      ArrowLeft: all[here - 1],
      ArrowRight: all[here + 1],
      ArrowUp: row ? near(row.previousElementSibling) : null,
      ArrowDown: row ? near(row.nextElementSibling) : null,
      Home: all[0],
      End: all.at(-1),
    }[event.key];
    if (next === undefined || next === null) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  return box;
}

export const legend = (hasSuccess) =>
  h(
    "p",
    { class: "small soft squares-legend" },
    ...OUTCOMES.slice(hasSuccess ? 0 : 1).flatMap((o) => [h("span", { class: `square ${o}` }), ` ${o}  `]),
    h("span", { class: "square filmed" }),
    " filmed",
  );

/** Squares of one group, in the order of the starts. */
export const squares = (group, open) =>
  arrows(
    h(
      "div",
      { class: "squares", role: "group", "aria-label": `Episodes${group.name ? ` of ${group.name}` : ""}` },
      ...group.episodes.map((_, place) => square(group, place, open, false)),
    ),
  );

// --- one episode -------------------------------------------------------------------------------------------------------

const fact = (name, value) =>
  value === null || value === undefined || value === ""
    ? null
    : h("div", {}, h("dt", {}, name), h("dd", {}, String(value)));

/**
 * A dialog that shows one episode after another. others(group, place): [group, place] of the same start elsewhere.
 * filmer(group, place, done): what offers to film it here, or null.
 */
export function episodeDialog({ others = () => [], filmer = () => null } = {}) {
  const dialog = h("dialog", { class: "episode", "aria-labelledby": "episode-title" });
  document.body.append(dialog);
  let from = null;
  let order = null;
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    dialog.querySelectorAll("video").forEach((one) => one.pause());
    if (from?.isConnected) from.focus();
  });
  /** places: those of the group that the buttons lead through (all, unless a filter is set). */
  function open(group, place, places = null) {
    if (!dialog.open) from = document.activeElement;
    order = places;
    draw(group, place);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }
  function draw(group, place) {
    const all = order ?? group.episodes.map((_, i) => i);
    const at = all.indexOf(place);
    const step = (by, label, text) => {
      const to = all[at + by];
      return h(
        "button",
        {
          type: "button",
          class: "small-button",
          "aria-label": label,
          disabled: at < 0 || to === undefined,
          onclick: () => {
            draw(group, to);
            const again = [...dialog.querySelectorAll(".dialog-head button")].find((b) => b.textContent === text);
            again?.disabled ? dialog.querySelector(".close").focus() : again?.focus();
          },
        },
        text,
      );
    };
    dialog.replaceChildren(...view(group, place, step, (g, p) => open(g, p)));
  }
  function view(group, place, step, jump) {
    const entry = group.episodes[place];
    const [start, outcome, steps, total, largest] = entry;
    const message = group.messages?.[taskAt(group, place) ? `${start} of ${taskAt(group, place)}` : String(start)];
    const again = others(group, place);
    return [
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "episode-title" }, `Start ${start} `, badge(outcome)),
        h(
          "div",
          { class: "dialog-buttons" },
          step(-1, "Previous episode", "\u2190"),
          step(1, "Next episode", "\u2192"),
          h(
            "button",
            { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() },
            "\u2715",
          ),
        ),
      ),
      group.name ? h("p", { class: "soft" }, group.name) : "",
      message ? h("p", { class: "note" }, message) : "",
      h(
        "dl",
        { class: "facts" },
        fact("Outcome", meaning(outcome, steps, group.limit)),
        fact("Steps", group.limit ? `${count(steps)} of at most ${count(group.limit)}` : count(steps)),
        fact("Return (sum of rewards)", show(total)),
        fact("Largest reward", largest === undefined ? null : show(largest)),
        fact("Start", `${named(group, place)}${group.base === undefined ? "" : `, seed ${count(group.base + start)}`}`),
        fact("Sample setting", group.setting),
        fact("Policy", group.policy),
      ),
      ...filmed(group, place),
      again.length
        ? h(
            "div",
            {},
            h("h3", {}, "The same start elsewhere"),
            h(
              "ul",
              { class: "same-start" },
              ...again.map(([g, p]) =>
                h("li", {}, square(g, p, jump), ` ${g.name || g.setting}: ${described(g.episodes[p])}`),
              ),
            ),
          )
        : "",
    ];
  }
  function filmed(group, place) {
    const found = group.films?.[place];
    const entry = group.episodes[place];
    const what = `${group.name ? `${group.name}, ` : ""}${named(group, place)}`;
    if (found) {
      const same = found.outcome === entry[1] && found.steps === entry[2];
      return [
        h("h3", {}, "Film"),
        same
          ? ""
          : h(
              "p",
              { class: "note" },
              `The film shows another end: ${found.outcome} after ${found.steps} steps; counted was ${entry[1]} after ${entry[2]}. ` +
                "This simulator is not deterministic under rendering, or its packages have changed.",
            ),
        film(found, what),
        filmBar(),
      ];
    }
    const text = commandOf(group, place);
    const offer = filmer(group, place, () => dialog.open && draw(group, place));
    if (!text && !offer) return [h("h3", {}, "Film"), h("p", { class: "soft" }, group.why ?? "Not filmed.")];
    return [
      h("h3", {}, "Film"),
      offer ?? "",
      text ? h("p", { class: "soft small" }, "Not filmed yet. This command films it:") : "",
      text ? command(text, "Copy the command that films this episode") : "",
    ];
  }
  return { open, dialog };
}

export function commandOf(group, place) {
  const tasks = group.tasks?.length ?? 0;
  return (group.command ?? "")
    .replaceAll("START_INDEX", group.episodes[place][0])
    .replaceAll("TASK_PLACE", tasks ? place % tasks : "")
    .replaceAll("TASK_NAME", quoted(taskAt(group, place)));
}

/** For a shell. */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);

function meaning(outcome, steps, limit) {
  if (outcome === "success") return `solved after ${count(steps)} steps`;
  if (outcome === "failure") return `ended by the environment after ${count(steps)} steps, not solved`;
  if (outcome === "timeout") return `not ended within ${limit ? count(limit) : count(steps)} steps`;
  return "the simulator or the policy failed; counted apart, in no mean";
}

// --- starts x finalists ------------------------------------------------------------------------------------------------

/** Keys of starts, the hardest first: solved by the fewest; where the task tells no success, by the mean return. */
export function hardest(groups, hasSuccess) {
  const found = new Map();
  for (const group of groups)
    group.episodes.forEach((entry, place) => {
      const key = `${entry[0]}|${taskAt(group, place)}`;
      const one = found.get(key) ?? { key, start: entry[0], task: taskAt(group, place), of: 0, solved: 0, total: 0 };
      if (entry[1] !== "error") {
        one.of += 1;
        one.solved += entry[1] === "success";
        one.total += entry[3] ?? 0;
      }
      found.set(key, one);
    });
  const ease = (one) => (one.of ? (hasSuccess ? one.solved : one.total) / one.of : -Infinity);
  return [...found.values()].sort((a, b) => ease(a) - ease(b) || a.start - b.start);
}

/** A table: a row for each group, a column for each start. */
export function matrix(groups, { hasSuccess, open, most = 400 }) {
  const all = hardest(groups, hasSuccess);
  const box = h("div", { class: "matrix-box" });
  let byStart = false;
  let shown = "all";
  let only = null;
  const passes = (group, place) => {
    const outcome = group.episodes[place][1];
    if (only !== null && group.trial !== only) return false;
    return (
      shown === "all" || (shown === "unsolved" ? outcome === "failure" || outcome === "timeout" : outcome === shown)
    );
  };
  const places = groups.map(
    (group) => new Map(group.episodes.map((entry, place) => [`${entry[0]}|${taskAt(group, place)}`, place])),
  );
  function draw() {
    const starts = (byStart ? [...all].sort((a, b) => a.start - b.start) : all).slice(0, most);
    const row = (group, i) => {
      const chosen = group.episodes.map((_, place) => place).filter((place) => passes(group, place));
      const go = (g, place) => open(g, place, passes(g, place) ? chosen : null);
      return h(
        "tr",
        { "data-group": group.key },
        h("th", { scope: "row" }, group.name, h("span", { class: "sub" }, group.setting)),
        ...starts.map((start) => {
          const place = places[i].get(start.key);
          if (place === undefined) return h("td", {});
          const cell = h("td", {}, square(group, place, go, false));
          if (!passes(group, place)) cell.className = "dim";
          return cell;
        }),
      );
    };
    const table = h(
      "table",
      { class: `matrix${starts.length > 150 ? " many" : ""}` },
      h("caption", { class: "hidden" }, "How each policy ended on each start"),
      h("tbody", {}, ...groups.map(row)),
    );
    box.replaceChildren(
      h("p", { class: "soft small", "aria-live": "polite" }, summary(all, groups, starts.length, hasSuccess)),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Starts and policies" }, arrows(table)),
    );
  }
  const name = `matrix-${++matrix.made}`; // radio buttons of two tables on a page are apart
  const number = (outcome) => groups.reduce((n, g) => n + g.episodes.filter((e) => e[1] === outcome).length, 0);
  const outcomes = h("fieldset", { class: "radios" }, h("legend", { class: "hidden" }, "Outcome"));
  const unsolved = number("failure") + number("timeout");
  const options = [
    ["all", "all"],
    ...(hasSuccess && unsolved ? [["unsolved", `${count(unsolved)} not solved`]] : []),
    ...OUTCOMES.slice(hasSuccess ? 0 : 1)
      .map((o) => [o, number(o)])
      .filter(([, n]) => n)
      .map(([o, n]) => [o, `${count(n)} ${o}`]),
  ];
  /** trial: the only one whose episodes stand out; null: all. */
  const filter = (value, trial = null) => {
    shown = value;
    only = trial;
    radios(outcomes, name, options, shown, filter);
    draw();
  };
  const sort = h(
    "label",
    { class: "check" },
    h("input", {
      type: "checkbox",
      onchange: (event) => {
        byStart = event.target.checked;
        draw();
      },
    }),
    " in the order of the starts",
  );
  filter("all");
  const whole = h("div", {}, h("div", { class: "filters" }, outcomes, sort), box, legend(hasSuccess));
  return { element: whole, filter };
}

matrix.made = 0;

function summary(all, groups, shown, hasSuccess) {
  const cut = shown < all.length ? ` The ${count(shown)} hardest are shown.` : "";
  if (!hasSuccess) return `${count(all.length)} starts, the lowest mean return first.${cut}`;
  const by = (n) => all.filter((one) => one.of && (n ? one.solved === one.of : !one.solved)).length;
  const none = all.filter((one) => one.of && !one.solved).map((one) => one.start);
  const which = none.length ? ` (${none.slice(0, 8).join(", ")}${none.length > 8 ? ", ..." : ""})` : "";
  const who = groups.length === 1 ? "" : ` of ${groups.length} policies`;
  return `${count(all.length)} starts, the hardest first: ${count(by(0))} solved by none${who}${which}, ${count(by(1))} solved by all.${cut}`;
}
