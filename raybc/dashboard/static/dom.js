// Elements and formatted numbers. Text from a run is only ever set as text, never as HTML.
import { metric } from "./numbers.js";

export * from "./numbers.js";

export const $ = (id) => document.getElementById(id);

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const badge = (word) => h("span", { class: `badge ${word}` }, word);

/** A score with its interval as a bar: a rate from 0 to 100 %, anything else from the lowest to the highest. */
export function bar(value, range) {
  const place = (v) => (v - metric.ends[0]) / (metric.ends[1] - metric.ends[0]);
  const rate = place(value);
  const interval = range?.map(place);
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  const part = (name, x, y, width, height) => {
    const rect = document.createElementNS(NS, "rect");
    for (const [key, set] of Object.entries({ class: name, x, y, width, height })) rect.setAttribute(key, set);
    svg.append(rect);
  };
  for (const [key, set] of Object.entries({
    class: "bar",
    viewBox: "0 0 100 10",
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  }))
    svg.setAttribute(key, set);
  part("track", 0, 4, 100, 2);
  if (interval) part("range", 100 * interval[0], 1.5, 100 * (interval[1] - interval[0]), 7);
  part("point", Math.min(Math.max(100 * rate - 0.7, 0), 98.6), 0, 1.4, 10);
  return svg;
}

/** A button that copies `text` (a string, or a function that returns a promise of one) and confirms it. */
export function copyButton(text, label, name = "Copy") {
  const button = h("button", { type: "button", class: "small-button", "aria-label": label, title: label }, name);
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(typeof text === "function" ? await text() : text);
    } catch {
      said = "Not allowed";
    }
    button.textContent = said;
    setTimeout(() => (button.textContent = name), 1500);
  });
  return button;
}

export const command = (text, label) =>
  h("div", { class: "command" }, h("pre", { tabindex: "0" }, text), copyButton(text, label));

export function video(entry, withTrial = true) {
  const what = `trial ${entry.trial}, seed ${entry.seed}, ${entry.split} start ${entry.index}`;
  const source = "videos/" + entry.file.split("/").map(encodeURIComponent).join("/");
  return h(
    "figure",
    {},
    h("video", {
      src: source,
      controls: true,
      playsinline: true,
      preload: "metadata",
      "aria-label": `${what}: ${entry.outcome}`,
    }),
    h(
      "figcaption",
      {},
      badge(entry.outcome),
      ` after ${entry.steps} steps`,
      h("br"),
      withTrial ? what : `seed ${entry.seed}, ${entry.split} start ${entry.index}`,
      `, ${entry.setting ?? `flow_steps ${entry.flow_steps}`}`,
    ),
  );
}

/** Radio buttons; calls `choose(value)` on a change. Keeps the choice if it still exists. */
export function radios(fieldset, name, options, chosen, choose) {
  const legend = fieldset.querySelector("legend");
  fieldset.replaceChildren(
    ...(legend ? [legend] : []),
    ...options.map(([value, label]) =>
      h(
        "label",
        { class: "check" },
        h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }),
        ` ${label}`,
      ),
    ),
  );
}
