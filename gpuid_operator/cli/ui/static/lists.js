// Long tables: nodes by filter, quarantines, sinks that are behind.
import { badge, gpuLink, h, mono, nodeLink, number, plural, query, section, table, time } from "./dom.js";
import { conditionTone, departed, gpus, loading, several, sorted, store, wrong, clusters, FLAGS } from "./store.js";

const PAGE = 100;

const FILTERS = {
  product: ["Product", (node, value) => (node.product || "") === value],
  driver: ["Driver", (node, value) => (node.driver || "") === value],
  state: ["State", (node, value) => (node.state || "") === value],
  cluster: ["Cluster", (node, value) => node.cluster === value],
  gpu: ["GPU", (node, value) => gpus(node).some((gpu) => gpu.state === value)],
  health: ["GPU health", (node, value) => gpus(node).some((gpu) => gpu.flags.includes(value)), (value) => FLAGS[value] ?? value],
  condition: ["Condition", (node, value) => {
    const [type, status, reason] = value.split(":");
    const found = node.conditions[type];
    return found && found[0] === status && (!reason || found[1] === reason);
  }, (value) => value.replace(":", "=").replace(":", ", ")],
};

const clusterColumn = () => (several() ? [["Cluster", (row) => row.cluster]] : []);

function conditions(node) {
  const found = wrong(node);
  if (!found.length && !departed(node)) return badge("ok", "all right");
  return h("span", { class: "badges" }, departed(node) ? badge("quiet", "departed") : null,
    found.map(([type, [status, reason]]) => badge(conditionTone(type, status), `${type}: ${reason || status}`)));
}

export function nodes(params) {
  const page = Math.max(1, Number(params.get("page")) || 1);
  const active = [...params].filter(([name]) => FILTERS[name]);
  const found = sorted(store.nodes.values()).filter((node) => active.every(([name, value]) => FILTERS[name][1](node, value)));
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  const at = Math.min(page, pages);
  const turn = (to, text) => (to < 1 || to > pages
    ? h("span", { class: "off" }, text)
    : h("a", { href: query("nodes", [...active, ["page", to]]) }, text));
  const without = (index) => query("nodes", active.filter((_, i) => i !== index));
  return [
    h("h1", null, "Nodes"),
    active.length ? h("p", { class: "chips" }, active.map(([name, value], index) => {
      const [label, , words] = FILTERS[name];
      const text = words ? words(value) : value || "none";
      return h("a", { class: "chip", href: without(index), "aria-label": `Remove the filter ${label} ${text}` },
        `${label} `, h("b", null, text), h("span", { "aria-hidden": "true" }, " ×"));
    })) : null,
    h("p", { class: "lead" }, `${plural(found.length, "node")}${active.length ? ` of ${number(store.nodes.size)}` : ""}`),
    table("Nodes", [
      ...clusterColumn(),
      ["Node", nodeLink],
      ["Machine", (node) => mono(node.machine)],
      ["GPUs", (node) => number(node.count), "num"],
      ["Product", (node) => node.product],
      ["Driver", (node) => mono(node.driver)],
      ["Conditions", conditions],
      ["Last read", (node) => time(node.read), "when"],
    ], found.slice((at - 1) * PAGE, at * PAGE),
    loading() ? "The nodes are being listed…" : active.length ? "No node matches the filter." : "No node with GPUs was found."),
    pages > 1 ? h("nav", { class: "pager", "aria-label": "Pages" }, turn(at - 1, "Previous"), ` Page ${number(at)} of ${number(pages)} `, turn(at + 1, "Next")) : null,
  ];
}

function part(one) {
  const [[kind, id]] = Object.entries(one);
  return h("span", null, `${kind} `, gpuLink(id), " ");
}

export function quarantines() {
  const rows = sorted(store.quarantines.values());
  const unserved = clusters("quarantines").filter((one) => one.state !== "ready" && one.state !== "loading");
  return [
    h("h1", null, "Quarantines"),
    h("p", { class: "lead" }, "Parts that must not be used, wherever they turn up. “Here now” counts the GPUs in the cluster that match."),
    unserved.map((one) => h("p", { class: "note" }, one.state === "absent"
      ? `${one.cluster}: the cluster does not serve GPUQuarantine; its operator is older than quarantines.`
      : `${one.cluster}: ${one.message}`)),
    table("Quarantines", [
      ...clusterColumn(),
      ["Name", (row) => mono(row.name)],
      ["Here now", (row) => (row.count ? badge("bad", number(row.count)) : badge("ok", "none")), "num"],
      ["Parts", (row) => row.parts.map(part)],
      ["Reason", (row) => row.reason],
      ["Ticket", (row) => row.ticket],
      ["Action", (row) => row.action],
      ["Until", (row) => (row.until ? time(row.until) : "lifted by hand")],
      ["On nodes", (row) => [...new Set(row.matches.map((match) => match.node))].map((node) => [nodeLink({ cluster: row.cluster, node }), " "])],
    ], rows, loading("quarantines") ? "The quarantines are being listed…" : "No part is in quarantine."),
  ];
}

export function sinks() {
  const rows = sorted(store.nodes.values()).flatMap((node) => node.sinks.map((sink) => ({ ...sink, cluster: node.cluster, node: node.name })));
  const groups = new Map();
  for (const row of rows) {
    const name = `${row.cluster}\u0000${row.name}`;
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  const sums = [...groups.values()].map((all) => ({
    ...all[0], nodes: all.length, pending: all.reduce((sum, one) => sum + (one.pending || 0), 0),
    since: all.map((one) => one.since).filter(Boolean).sort()[0], lastError: all.find((one) => one.lastError)?.lastError,
  }));
  const columns = (extra) => [
    ...clusterColumn(),
    ["Sink", (row) => mono(row.name)],
    ["Type", (row) => row.type],
    ...extra,
    ["Waiting entries", (row) => number(row.pending), "num"],
    ["Failing since", (row) => time(row.since), "when"],
    ["Last error", (row) => row.lastError],
  ];
  return [
    h("h1", null, "Sinks behind"),
    h("p", { class: "lead" }, "Entries that a sink has not received yet wait in the inventory of their node; nothing is lost."),
    rows.length ? section("By sink", table("By sink", columns([["Nodes", (row) => number(row.nodes), "num"]]), sums, "")) : null,
    rows.length ? section("By node", table("By node", columns([["Node", ({ cluster, node }) => nodeLink({ cluster, node })]]), rows.slice(0, 500), "")) :
      h("p", { class: "state" }, loading() ? "The nodes are being listed…" : "Every sink has received every entry."),
    rows.length > 500 ? h("p", { class: "note" }, `The first 500 of ${number(rows.length)} rows.`) : null,
  ];
}

