// What a panel says while there is nothing to show: what will appear, and when.
import { $, count } from "./dom.js";

/** Show `text` in place of the elements of a panel; "": the elements. */
export function empty(panel, text, ...ids) {
  const note = $(`empty-${panel}`);
  note.hidden = !text;
  if (note.textContent !== text) note.textContent = text;
  for (const id of ids) {
    const element = $(id);
    (element.classList.contains("plot") ? element.parentElement : element).hidden = Boolean(text);
  }
}

/** Why there is no score among the trials shown; "" if there is one. */
export function noScore(all, shown, run) {
  if (shown.some((t) => t.curve.length)) return "";
  if (all.some((t) => t.curve.length)) return "None of the trials that pass the filter has been evaluated.";
  if (run.ended !== null && all.length) return "The sweep has ended without an evaluation.";
  if (run.first_step === null) return "No sweep in this folder yet: it appears here as soon as it begins.";
  const first = all.filter((t) => t.status === "running").map((t) => t.n);
  const trial = first.length ? Math.min(...first) : all.length;
  return `No evaluation yet: the first comes after step ${count(run.first_step)} of trial ${trial}.`;
}

export function noImportance(found) {
  return `No importance yet: it appears when ${found.minimum ?? 6} trials with different scores have been evaluated; ${found.trials ?? 0} so far.`;
}

export function noRollout(all, run) {
  if (run.rate.seconds.length || run.totals.episodes || run.totals.errors) return "";
  if (run.ended !== null && all.length) return "The sweep has ended without a rollout.";
  const when = run.first_step === null ? "" : `, after step ${count(run.first_step)} of the first trial`;
  return `No rollout yet: episodes per second, outcomes and errors appear with the first evaluation${when}.`;
}

export function noFinal(run) {
  if (run.finals) return "";
  const now = "Until then a trial's page has the episodes of its search starts.";
  if (run.ended !== null && run.first_step !== null) return "This sweep measured no trial on final starts.";
  return `Not yet: the best trials are measured on final starts at the end of the sweep. ${now}`;
}

export function noVideo(run) {
  const film = "A trial's page has the command that films it.";
  if (run.ended !== null && run.first_step !== null) return `This sweep filmed nothing. ${film}`;
  if (run.first_step !== null && !run.final_videos) return `This sweep films nothing (final.videos is 0). ${film}`;
  const number = run.final_videos ? `${count(run.final_videos)} episodes are filmed` : "Episodes are filmed";
  return `No videos yet: ${number.toLowerCase()} when the best recipes have been measured on final starts. ${film}`;
}
