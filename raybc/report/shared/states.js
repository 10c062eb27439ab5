// Where episodes end: their last observations as points in two chosen dimensions, and clusters of the unsolved ones.
// group.ends: {names: ["state[0]", ...], values: [[numbers] or null for each episode], axes: [x, y] to begin with}
import { h } from "./elements.js";
import { square } from "./episodes.js";
import { count, show } from "./numbers.js";

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, EDGE] = [520, 380, 46];
/** Points that are drawn; more would hide each other. */
const MOST = 3000;

const svg = (tag, props, ...children) => {
  const element = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(props)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

/** Marks differ in form as well as in colour. */
const MARKS = {
  success: "M-3.2,0a3.2,3.2 0 1,0 6.4,0a3.2,3.2 0 1,0 -6.4,0",
  failure: "M-4,-4L4,4M-4,4L4,-4",
  timeout: "M0,-5L4.6,3.6L-4.6,3.6Z",
};

/** Round numbers that divide a range into about four parts. */
function ticks(low, high) {
  const raw = (high - low) / 4;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * size).find((k) => k >= raw) ?? raw;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9 * step; value += step) found.push(value);
  return found;
}

/** The ends of an axis with some room. */
function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.06 * (high - low) || Math.abs(high) * 0.05 || 0.5;
  return [low - room, high + room];
}

const keyOf = (name) => name.replace(/\[\d+\]$/, "");

/** The figure, with a choice of both dimensions and of the policies. */
export function endStates(groups, { open, hasSuccess }) {
  const known = groups.filter((g) => g.ends);
  if (!known.length) return null;
  const names = known[0].ends.names;
  const alike = known.filter((g) => g.ends.names.join() === names.join());
  const chosen = { x: known[0].ends.axes[0], y: known[0].ends.axes[1], group: alike.length > 1 ? "0" : "all" };
  const place = h("div", { class: "states-plot" });
  const select = (label, key, options) =>
    h(
      "label",
      {},
      `${label} `,
      h(
        "select",
        {
          onchange: (event) => {
            chosen[key] = event.target.value;
            draw();
          },
        },
        ...options.map(([value, text]) => h("option", { value, selected: value === chosen[key] }, text)),
      ),
    );
  const dims = names.map((name) => [name, name]);
  const bar = h(
    "div",
    { class: "filters" },
    select("Across", "x", dims),
    select("Up", "y", dims),
    alike.length > 1
      ? select("Of", "group", [...alike.map((g, i) => [String(i), g.name || g.setting]), ["all", "all of them"]])
      : null,
  );
  function draw() {
    const some = chosen.group === "all" ? alike : [alike[Number(chosen.group)]];
    const [i, j] = [names.indexOf(chosen.x), names.indexOf(chosen.y)];
    const points = some.flatMap((group) =>
      group.ends.values.flatMap((values, at) =>
        values === null ? [] : [{ group, at, x: values[i], y: values[j], outcome: group.episodes[at][1] }],
      ),
    );
    place.replaceChildren(points.length ? plot(points) : h("p", { class: "soft" }, "No episode has its last state."));
  }
  function plot(points) {
    const shown = points.slice(0, MOST);
    let [left, right] = range(shown.map((p) => p.x));
    let [low, high] = range(shown.map((p) => p.y));
    const [wide, tall] = [WIDTH - EDGE - 10, HEIGHT - EDGE - 10];
    if (chosen.x !== chosen.y && keyOf(chosen.x) === keyOf(chosen.y) && keyOf(chosen.x) !== chosen.x) {
      // Two numbers of one observation have one unit: the same length for the same distance.
      const unit = Math.max((right - left) / wide, (high - low) / tall);
      [left, right] = [(left + right - unit * wide) / 2, (left + right + unit * wide) / 2];
      [low, high] = [(low + high - unit * tall) / 2, (low + high + unit * tall) / 2];
    }
    const px = (x) => EDGE + ((x - left) / (right - left)) * wide;
    const py = (y) => 10 + (1 - (y - low) / (high - low)) * tall;
    const counts = ["success", "failure", "timeout"].map((o) => [o, points.filter((p) => p.outcome === o).length]);
    const said = counts.filter(([, n]) => n).map(([o, n]) => `${count(n)} ${o}`);
    const image = svg("svg", {
      class: "states",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `Last states of ${said.join(", ")}: ${chosen.x} across, ${chosen.y} up. The squares above open the same episodes.`,
    });
    for (const value of ticks(left, right))
      image.append(
        svg("line", { class: "grid", x1: px(value), x2: px(value), y1: 10, y2: 10 + tall }),
        svg(
          "text",
          { x: px(value), y: HEIGHT - EDGE + 16, "text-anchor": "middle" },
          show(Number(value.toPrecision(6))),
        ),
      );
    for (const value of ticks(low, high))
      image.append(
        svg("line", { class: "grid", x1: EDGE, x2: EDGE + wide, y1: py(value), y2: py(value) }),
        svg("text", { x: EDGE - 6, y: py(value) + 4, "text-anchor": "end" }, show(Number(value.toPrecision(6)))),
      );
    image.append(
      svg("text", { class: "name", x: EDGE + wide / 2, y: HEIGHT - 6, "text-anchor": "middle" }, chosen.x),
      svg(
        "text",
        { class: "name", transform: `translate(11,${10 + tall / 2}) rotate(-90)`, "text-anchor": "middle" },
        chosen.y,
      ),
    );
    for (const outcome of ["success", "timeout", "failure"])
      // what failed is on top
      for (const p of shown.filter((one) => one.outcome === outcome)) {
        const mark = svg(
          "path",
          {
            class: `mark ${hasSuccess ? outcome : "plain"}`,
            d: MARKS[outcome],
            transform: `translate(${px(p.x)},${py(p.y)})`,
          },
          svg("title", {}, `${p.group.name}, start ${p.group.episodes[p.at][0]}: ${outcome}`),
        );
        mark.addEventListener("click", () => open(p.group, p.at));
        image.append(mark);
      }
    const key = counts.filter(([, n]) => n).flatMap(([o, n]) => [mark(o, hasSuccess), ` ${count(n)} ${o}  `]);
    const cut = points.length > MOST ? `The first ${count(MOST)} of ${count(points.length)} episodes. ` : "";
    return h("figure", {}, image, h("figcaption", {}, ...key, cut, "A click on a mark opens its episode."));
  }
  draw();
  return h("div", {}, bar, place);
}

