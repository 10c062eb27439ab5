// Squares, states and films of a document: what they show is in its <script type="application/json" id="episodes">.
import { h } from "./elements.js";
import { episodeDialog, hardest, matrix, taskAt } from "./episodes.js";
import { enhanceFilms } from "./film.js";
import { clusterTable, endStates } from "./states.js";

enhanceFilms();
const holder = document.getElementById("episodes-data");
if (holder) showEpisodes(JSON.parse(holder.textContent));

function showEpisodes({ groups, films, clusters, has_success: hasSuccess }) {
  // A film is in the document once, among the videos.
  for (const { group, place, element, ...about } of films) {
    const figure = document.getElementById(element);
    const video = figure.querySelector("video");
    groups[group].films ??= {};
    groups[group].films[place] = {
      ...about,
      source: video.getAttribute("src"),
      poster: video.getAttribute("poster"),
      frame: video.dataset.frame,
      strip: figure.querySelector(".strip")?.getAttribute("src"),
    };
  }
  const others = (group, place) => {
    const [start, task] = [group.episodes[place][0], taskAt(group, place)];
    return groups
      .filter((g) => g !== group)
      .map((g) => [g, g.episodes.findIndex((e, p) => e[0] === start && taskAt(g, p) === task)])
      .filter(([, p]) => p >= 0);
  };
  const { open } = episodeDialog({ others });
  const options = { hasSuccess, open };
  const { element, filter } = matrix(groups, options);
  document.getElementById("episodes-matrix").replaceChildren(element);
  fill("episodes-states", endStates(groups, options));
  const found = clusters.map((one) => ({ ...one, group: groups[one.group] }));
  fill("episodes-clusters", clusterTable(found, options));
  const follow = () => {
    const wanted = /^#episodes-(?:(\d+)-)?(success|failure|timeout|error|unsolved)$/.exec(location.hash);
    if (!wanted) return;
    filter(wanted[2], wanted[1] === undefined ? null : Number(wanted[1]));
    document.getElementById("episodes").scrollIntoView();
  };
  addEventListener("hashchange", follow);
  follow();
  document.documentElement.dataset.episodes = String(hardest(groups, hasSuccess).length); // for tests
}

function fill(id, element) {
  const place = document.getElementById(id);
  if (place)
    element ? place.replaceChildren(element) : place.replaceChildren(h("p", { class: "soft" }, place.dataset.none));
}
