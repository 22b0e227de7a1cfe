// Builds elements. Values from a cluster become text or attribute values, never markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export const h = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const mono = (text) => h("span", { class: "mono" }, text ?? "–");

export const number = (value) => (value ?? 0).toLocaleString("en");

export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

export const time = (text) => (text ? text.replace("T", " ").replace("Z", " UTC") : null);

/** A status word with a glyph, so that colour is never the only sign. */
export function badge(tone, text, title) {
  const glyph = { ok: "✓", bad: "✕", warn: "!", unknown: "?", quiet: "–" }[tone];
  return h("span", { class: `badge ${tone}`, title }, h("span", { "aria-hidden": "true" }, glyph), " ", text);
}

/** A table in a scrolling frame; each column is [heading, cell of a row, class]. */
export function table(caption, columns, rows, empty) {
  if (!rows.length) return h("p", { class: "state" }, empty);
  return h("div", { class: "frame", tabindex: "0", role: "region", "aria-label": caption },
    h("table", null,
      h("caption", { class: "hidden" }, caption),
      h("thead", null, h("tr", null, columns.map(([name, , kind]) => h("th", { scope: "col", class: kind }, name)))),
      h("tbody", null, rows.map((row) =>
        h("tr", null, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row) ?? "–")))))));
}

export const section = (title, ...content) => h("section", null, h("h2", null, title), ...content);

export const path = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

export const query = (view, filters) => `#/${view}?${new URLSearchParams(filters)}`;

export const nodeLink = (record) =>
  h("a", { href: path("node", record.cluster, record.name ?? record.node), class: "mono" }, record.name ?? record.node);

export const gpuLink = (id) => (id ? h("a", { href: path("gpu", id), class: "mono" }, id) : "–");

export async function fetchJson(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
