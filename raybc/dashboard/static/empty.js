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

/** How a sweep on which no process works came to its end; "" while one works. */
const ending = (run) => ({ ended: "has ended", stopped: "was stopped" })[run.state] ?? "";

/** Why there is no trial. */
export const noTrial = (run) =>
  ending(run)
    ? `The sweep ${ending(run)} before its first trial.`
    : "No trial has started yet: the data and the simulators come first.";

/** Why there is no score among the trials shown; "" if there is one. */
export function noScore(all, shown, run) {
  if (shown.some((t) => t.curve.length)) return "";
  if (all.some((t) => t.curve.length)) return "None of the trials that pass the filter has been evaluated.";
  if (ending(run)) return `The sweep ${ending(run)} before its first evaluation.`;
  if (run.first_step === null) return "No sweep in this folder yet: it appears here as soon as it begins.";
  const first = all.filter((t) => t.status === "running").map((t) => t.n);
  const trial = first.length ? Math.min(...first) : all.length;
  return `No evaluation yet: the first comes after step ${count(run.first_step)} of trial ${trial}.`;
}

/** Why two axes cannot be shown at once. axes: those in which trials with a score differ. */
export const noPair = (axes) =>
  axes.length > 1 ? "" : "Two axes at once appear when trials that have been evaluated differ in two axes.";

/** Why there is no course of the sweep. */
export function noCourse(all, run) {
  if (all.some((t) => t.done)) return "";
  if (ending(run)) return `The sweep ${ending(run)} before its first evaluation.`;
  const when = run.first_step === null ? "" : `, after step ${count(run.first_step)} of a trial`;
  return `Not yet: the timeline appears with the first evaluation${when}, the best score so far when the first trial has been completed.`;
}

/** Why there is no best score so far, though something was measured. */
export function noBest(all, run) {
  if (all.some((t) => t.status === "completed")) return "";
  if (ending(run)) return `The sweep ${ending(run)} before a trial was completed, so there is no best score so far.`;
  return `The best score so far appears when the first trial has been completed, at step ${count(run.last_step ?? 0)}.`;
}

export const noTimeline = (found) =>
  Object.keys(found.trials).length
    ? "None of the trials that pass the filter is in the timeline."
    : "When trials ran is not known: the ledger of this sweep has no times.";

export function noImportance(found) {
  return `No importance yet: it appears when ${found.minimum ?? 6} trials with different scores have been evaluated; ${found.trials ?? 0} so far.`;
}

export function noRollout(all, run) {
  if (run.rate.seconds.length || run.totals.episodes || run.totals.errors) return "";
  if (ending(run)) return `The sweep ${ending(run)} before its first rollout.`;
  const when = run.first_step === null ? "" : `, after step ${count(run.first_step)} of the first trial`;
  return `No rollout yet: episodes per second, outcomes and errors appear with the first evaluation${when}.`;
}

export function noFinal(run) {
  if (run.finals) return "";
  const now = "Until then a trial's page has the episodes of its search starts.";
  if (run.state === "ended" && run.first_step !== null) return "This sweep measured no trial on final starts.";
  return `Not yet: the best trials are measured on final starts at the end of the sweep. ${now}`;
}

export function noVideo(run) {
  const film = "A trial's page has the command that films it.";
  if (run.state === "ended" && run.first_step !== null) return `This sweep filmed nothing. ${film}`;
  if (run.first_step !== null && !run.final_videos) return `This sweep films nothing (final.videos is 0). ${film}`;
  const number = run.final_videos ? `${count(run.final_videos)} episodes are filmed` : "Episodes are filmed";
  return `No videos yet: ${number.toLowerCase()} when the best recipes have been measured on final starts. ${film}`;
}
