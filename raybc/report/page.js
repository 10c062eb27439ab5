// Draws the figures that Python described as JSON, and prepares the page for paper.
import { drawAll, plan, redraw } from "../dashboard/static/plots.js";

/** Width of figures on paper, in pixels. */
const PAPER = 640;

for (const plot of document.querySelectorAll(".plot[data-spec]")) {
  const draw = () => {
    const label = plot.getAttribute("aria-label");
    const { data, layout: described } = JSON.parse(document.getElementById(plot.dataset.spec).textContent);
    const { xaxis, yaxis, ...extra } = described;
    return { data, x: xaxis, y: yaxis, extra, label };
  };
  plan(plot, draw);
  plot.addEventListener("changed", () => plan(plot, draw)); // a script of the page wrote another figure
}

// A shadow at the edge of a table behind which there is more of it.
for (const scroller of document.querySelectorAll(".scroller")) {
  const table = scroller.querySelector(".scroll");
  const mark = () => {
    const left = table.scrollWidth - table.clientWidth - table.scrollLeft;
    scroller.classList.toggle("more", left > 1);
    scroller.classList.toggle("moved", table.scrollLeft > 1);
  };
  table.addEventListener("scroll", mark, { passive: true });
  new ResizeObserver(mark).observe(table);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

let closed = [];
addEventListener("beforeprint", () => {
  document.documentElement.dataset.print = "";
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
  drawAll(PAPER);
});
addEventListener("afterprint", () => {
  delete document.documentElement.dataset.print;
  for (const part of closed) part.open = false;
  redraw();
});
