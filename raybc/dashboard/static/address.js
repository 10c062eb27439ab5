// The view is in the address: a link or a reload restores it, and back and forward go through it.

/** Parameters of the address: name -> text, or list of texts; empty ones are left out. */
export function write(values, push) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values))
    for (const one of [value].flat()) if (one !== "" && one !== null && one !== undefined) query.append(name, one);
  const text = query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  const address = `${location.pathname}${text && "?"}${text}${location.hash}`;
  if (address === location.pathname + location.search + location.hash) return;
  if (push) history.pushState(null, "", address);
  else history.replaceState(history.state, "", address);
}

export const read = () => new URLSearchParams(location.search);

/** `lr:-4.2..-3.1,hidden_width:0.9..1.1` of the ranges that were drawn on axes, and back. */
export function ranges(brush) {
  const number = (v) => String(Number(v.toPrecision(6)));
  return [...brush].flatMap(([axis, found]) =>
    (Array.isArray(found[0]) ? found : [found]).map(([low, high]) => `${axis}:${number(low)}..${number(high)}`),
  );
}

export function brushOf(texts) {
  const brush = new Map();
  for (const text of texts) {
    const parts = /^([\w.]+):(-?[\d.e+-]+?)\.\.(-?[\d.e+-]+)$/.exec(text);
    if (!parts || Number.isNaN(Number(parts[2])) || Number.isNaN(Number(parts[3]))) continue;
    brush.set(parts[1], [...(brush.get(parts[1]) ?? []), [Number(parts[2]), Number(parts[3])]]);
  }
  for (const [axis, found] of brush) if (found.length === 1) brush.set(axis, found[0]);
  return brush;
}

/** Typing in a field changes the address: one entry of the history for each time that it has the focus. */
export function typing(field, changed) {
  let timer = 0;
  let begun = false;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      changed(!begun);
      begun = true;
    }, 150);
  });
  field.addEventListener("blur", () => (begun = false));
}
