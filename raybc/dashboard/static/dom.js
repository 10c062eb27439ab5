// Formatted numbers, and the elements that documents have as well.
import { metric } from "./numbers.js";

export { badge, command, copyButton, h, radios } from "./elements.js";
export * from "./numbers.js";

export const $ = (id) => document.getElementById(id);

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
