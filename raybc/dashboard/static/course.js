// The course of the sweep: how its best score rose and when its trials ran. It is asked for when somebody looks at it.
import { $ } from "./dom.js";
import { empty, noBest, noCourse, noTimeline } from "./empty.js";
import { get } from "./live.js";
import { plan } from "./plots.js";
import { bestSoFar, timeline, timelineHeight, timelineNote } from "./time.js";

/** Of the time, at most this part is spent on asking: the timeline of a long sweep is large. */
const PART = 0.1;

let found = null;
let known = "";
let asking = false;
let next = 0;
let now = null;

/** trials: those that the filter shows, of `all`. */
export function drawCourse(run, trials, all, revision, open) {
  const none = noCourse(all, run);
  empty("course", none, "plot-timeline");
  empty("best", none ? "" : noBest(all, run));
  $("course-figures").hidden = Boolean(none || noBest(all, run));
  if (none) return;
  now = { run, trials, revision, open };
  draw();
}

function draw() {
  const later = (figure) => () => {
    if (known !== now.revision) ask().catch(() => {}); // what goes wrong is said by the next poll
    return found ? figure() : undefined;
  };
  const best = (place) => later(() => bestSoFar([{ name: now.run.name, curve: found.best }], place));
  plan($("plot-trials"), best(0));
  plan($("plot-hours"), best(1));
  $("plot-hours").parentElement.hidden = Boolean(found) && found.best.every((point) => point[1] === null);
  plan(
    $("plot-timeline"),
    later(() => {
      $("plot-timeline").style.height = `${timelineHeight(found.timeline)}px`;
      const figure = timeline(found.timeline, now.trials, now.open);
      $("timeline-note").textContent = figure ? timelineNote(found.timeline) : noTimeline(found.timeline);
      return figure;
    }),
  );
}

async function ask() {
  if (asking) return;
  asking = true;
  try {
    await new Promise((done) => setTimeout(done, Math.max(0, next - performance.now())));
    const { revision } = now;
    const began = performance.now();
    found = await get("api/course");
    next = performance.now() + (performance.now() - began) / PART;
    known = revision;
  } finally {
    asking = false;
  }
  draw();
}