const mark = (outcome, hasSuccess) =>
  svg(
    "svg",
    { class: "states key", viewBox: "-6 -6 12 12", width: 13, height: 13, "aria-hidden": "true" },
    svg("path", { class: `mark ${hasSuccess ? outcome : "plain"}`, d: MARKS[outcome] }),
  );

/** Clusters of unsolved episodes: [{group, place, size, median, outcomes, differs, task}], with an example of each. */
export function clusterTable(clusters, { open }) {
  if (!clusters.length) return null;
  const tasks = clusters.some((one) => one.task);
  const head = [
    "Cluster",
    ...(tasks ? ["Task"] : []),
    "Episodes",
    "Median end",
    "Ended as",
    "Differs from solved ones",
    "Example",
  ];
  const differs = (one) =>
    one.differs.length
      ? one.differs.flatMap((d, i) => [
          i ? h("br") : null,
          h("code", {}, d.name),
          ` ${show(d.here)}, solved ${show(d.solved)} (${d.deviations > 0 ? "+" : ""}${d.deviations.toFixed(1)} sd)`,
        ])
      : "-";
  const row = (one, i) => {
    const film = one.group.films?.[one.place];
    const entry = one.group.episodes[one.place];
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, String(i + 1)),
      tasks ? h("td", {}, one.task) : null,
      h("td", { class: "num" }, count(one.size)),
      h("td", { class: "num" }, one.median === null ? "-" : `step ${show(one.median)}`),
      h(
        "td",
        {},
        Object.entries(one.outcomes)
          .map(([kind, n]) => `${count(n)} ${kind}`)
          .join(", "),
      ),
      h("td", { class: "wrap" }, ...[differs(one)].flat()),
      h(
        "td",
        {},
        square(one.group, one.place, open),
        ` ${one.group.name ? `${one.group.name}, ` : ""}start ${entry[0]}`,
        film?.strip ? h("img", { class: "strip", src: film.strip, alt: "Start, middle and end" }) : null,
      ),
    );
  };
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Clusters of unsolved episodes" },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h("tr", {}, ...head.map((t) => h("th", { scope: "col", class: /Episodes|Median/.test(t) ? "num" : null }, t))),
      ),
      h("tbody", {}, ...clusters.map(row)),
    ),
  );
}
