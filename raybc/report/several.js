// The figures of several sweeps, which the dashboard shows as well, from the data that the page carries.
import { compareBy } from "../dashboard/static/numbers.js";
import { COLOURS, REST, plan } from "../dashboard/static/plots.js";
import { bestSoFar } from "../dashboard/static/time.js";

const { metric: compared, runs } = JSON.parse(document.getElementById("data").textContent);
compareBy(compared, []);
const coloured = (i) => COLOURS[i] ?? REST;
document.querySelectorAll(".swatch").forEach((swatch, i) => (swatch.style.color = coloured(i)));
const drawn = runs.map((one, i) => ({ ...one, colour: coloured(i) }));
document
  .querySelectorAll(".plot[data-figure=best]")
  .forEach((plot, place) => plan(plot, () => bestSoFar(drawn, place)));
