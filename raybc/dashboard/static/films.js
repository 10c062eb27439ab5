// Films of a run, and one that is made because somebody asks for it.
import { h } from "./elements.js";
import { film } from "./film.js";

const SECONDS = 1;

const encoded = (file) => file.split("/").map(encodeURIComponent).join("/");

/** An entry of videos.json or of the films of episodes, with the addresses of its film and its stills. */
export const withSources = (entry) => {
  const file = encoded(entry.file);
  return { ...entry, source: `videos/${file}`, poster: `posters/${file}`, strip: `strips/${file}` };
};

/** A film of the run. withTrial: whether its caption names the trial. */
export function video(entry, withTrial = true) {
  const start = `${entry.split} start ${entry.index}${entry.task ? ` of ${entry.task}` : ""}`;
  const what = `trial ${entry.trial}, seed ${entry.seed}, ${start}`;
  return film(
    withSources(entry),
    what,
    h("br"),
    withTrial ? what : `seed ${entry.seed}, ${start}`,
    `, ${entry.setting ?? `flow_steps ${entry.flow_steps}`}`,
  );
}

/** Groups of episodes with their films, as the server answers with them. */
export function withFilms({ groups, films }) {
  for (const { group, place, ...about } of films) {
    groups[group].films ??= {};
    groups[group].films[place] = withSources(about);
  }
  return groups;
}

const same = (group, other) =>
  ["trial", "seed", "phase", "evaluation", "setting"].every((name) => group[name] === other[name]);

/** What offers to film an episode on this machine. done: called when its group has the film. */
export function filmer(group, place, done) {
  const box = h("div", { class: "filming", "aria-live": "polite" });
  const say = (...what) => box.replaceChildren(...what);
  const button = () =>
    h(
      "p",
      {},
      h("button", { type: "button", class: "film-now", onclick: start }, "Film it now"),
      h("span", { class: "soft small" }, " on this machine: the command below, in a process of its own"),
    );
  const failed = (text) =>
    say(
      h("p", { class: "note" }, "It was not filmed."),
      h("pre", { tabindex: "0" }, text || "It said nothing."),
      button(),
    );
  const mine = (job) => job && same(group, job) && job.place === place;

  async function look() {
    const state = await (await fetch("api/film")).json();
    filmer.token = state.token;
    if (state.off) return say(h("p", { class: "soft small" }, state.off));
    if (!mine(state.job))
      return say(state.busy ? h("p", { class: "soft small" }, "Another episode is being filmed.") : button());
    if (state.job.state === "running") return wait(state.job);
    return state.job.state === "failed" ? failed(state.job.said) : say(button());
  }
  function wait(job) {
    say(
      h("p", {}, h("progress", { "aria-label": "Filming" }), ` Filming for ${Math.round(job.seconds)} s.`),
      h("p", { class: "soft small" }, job.said),
    );
    setTimeout(follow, 1000 * SECONDS);
  }
  async function follow() {
    if (!box.isConnected) return;
    const { job } = await (await fetch("api/film")).json();
    if (!mine(job)) return look();
    if (job.state === "running") return wait(job);
    if (job.state === "failed") return failed(job.said);
    const found = withFilms((await (await fetch(`api/trials/${group.trial}`)).json()).episodes);
    const now = found.find((other) => same(group, other))?.films?.[place];
    if (!now) return failed(job.said); // measured, but its simulator could not make images
    group.films = { ...group.films, [place]: now };
    done();
  }
  async function start() {
    const { trial, seed, phase, evaluation, setting } = group;
    const answer = await fetch("api/film", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Raybc-Token": filmer.token },
      body: JSON.stringify({ trial, seed, phase, evaluation, setting, place }),
    });
    if (!answer.ok) {
      const text = await answer.text();
      let said = text;
      try {
        said = JSON.parse(text).error;
      } catch {
        // not JSON: said as it is
      }
      return failed(said);
    }
    return follow();
  }
  look().catch(() => say());
  return box;
}
