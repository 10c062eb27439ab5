// Elements of a page, for the dashboard and for documents. Text from a run is only ever set as text, never as HTML.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const badge = (word) => h("span", { class: `badge ${word}` }, word);

/** A button that copies `text` (a string, or a function that returns a promise of one) and confirms it. */
export function copyButton(text, label, name = "Copy") {
  const button = h("button", { type: "button", class: "small-button", "aria-label": label, title: label }, name);
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(typeof text === "function" ? await text() : text);
    } catch {
      said = "Not allowed";
    }
    button.textContent = said;
    setTimeout(() => (button.textContent = name), 1500);
  });
  return button;
}

export const command = (text, label) =>
  h("div", { class: "command" }, h("pre", { tabindex: "0" }, text), copyButton(text, label));

/** Radio buttons; calls `choose(value)` on a change. Keeps the choice if it still exists. */
export function radios(fieldset, name, options, chosen, choose) {
  const legend = fieldset.querySelector("legend");
  fieldset.replaceChildren(
    ...(legend ? [legend] : []),
    ...options.map(([value, label]) =>
      h(
        "label",
        { class: "check" },
        h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }),
        ` ${label}`,
      ),
    ),
  );
}
