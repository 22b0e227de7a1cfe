// Counts of the whole fleet; what is not right comes first, and every count leads to its nodes.
import { badge, h, number, path, plural, query, section, table } from "./dom.js";
import { clusters, conditionTone, departed, FLAGS, gpus, loading, store, WORDS } from "./store.js";

function count(map, name, by = 1) {
  map.set(name, (map.get(name) || 0) + by);
}

function tally() {
  const sums = { gpus: 0, product: new Map(), driver: new Map(), state: new Map(), gpu: new Map(), health: new Map(), condition: new Map(), reason: new Map(), behind: 0 };
  const perProduct = new Map();
  for (const node of store.nodes.values()) {
    count(sums.state, node.state);
    if (node.sinks.length) sums.behind += 1;
    if (departed(node)) continue;
    count(sums.product, node.product || "");
    count(sums.driver, node.driver || "");
    for (const [type, [status, reason]] of Object.entries(node.conditions)) {
      count(sums.condition, `${type}:${status}`);
      if (conditionTone(type, status) !== "ok") count(sums.reason, `${type}:${status}:${reason}`);
    }
    sums.gpus += node.count || 0;
    count(perProduct, node.product || "", node.count || 0);
    for (const gpu of gpus(node)) {
      if (gpu.state !== "OK") count(sums.gpu, gpu.state);
      for (const flag of gpu.flags) count(sums.health, flag);
    }
  }
  return { ...sums, perProduct };
}

/** The nodes behind a count: departed ones are in none but those of their own. */
const those = (filters) => query("nodes", "state" in filters ? filters : { ...filters, state: "Present" });

const figure = (value, label, href) =>
  h("a", { class: "figure", href }, h("b", null, number(value)), h("span", null, label));

function bars(title, view, totals, extra) {
  const rows = [...totals].sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...rows.map(([, sum]) => sum));
  return section(`By ${title}`, table(`Nodes by ${title}`, [
    [title[0].toUpperCase() + title.slice(1), ([name]) => h("a", { href: those({ [view]: name }) }, name || "not known")],
    ["", ([, sum]) => h("meter", { min: 0, max: most, value: sum, "aria-hidden": "true" }), "bar"],
    ["Nodes", ([, sum]) => number(sum), "num"],
    ...(extra ? [["GPUs", ([name]) => number(extra.get(name) || 0), "num"]] : []),
  ], rows, "Nothing to count yet."));
}

function attention(sums) {
  const items = [];
  for (const [state, sum] of sums.gpu) items.push(["bad", plural(sum, "GPU"), state === "Lost" ? "lost" : state === "ResetRequired" ? "with a reset required" : `in state ${state}`, { gpu: state }]);
  for (const [flag, sum] of sums.health) items.push(["warn", plural(sum, "GPU"), FLAGS[flag] ?? flag, { health: flag }]);
  for (const [value, sum] of sums.reason) {
    const [type, status, reason] = value.split(":");
    items.push([conditionTone(type, status), plural(sum, "node"), `${(WORDS[type] ?? [type, type])[1]}: ${reason}`, { condition: value }]);
  }
  const order = ["bad", "warn", "unknown"];
  items.sort((a, b) => order.indexOf(a[0]) - order.indexOf(b[0]));
  const rows = items.map(([tone, sum, words, filters]) =>
    h("li", null, h("a", { href: those(filters), class: `issue ${tone}` }, badge(tone, sum), h("span", null, words))));
  if (sums.behind) rows.push(h("li", null, h("a", { href: "#/sinks", class: "issue warn" }, badge("warn", plural(sums.behind, "node")), h("span", null, "with sinks behind"))));
  if (!rows.length) return h("p", { class: "state calm" }, loading() ? "The nodes are being listed…" : "✓ Nothing is wrong: every node was read, every GPU is OK, every sink has everything.");
  return h("ul", { class: "issues" }, rows);
}

export function overview() {
  if (!store.nodes.size) {
    const problem = clusters("nodes").find((one) => one.state === "error" || one.state === "forbidden");
    return [h("h1", null, "Fleet"), h("p", { class: "state" }, loading() ? "The nodes are being listed…"
      : problem ? "No cluster could be listed. The reason is above; the page tries again by itself."
      : "No node with GPUs was found. The operator creates a GPUInventory for each GPU node that it reads.")];
  }
  const sums = tally();
  const gone = sums.state.get("Departed") || 0;
  const present = store.nodes.size - gone;
  const quarantined = [...store.quarantines.values()].reduce((sum, one) => sum + (one.count || 0), 0);
  const kinds = [...new Set([...sums.condition.keys()].map((name) => name.split(":")[0]))];
  const cell = (type, status) => {
    const value = sums.condition.get(`${type}:${status}`);
    if (!value) return "–";
    const link = h("a", { href: those({ condition: `${type}:${status}` }) }, number(value));
    const tone = conditionTone(type, status);
    return tone === "ok" ? link : h("span", { class: `badge ${tone}` }, h("span", { "aria-hidden": "true" }, tone === "bad" ? "✕ " : "? "), link);
  };
  return [
    h("h1", null, "Fleet"),
    h("div", { class: "figures" },
      figure(sums.gpus, "GPUs", path("map")),
      figure(present, present === 1 ? "node present" : "nodes present", those({ state: "Present" })),
      figure(gone, gone === 1 ? "node departed" : "nodes departed", those({ state: "Departed" })),
      figure(quarantined, quarantined === 1 ? "GPU in quarantine" : "GPUs in quarantine", path("quarantines")),
      figure(clusters("nodes").length, clusters("nodes").length === 1 ? "cluster" : "clusters", path("nodes"))),
    section("Not right", attention(sums)),
    h("div", { class: "columns" },
      bars("product", "product", sums.product, sums.perProduct),
      bars("driver", "driver", sums.driver),
      section("By condition", table("Nodes by condition", [
        ["Condition", (type) => type],
        ["True", (type) => cell(type, "True"), "num"],
        ["False", (type) => cell(type, "False"), "num"],
        ["Unknown", (type) => cell(type, "Unknown"), "num"],
      ], kinds, "No condition yet.")),
      bars("state", "state", sums.state)),
  ];
}
