// One GPU over nodes and clusters, and one node over GPUs. Histories are fetched when asked for.
import { badge, fetchJson, gpuLink, h, mono, nodeLink, number, path, plural, section, table, time } from "./dom.js";
import { conditionTone, several } from "./store.js";
import { since, timeline, until } from "./timeline.js";

const TONES = { OK: "ok", Past: "past", Unknown: "unknown" };
const stateOf = (row) => (row.quarantines.length && row.present ? "held" : TONES[row.state] ?? "bad");
const stateBadge = (row) => badge(row.state === "Past" ? "quiet" : row.state === "OK" ? "ok" : "bad", row.state ?? "–");
const place = (row) => (several() ? `${row.cluster} / ${row.node}` : row.node);
const cluster = () => (several() ? [["Cluster", (row) => row.cluster]] : []);

const bar = (row) => ({ ...row, tone: stateOf(row), words: `${place(row)}: ${since(row)} to ${until(row)}` });

function lanes(rows, label, href) {
  const found = new Map();
  for (const row of rows) {
    const name = label(row);
    if (!found.has(name)) found.set(name, { label: name, href: href(row), bars: [] });
    found.get(name).bars.push(bar(row));
  }
  const start = (lane) => lane.bars.map((one) => one.since ?? "").sort()[0];
  return [...found.values()].sort((a, b) => (start(a) < start(b) ? -1 : 1));
}

function detail(row) {
  if (row.message || !("from" in row || "to" in row)) return row.message;
  return `${row.from ?? "none"} → ${row.to ?? "none"}`;
}

const entries = (rows, columns) => table("History", [
  ["Time", (row) => time(row.time), "when"], ...columns,
  ["Type", (row) => row.type],
  ["Serial", (row) => gpuLink(row.serial)],
  ["PCI", (row) => mono(row.pciAddress)],
  ["Detail", detail],
], [...rows].reverse(), "The history has no entry.");

const notes = (lines, kind) => lines.map((line) => h("p", { class: `note ${kind}` }, line));

/** Fetches, shows, and shows again when a node that takes part changes. */
function live(address, head, show, concerns) {
  const body = h("div", { "aria-busy": "true" }, h("p", { class: "state" }, "Loading…"));
  let current = null;
  let busy = false;
  let again = false;
  async function load() {
    if (busy) return void (again = true);
    busy = true;
    try {
      current = await fetchJson(address);
      body.replaceChildren(...show(current).flat(Infinity).filter(Boolean));
    } catch (error) {
      body.replaceChildren(h("p", { class: "state bad" }, `The page's server did not answer: ${error.message}`));
    }
    body.removeAttribute("aria-busy");
    busy = false;
    if (again) { again = false; load(); }
  }
  load();
  return {
    content: [...head, body],
    update(change) {
      if (!change || concerns(change, current)) load();
      return true;
    },
  };
}

export function gpu(id) {
  const head = [h("p", { class: "over" }, "GPU, board or chassis"), h("h1", { class: "mono" }, id)];
  const show = ({ placements, history, warnings, problems }) => {
    if (!placements.length) {
      return [notes(problems, "bad"), h("p", { class: "state" }, "No look-up label has this serial or UUID. The labels keep the newest 100 past identifiers of a node; ", h("code", null, `kubectl gpuid where ${id} --scan`), " reads every history.")];
    }
    const byGpu = new Map();
    for (const row of placements) {
      const name = row.uuid ?? `${row.serial} ${row.pciAddress}`;
      byGpu.set(name, [...(byGpu.get(name) ?? []), row]);
    }
    const now = placements.filter((row) => row.present);
    const places = [...new Set(now.map(place))];
    const kept = new Set(placements.flatMap((row) => row.quarantines));
    return [
      notes(problems, "bad"), notes(warnings, "warn"),
      h("p", { class: "lead" }, now.length ? `Now on ${places.slice(0, 4).join(", ")}${places.length > 4 ? ` and ${places.length - 4} more` : ""}` : "On no node now", `. ${plural(placements.length, "placement")} on ${plural(new Set(placements.map(place)).size, "node")}.`),
      kept.size ? notes([`In quarantine: ${[...kept].join(", ")}`], "bad") : null,
      [...byGpu].map(([name, rows]) => section(byGpu.size > 1 ? name : "Where it was",
        h("p", { class: "facts" }, h("span", null, "UUID ", mono(rows[0].uuid)), h("span", null, "Serial ", mono(rows[0].serial)), h("span", null, "Product ", rows[0].product ?? "–"), rows[0].formerSerials.length ? h("span", null, "Former serials ", mono(rows[0].formerSerials.join(", "))) : null),
        timeline(`Placements of ${name}`, lanes(rows, place, (row) => path("node", row.cluster, row.node))),
        table(`Placements of ${name}`, [
          ...cluster(), ["Node", nodeLink], ["Machine", (row) => mono(row.machine)], ["Chassis", (row) => gpuLink(row.chassis)], ["PCI", (row) => mono(row.pciAddress)],
          ["From", since, "when"], ["To", until, "when"], ["State", stateBadge],
        ], rows, ""))),
      section("History", entries(history, [...cluster(), ["Node", nodeLink]])),
    ];
  };
  const concerns = (change, current) => {
    const nodes = new Set((current?.placements ?? []).map((row) => `${row.cluster}\u0000${row.node}`));
    return change.gone.length > 0 || change.nodes.some((node) => nodes.has(`${node.cluster}\u0000${node.name}`) || node.gpus.some((one) => one.slice(0, 3).includes(id)));
  };
  return live(`api/gpu?${new URLSearchParams({ id })}`, head, show, concerns);
}

