// Which finalist solves which start, where episodes end, and one episode with everything that is known of it.
import { $, h, metric } from "./dom.js";
import { empty, noFinal } from "./empty.js";
import { episodeDialog, matrix, taskAt } from "./episodes.js";
import { filmer, withFilms } from "./films.js";
import { clusterTable, endStates } from "./states.js";

let all = [];
let asked = "";

/** The same start of other groups: those of the finalists, and of the trial that is open. */
function others(group, place) {
  const [start, task] = [group.episodes[place][0], taskAt(group, place)];
  return all
    .filter((g) => g.phase === group.phase && !(g.key === group.key && g.setting === group.setting))
    .map((g) => [g, g.episodes.findIndex((e, p) => e[0] === start && taskAt(g, p) === task)])
    .filter(([, p]) => p >= 0);
}

const episode = episodeDialog({
  others,
  filmer: (group, place, done) => (group.command ? filmer(group, place, done) : null),
});
export const openEpisode = episode.open;
export const closeEpisode = () => episode.dialog.open && episode.dialog.close();

/** Ask for the finalists' episodes if they may have changed, and draw them. */
export async function drawStarts(run, revision) {
  empty("starts", noFinal(run), "starts-some");
  if (!run.finals || asked === revision) return;
  asked = revision;
  const answer = await fetch("api/episodes");
  if (!answer.ok) return;
  const found = await answer.json();
  const drawn = JSON.stringify(found);
  if (drawn === drawStarts.drawn) return; // what somebody looks at is left alone
  drawStarts.drawn = drawn;
  all = withFilms(found);
  const options = { hasSuccess: metric.has_success, open: openEpisode };
  $("starts-matrix").replaceChildren(matrix(all, options).element);
  const clusters = found.clusters.map((one) => ({ ...one, group: all[one.group] }));
  const states = endStates(all, options);
  $("starts-ends").replaceChildren(
    ...(states
      ? [
          h("h3", {}, "Where episodes end"),
          states,
          h("h3", {}, "Clusters of unsolved episodes"),
          h(
            "p",
            { class: "soft small" },
            "Of the best trial: unsolved episodes whose last observations are alike, the largest cluster first.",
          ),
          clusterTable(clusters, options) ?? h("p", { class: "soft" }, "It has no unsolved episode."),
        ]
      : [
          h(
            "p",
            { class: "soft small" },
            "Where episodes end is not known: sweeps of earlier releases kept no last states, and images alone have none.",
          ),
        ]),
  );
}
