// The body of a table of any length. Of a long list only the rows near the window are in the page; a row is kept while
// what it shows is the same, so that a poll takes nothing away from under the mouse or the keyboard.
import { h } from "./dom.js";

/** Shorter lists are in the page as a whole, for the browser's own search. */
const WHOLE = 100;
/** Rows beyond both edges of the window. */
const BEYOND = 10;
/** Pixels of a row before one was measured. */
const LOW = 40;
const FOCUSABLE = "button, input, a[href]";
const KEYS = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };

export class Rows {
  #made = new Map(); // key -> {same, element}
  #list = [];
  #how = null;
  #height = LOW;
  #waiting = false;

  /** frame: what scrolls. keyOf: an entry's own key. */
  constructor(frame, table, keyOf) {
    this.frame = frame;
    this.table = table;
    this.keyOf = keyOf;
    frame.addEventListener("scroll", () => this.#soon(), { passive: true });
    addEventListener("resize", () => {
      this.#height = LOW;
      table.style.removeProperty("--row");
      for (const cell of table.tHead.rows[0]?.cells ?? []) cell.style.minWidth = "";
      this.#soon();
    });
    table.tBodies[0].addEventListener("keydown", (event) => this.#key(event));
  }

  /**
   * Show a list. how: make (entry -> row), same (entry -> text that changes with what the row shows),
   * columns (how many), nothing (the text of an empty list), refresh (row, entry: sets what may change in place).
   */
  show(list, how) {
    this.#list = list;
    this.#how = how;
    const keys = new Set(list.map(this.keyOf));
    for (const key of this.#made.keys()) if (!keys.has(key)) this.#made.delete(key);
    this.#draw();
  }

  top() {
    this.frame.scrollTop = 0;
  }

  #soon() {
    if (this.#waiting || this.#list.length <= WHOLE) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #row(place) {
    const entry = this.#list[place];
    const key = this.keyOf(entry);
    const same = this.#how.same(entry);
    let made = this.#made.get(key);
    if (!made || made.same !== same) {
      const had = made ? [...made.element.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement) : -1;
      made = { same, element: this.#how.make(entry) };
      this.#made.set(key, made);
      const { element } = made;
      if (had >= 0) queueMicrotask(() => element.querySelectorAll(FOCUSABLE)[had]?.focus({ preventScroll: true }));
    }
    this.#how.refresh?.(made.element, entry);
    made.element.dataset.place = place;
    made.element.classList.toggle("odd", place % 2 === 1);
    made.element.setAttribute("aria-rowindex", place + 2); // the heading is the first
    return made.element;
  }

  #draw() {
    const body = this.table.tBodies[0];
    const { length } = this.#list;
    this.table.setAttribute("aria-rowcount", length + 1);
    if (!length) {
      const cell = h("td", { colspan: this.#how.columns, class: "soft" }, this.#how.nothing);
      body.replaceChildren(h("tr", {}, cell));
      return;
    }
    const long = length > WHOLE;
    const first = long ? Math.max(0, Math.floor(this.frame.scrollTop / this.#height) - BEYOND) : 0;
    const shown = Math.ceil(this.frame.clientHeight / this.#height) + 2 * BEYOND;
    const last = long ? Math.min(length, first + shown) : length;
    const wanted = [];
    for (let place = first; place < last; place++) wanted.push(this.#row(place));
    if (long) {
      wanted.unshift(this.#space(first));
      wanted.push(this.#space(length - last));
    }
    const focused = body.contains(document.activeElement);
    put(body, wanted);
    if (focused && !body.contains(document.activeElement)) this.frame.focus({ preventScroll: true });
    if (!long) return;
    for (const [key, { element }] of this.#made) if (!element.isConnected) this.#made.delete(key);
    this.#measure(wanted.slice(1, -1));
  }

  #space(count) {
    const cell = h("td", { colspan: this.#how.columns, style: `height:${count * this.#height}px` });
    return h("tr", { class: "space", "aria-hidden": "true" }, cell);
  }

  /** Rows are as high as the highest that was seen, and columns as wide, so that nothing jumps while one scrolls. */
  #measure(rows) {
    const highest = Math.max(...rows.map((row) => row.getBoundingClientRect().height));
    for (const cell of this.table.tHead.rows[0]?.cells ?? []) {
      const width = Math.ceil(cell.getBoundingClientRect().width);
      if (width > (parseFloat(cell.style.minWidth) || 0)) cell.style.minWidth = `${width}px`;
    }
    if (highest <= this.#height) return;
    this.#height = highest;
    this.table.style.setProperty("--row", `${highest}px`);
    this.#draw();
  }

  #key(event) {
    const row = event.target.closest("tr[data-place]");
    if (!row || !(event.key in KEYS) || event.target.matches("input, select")) return;
    event.preventDefault();
    const place = Math.min(this.#list.length - 1, Math.max(0, Number(row.dataset.place) + KEYS[event.key]));
    const header = this.table.tHead.offsetHeight;
    if (this.#list.length > WHOLE) {
      const top = place * this.#height;
      const height = this.frame.clientHeight - header - this.#height;
      if (top < this.frame.scrollTop) this.frame.scrollTop = top;
      else if (top > this.frame.scrollTop + height) this.frame.scrollTop = top - height;
      this.#draw();
    }
    const next = this.#made.get(this.keyOf(this.#list[place])).element;
    next.querySelector(FOCUSABLE)?.focus({ preventScroll: this.#list.length > WHOLE });
  }
}

/** Make `wanted` the children of `body`, moving as little as possible. */
function put(body, wanted) {
  const keep = new Set(wanted);
  for (const child of [...body.children]) if (!keep.has(child)) child.remove();
  wanted.forEach((child, i) => {
    if (body.children[i] !== child) body.insertBefore(child, body.children[i] ?? null);
  });
}
