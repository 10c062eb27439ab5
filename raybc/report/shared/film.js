// Films of episodes: they play under the pointer, in a loop, at a chosen speed, and follow the keyboard.
// Listeners are on the document, so films that are added later, and those of a document, need no set-up.
import { badge, h } from "./elements.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4];
/** Seconds that an arrow moves, and a comma or full stop where the frames of a film are not known. */
const LEAP = 0.5;
const FRAME = 0.1;
const state = { speed: 1, loop: true, hover: !matchMedia("(prefers-reduced-motion: reduce)").matches };
const KEYS = "Space plays, arrows move, comma and full stop move by a frame, < and > change the speed.";

const filmOf = (target) => target.closest?.(".film")?.querySelector("video");

function apply(video) {
  video.playbackRate = state.speed;
  video.loop = state.loop;
}

function applyAll() {
  document.querySelectorAll(".film video").forEach(apply);
  for (const bar of document.querySelectorAll(".film-bar")) {
    bar.querySelector("select").value = String(state.speed);
    const [loop, hover] = bar.querySelectorAll("input");
    loop.checked = state.loop;
    hover.checked = state.hover;
  }
}

function start(video) {
  apply(video);
  video.play().catch(() => {}); // it was removed or paused meanwhile, or the browser wants a click first
}

/** Show the end, which tells the outcome. */
function rest(video) {
  video.pause();
  if (Number.isFinite(video.duration)) video.currentTime = video.duration;
}

function move(video, seconds) {
  video.pause();
  const end = Number.isFinite(video.duration) ? video.duration : 0;
  const from = video.currentTime || (video.played.length ? 0 : end); // its poster is the end
  video.currentTime = Math.min(Math.max(from + seconds, 0), end);
}

function faster(by) {
  const place = SPEEDS.indexOf(state.speed) + by;
  state.speed = SPEEDS[Math.min(Math.max(place, 0), SPEEDS.length - 1)];
  applyAll();
}

function press(video, key) {
  const frame = Number(video.dataset.frame) || FRAME;
  const moves = { ArrowLeft: -LEAP, ArrowRight: LEAP, ",": -frame, ".": frame, Home: -Infinity, End: Infinity };
  if (key === " ") video.paused ? start(video) : video.pause();
  else if (key === "<" || key === ">") faster(key === ">" ? 1 : -1);
  else if (key in moves) move(video, moves[key]);
  else return false;
  return true;
}

document.addEventListener("mouseover", (event) => {
  const video = filmOf(event.target);
  if (!video || !state.hover || !video.paused || video.closest(".film").contains(event.relatedTarget)) return;
  if (event.target.closest("a, button, details")) return;
  video.dataset.hover = "";
  start(video);
});
document.addEventListener("mouseout", (event) => {
  const video = filmOf(event.target);
  if (!video || !("hover" in video.dataset) || video.closest(".film").contains(event.relatedTarget)) return;
  delete video.dataset.hover;
  rest(video);
});
// Whoever clicks or presses a key has taken over: it plays on when the pointer leaves.
document.addEventListener("pointerdown", (event) => {
  const video = filmOf(event.target);
  if (video) delete video.dataset.hover;
});
document.addEventListener("play", (event) => event.target.closest?.(".film") && apply(event.target), true);
document.addEventListener(
  "keydown",
  (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName !== "VIDEO") return;
    const video = filmOf(event.target);
    if (!video || !press(video, event.key)) return;
    delete video.dataset.hover;
    event.preventDefault();
    event.stopPropagation();
  },
  true,
);

/** Speed, loop and pointer, for all films of the page. */
export function filmBar() {
  const box = (name, key, label) =>
    h(
      "label",
      { class: "check" },
      h("input", {
        type: "checkbox",
        name,
        checked: state[key],
        onchange: (event) => {
          state[key] = event.target.checked;
          applyAll();
        },
      }),
      ` ${label}`,
    );
  const select = h(
    "select",
    {
      name: "speed",
      onchange: (event) => {
        state.speed = Number(event.target.value);
        applyAll();
      },
    },
    ...SPEEDS.map((speed) => h("option", { value: speed, selected: speed === state.speed }, `${speed}x`)),
  );
  return h(
    "div",
    { class: "film-bar", role: "group", "aria-label": "Films" },
    h("label", {}, "Speed ", select),
    box("loop", "loop", "loop"),
    box("hover", "hover", "play under the pointer"),
    h("span", { class: "soft small" }, `In a film: ${KEYS}`),
  );
}

/** A film with its caption. entry: source, outcome, steps, and poster, strip where they are known; what: whose it is. */
export function film(entry, what, ...caption) {
  const gone = (event) => event.target.remove();
  return h(
    "figure",
    { class: "film" },
    h("video", {
      src: entry.source,
      poster: entry.poster,
      controls: true,
      muted: true,
      playsinline: true,
      preload: entry.poster ? "none" : "metadata",
      "data-frame": entry.frame,
      "aria-label": `Film of ${what}: ${entry.outcome}. ${KEYS}`,
    }),
    entry.strip
      ? h("img", {
          class: "strip",
          src: entry.strip,
          loading: "lazy",
          alt: `Start, middle and end of ${what}`,
          onerror: gone,
        })
      : null,
    h("figcaption", {}, badge(entry.outcome), ` after ${entry.steps} steps`, ...caption),
  );
}

/** Give the films of a document their controls, and names that say what the keyboard does. */
export function enhanceFilms() {
  for (const place of document.querySelectorAll("[data-film-bar]")) place.replaceChildren(filmBar());
  for (const video of document.querySelectorAll(".film video")) {
    video.setAttribute("aria-label", `${video.getAttribute("aria-label")}. ${KEYS}`);
    apply(video);
  }
}
