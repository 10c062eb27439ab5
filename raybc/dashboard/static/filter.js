// The columns of the table of trials, and the filter language over them.
import { metric, show } from "./dom.js";

/** Columns: key, title, value to sort and filter by (null: last), number or word. */
export function columns(run) {
  const settings = ["flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble", "solver", "best_of_n"].some(
    (a) => run.space[a],
  );
  return [
    { key: "trial", title: "Trial", value: (t) => t.n, number: true },
    { key: "score", title: `Search ${metric.label}, 95 % CI`, value: (t) => t.score, number: true },
    // Without a simulator there are no final starts.
    ...(metric.episodes === false
      ? []
      : [
          {
            key: "final",
            title: `Final ${metric.label}, 95 % CI`,
            value: (t) => (t.final ? t.final.rate : null),
            number: true,
          },
        ]),
    ...run.axes.map((axis) => ({
      key: axis,
      title: axis,
      value: (t) => t.params[axis],
      number: typeof sample(axis) === "number",
    })),
    ...(settings ? [{ key: "setting", title: "Sample setting", value: (t) => t.setting }] : []),
    ...(metric.episodes === false
      ? []
      : [{ key: "failures", title: "Failures", value: (t) => t.ends.failures + t.ends.timeouts, number: true }]),
    { key: "step", title: "Step", value: (t) => t.step, number: true },
    { key: "errors", title: "Errors", value: (t) => t.errors, number: true },
    { key: "origin", title: "Origin", value: (t) => t.origin },
  ];

  function sample(axis) {
    const spec = run.space[axis] || {};
    return spec.values ? spec.values[0] : spec.low;
  }
}

/** A predicate of a text such as `lr<0.001 status=pruned word`, or what is wrong with it. */
export function parseFilter(text, run) {
  const known = new Map(columns(run).map((column) => [column.key, column]));
  known.set("status", { value: (t) => t.status }).set("reason", { value: (t) => t.reason });
  const tests = [];
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const parts = /^([\w.]+)(<=|>=|!=|<|>|=|:)(.+)$/.exec(word);
    if (!parts) {
      const wanted = word.toLowerCase();
      tests.push((t) => words(t).includes(wanted));
      continue;
    }
    const [, key, sign, raw] = parts;
    if (!known.has(key)) return { error: `No column "${key}"; there are ${[...known.keys()].join(", ")}.` };
    const { value } = known.get(key);
    const number = Number(raw);
    if (/[<>]/.test(sign) && Number.isNaN(number)) return { error: `"${word}": expected a number after ${sign}.` };
    tests.push((t) => {
      const found = value(t);
      if (found === null || found === undefined) return false;
      if (sign === "<") return found < number;
      if (sign === "<=") return found <= number;
      if (sign === ">") return found > number;
      if (sign === ">=") return found >= number;
      const same = typeof found === "number" ? found === number : show(found).toLowerCase() === raw.toLowerCase();
      return sign === "!=" ? !same : same;
    });
  }
  return { test: (t) => tests.every((test) => test(t)) };
}

const said = new WeakMap(); // a trial that changes is another object
function words(t) {
  if (!said.has(t)) said.set(t, text(t));
  return said.get(t);
}

const text = (t) =>
  `trial ${t.n} ${t.status} ${t.origin} ${t.reason} ${t.setting} ${Object.entries(t.params)
    .map(([k, v]) => `${k}=${show(v)}`)
    .join(" ")}`.toLowerCase();
