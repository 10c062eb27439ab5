// Asks for what is new every two seconds while the page is looked at, and says what goes wrong.
import { $ } from "./dom.js";

const SECONDS = 2;

/** What goes wrong, at the top of the page; "": nothing. */
export function problem(text) {
  $("problem").hidden = !text;
  if ($("problem").textContent !== text) $("problem").textContent = text;
}

/** Nobody answers. */
class Gone extends Error {}

/** The answer to a request as JSON; an answer that is an error is thrown. */
export async function get(address) {
  const answer = await fetch(address).catch(() => {
    throw new Gone();
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error ?? answer.statusText);
  return found;
}

/** Call `ask` now and again. again: the command that starts a dashboard that was stopped. */
export function follow(ask, again) {
  let timer = 0;
  const poll = async () => {
    clearTimeout(timer);
    try {
      if (!document.hidden) await ask();
      problem("");
    } catch (error) {
      problem(
        error instanceof Gone
          ? `The dashboard does not answer: it was stopped. What is shown is the last that was known. Start it again: ${again}`
          : error.message,
      );
    }
    clearTimeout(timer);
    timer = setTimeout(poll, 1000 * SECONDS);
  };
  document.addEventListener("visibilitychange", () => document.hidden || poll());
  poll();
}

/** `follow` of a page that is drawn as a whole: `draw` gets the answer to `address` whenever it differs from the one before,
 * so that nothing moves under the reader's hands. */
export function followWhole(address, draw, again) {
  let drawn = "";
  follow(async () => {
    const found = await get(address);
    const same = JSON.stringify(found);
    if (same === drawn) return;
    drawn = same;
    draw(found);
    ready();
  }, again);
}

/** The page shows something: milliseconds since its navigation, for tests and benchmarks. */
export const ready = () => (document.documentElement.dataset.ready ??= Math.round(performance.now()));
