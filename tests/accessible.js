// What people who see little, or nothing, or use the keyboard would miss on a page; each list should be empty.
(() => {
  const seen = (e) => e.getBoundingClientRect().width > 0 && getComputedStyle(e).visibility !== "hidden";

  // Texts whose contrast with what is behind them is below 4.5, or 3 where large (WCAG 2.2, 1.4.3).
  const rgb = (text) => {
    const v = text.match(/[\d.]+/g).map(Number);
    return v.length < 4 ? [...v, 1] : v;
  };
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c[3] > 0.99) return c;
    }
    return [255, 255, 255, 1];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const e = walker.currentNode.parentElement;
    if (!text || e.closest("script, style, .plot, .hidden, .skip, noscript, option") || !seen(e)) continue;
    const style = getComputedStyle(e);
    const size = parseFloat(style.fontSize);
    const [low, high] = [luminance(rgb(style.color)), luminance(behind(e))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
    if (contrast < (large ? 3 : 4.5))
      faint.push(`${e.tagName}.${e.className} ${text.slice(0, 30)}: ${contrast.toFixed(2)}`);
  }

  // Elements without a name.
  const nameless = [
    ...document.querySelectorAll("button, a, input, select, video, dialog[open], [role=img], [role=region]"),
  ]
    .filter(
      (e) =>
        seen(e) &&
        !e.getAttribute("aria-label") &&
        !e.getAttribute("aria-labelledby") &&
        !e.textContent.trim() &&
        !e.labels?.length,
    )
    .map((e) => e.outerHTML.slice(0, 120));

  // Headings that skip a level, or a second h1.
  const headings = [...document.querySelectorAll("h1, h2, h3, h4")].filter(seen);
  const level = (e) => Number(e.tagName[1]);
  const skipped = headings
    .filter((e, i) => level(e) > (i ? level(headings[i - 1]) : 0) + 1 || (i && level(e) === 1))
    .map((e) => e.textContent);
  return { faint: [...new Set(faint)], nameless, skipped };
})();
