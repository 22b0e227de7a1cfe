// Chassis → node → GPU. Tiles are built in steps, and those off the screen are not laid out.
import { h, number, path, plural } from "./dom.js";
import { departed, gpus, gpuSign, loading, several, sorted, store } from "./store.js";

const FIRST = 200;
const STEP = 400;
const id = (node) => `${node.cluster}\u0000${node.name}`;

function tile(node) {
  const signs = gpus(node).map((gpu) => [gpu, gpuSign(gpu)]);
  const bad = signs.filter(([, [tone]]) => tone !== "ok");
  const said = bad.length ? bad.map(([gpu, [, , words]]) => `${gpu.serial || gpu.uuid || gpu.pci} ${words}`).join("; ") : "all OK";
  const gone = departed(node);
  return h("a", { class: gone ? "tile gone" : "tile", href: path("node", node.cluster, node.name), tabindex: "-1", "data-id": id(node),
    "aria-label": `${node.name}${several() ? ` in ${node.cluster}` : ""}, ${gone ? "departed" : plural(signs.length, "GPU")}, ${said}`, title: `${node.name}: ${said}` },
  h("span", { class: "name" }, node.name),
  h("span", { class: "cells", "aria-hidden": "true" }, signs.map(([, [tone, letter]]) => h("i", { class: tone }, letter))));
}

const chassisOf = (node) => node.gpus.map((gpu) => gpu[2]).find(Boolean) ?? "";

function groups() {
  const found = new Map();
  for (const node of sorted(store.nodes.values())) {
    const label = chassisOf(node);
    const name = `${node.cluster}\u0000${label}`;
    if (!found.has(name)) found.set(name, { cluster: node.cluster, label, nodes: [] });
    found.get(name).nodes.push(node);
  }
  return [...found.values()];
}

const LEGEND = [["ok", "", "OK"], ["bad", "✕", "lost"], ["bad", "R", "reset required"], ["held", "Q", "in quarantine"], ["warn", "!", "health"], ["unknown", "?", "unknown"]];

function keys(event) {
  const tiles = [...event.currentTarget.querySelectorAll(".tile")];
  const at = tiles.indexOf(document.activeElement);
  if (at < 0) return;
  const below = (direction) => {
    const from = tiles[at].getBoundingClientRect();
    let best = null;
    for (let i = at + direction; i >= 0 && i < tiles.length && Math.abs(i - at) < 200; i += direction) {
      const box = tiles[i].getBoundingClientRect();
      if ((box.top - from.top) * direction < from.height / 2) continue;
      if (best && Math.abs(box.top - best.top) > 4) break;
      const far = Math.abs(box.left - from.left);
      if (!best || far < best.far) best = { i, far, top: box.top };
    }
    return best ? best.i : at;
  };
  const to = { ArrowRight: () => at + 1, ArrowLeft: () => at - 1, ArrowDown: () => below(1), ArrowUp: () => below(-1), Home: () => 0, End: () => tiles.length - 1 }[event.key];
  if (!to) return;
  event.preventDefault();
  const next = tiles[Math.max(0, Math.min(tiles.length - 1, to()))];
  tiles[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** Counts of what is there, as on the overview; departed nodes, which the map shows too, come last. */
function counts() {
  const present = [...store.nodes.values()].filter((node) => !departed(node));
  const chassis = new Set(present.filter(chassisOf).map((node) => `${node.cluster}\u0000${chassisOf(node)}`));
  const total = present.reduce((sum, node) => sum + node.gpus.length, 0);
  const gone = store.nodes.size - present.length;
  return `${number(chassis.size)} chassis, ${plural(present.length, "node")}, ${plural(total, "GPU")}${gone ? `; ${plural(gone, "departed node")}` : ""}`;
}

export function map() {
  const all = groups();
  const field = h("div", { class: "map", onkeydown: keys, role: "group", "aria-label": "Chassis and nodes; arrow keys move from node to node" });
  let built = 0;
  let at = 0;
  const build = (many) => {
    for (const end = built + many; at < all.length && built < end; at += 1) {
      const { cluster, label, nodes } = all[at];
      const name = label || "No chassis reported";
      field.append(h("div", { class: nodes.length > 1 ? "chassis wide" : "chassis", role: "group", "aria-label": label ? `Chassis ${label}` : name },
        h("p", { class: "label" }, label ? h("a", { href: path("gpu", label), class: "mono", tabindex: "-1" }, label) : name, several() ? h("span", null, ` ${cluster}`) : null),
        h("div", { class: "tiles" }, nodes.map(tile))));
      built += nodes.length;
    }
    if (at < all.length) requestAnimationFrame(() => build(STEP));
    else field.dataset.built = String(built);
  };
  build(FIRST);
  const first = field.querySelector(".tile");
  if (first) first.tabIndex = 0;
  const lead = h("p", { class: "lead" }, counts());
  return {
    content: [
      h("h1", null, "Map"),
      lead,
      h("p", { class: "legend", "aria-label": "Legend" }, LEGEND.map(([tone, letter, words]) => h("span", null, h("i", { class: `cell ${tone}`, "aria-hidden": "true" }, letter), words))),
      store.nodes.size ? field : h("p", { class: "state" }, loading() ? "The nodes are being listed…" : "No node with GPUs was found."),
    ],
    update(change) {
      if (!change || change.gone.length || !store.nodes.size) return false;
      for (const node of change.nodes) {
        const old = field.querySelector(`[data-id="${CSS.escape(id(node))}"]`);
        if (!old) return false;
        const next = tile(node);
        next.tabIndex = old.tabIndex;
        const focused = old === document.activeElement;
        old.replaceWith(next);
        next.classList.add("changed");
        if (focused) next.focus();
      }
      lead.textContent = counts();
      return true;
    },
  };
}