function facts(status) {
  const rows = [["Machine", status.node?.machine], ["State", status.state], ["Product", status.product], ["Driver", status.driverVersion], ["CUDA", status.cudaVersion], ["GPUs", status.gpuCount], ["Policy", status.policy || "built-in"], ["Last read", time(status.lastReadTime)], ["Last change", time(status.lastChangeTime)], ["Read in pod", status.source?.pod ? `${status.source.namespace}/${status.source.pod}` : null]];
  return h("dl", { class: "sheet" }, rows.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", { class: "mono" }, String(value)))));
}

export function node(context, name) {
  const head = [h("p", { class: "over" }, several() ? `Node in ${context}` : "Node"), h("h1", { class: "mono" }, name)];
  const show = ({ status, placements, problems }) => {
    if (!status) return [notes(problems, "bad"), problems.length ? null : h("p", { class: "state" }, "No inventory has this name: the node has no GPUs, or its inventory was deleted.")];
    const conditions = status.conditions ?? [];
    const past = placements.filter((row) => !row.present).length;
    return [
      facts(status),
      section("Conditions", table("Conditions", [
        ["Condition", (row) => row.type],
        ["Status", (row) => badge(conditionTone(row.type, row.status), row.status)],
        ["Reason", (row) => row.reason],
        ["Message", (row) => row.message],
        ["Since", (row) => time(row.lastTransitionTime), "when"],
      ], conditions, "The operator has written no condition yet.")),
      section("GPUs over time", h("p", { class: "lead" }, `${plural(placements.length - past, "GPU")} now, ${plural(past, "placement")} before.`),
        placements.length ? timeline(`GPUs of ${name}`, lanes(placements, (row) => row.serial && placements.filter((one) => one.serial === row.serial && one.present && row.present).length < 2 ? row.serial : row.uuid ?? row.serial ?? row.pciAddress ?? "–", (row) => path("gpu", row.uuid ?? row.serial))) : null,
        table("GPUs over time", [
          ["Serial", (row) => gpuLink(row.serial)], ["UUID", (row) => gpuLink(row.uuid)], ["PCI", (row) => mono(row.pciAddress)], ["Chassis", (row) => gpuLink(row.chassis)],
          ["From", since, "when"], ["To", until, "when"], ["State", stateBadge], ["Quarantines", (row) => row.quarantines.join(", ") || "–"],
        ], placements, "The node has no GPU.")),
      section("Sinks", table("Sinks", [
        ["Sink", (row) => mono(row.name)], ["Type", (row) => row.type], ["Waiting entries", (row) => number(row.pending), "num"],
        ["Last delivery", (row) => time(row.lastDeliveryTime), "when"], ["Last error", (row) => row.lastError],
      ], status.sinks ?? [], "No sink is configured.")),
      status.checks?.length ? section("Checks", table("Checks", [
        ["Check", (row) => mono(row.name)], ["Result", (row) => (row.passed === undefined ? badge("unknown", "not run") : badge(row.passed ? "ok" : "bad", row.passed ? "passed" : "failed"))],
        ["Exit code", (row) => row.exitCode, "num"], ["Last run", (row) => time(row.lastRunTime), "when"], ["Output", (row) => h("code", null, row.stderr || row.stdout || "–")],
      ], status.checks, "")) : null,
      section("History", entries((status.history ?? []).filter((row) => row.type !== "Sighted"), [])),
    ];
  };
  const concerns = (change) => change.nodes.some((one) => one.cluster === context && one.name === name)
    || change.gone.some(([, cluster, gone]) => cluster === context && gone === name);
  return live(`api/node?${new URLSearchParams({ cluster: context, node: name })}`, head, show, concerns);
}

