// The fleet as the server last sent it, and the words for what is not right with it.
const key = (...parts) => parts.join("\u0000");

export const store = { nodes: new Map(), quarantines: new Map(), clusters: new Map(), loaded: false, connected: false };

const listeners = new Set();
export const onChange = (listener) => listeners.add(listener);
const notify = (change) => listeners.forEach((listener) => listener(change));

function take(data) {
  for (const one of data.clusters) store.clusters.set(key(one.cluster, one.kind), one);
  for (const kind of ["nodes", "quarantines"]) {
    for (const one of data[kind]) store[kind].set(key(one.cluster, one.name), one);
  }
}

export function connect() {
  const events = new EventSource("events");
  events.addEventListener("snapshot", (event) => {
    for (const kind of ["nodes", "quarantines", "clusters"]) store[kind].clear();
    take(JSON.parse(event.data));
    store.loaded = store.connected = true;
    notify(null);
  });
  events.addEventListener("delta", (event) => {
    const data = JSON.parse(event.data);
    take(data);
    for (const [kind, cluster, name] of data.gone) store[kind].delete(key(cluster, name));
    notify(data);
  });
  events.addEventListener("error", () => {
    store.connected = false;
    notify({ nodes: [], quarantines: [], clusters: [], gone: [] });
  });
}

export const clusters = (kind) => [...store.clusters.values()].filter((one) => one.kind === kind);
export const several = () => clusters("nodes").length > 1;
export const loading = (kind = "nodes") => clusters(kind).some((one) => one.state === "loading");

export const sorted = (records) =>
  [...records].sort((a, b) => (a.cluster === b.cluster ? (a.name < b.name ? -1 : 1) : a.cluster < b.cluster ? -1 : 1));

/** A GPU of a record, which comes as a list. */
export const gpus = (node) => node.gpus.map(([uuid, serial, chassis, pci, state, flags, quarantines]) =>
  ({ uuid, serial, chassis, pci, state, flags, quarantines }));

export const FLAGS = {
  remappedRowsPending: "row remap pending",
  remappedRowsFailed: "row remap failed",
  retiredPagesPending: "page retirement pending",
  eccUncorrected: "uncorrected ECC errors",
  recoveryAction: "recovery action required",
};

/** Tone, letter and words of a GPU: what is worst comes first. */
export function gpuSign({ state, flags, quarantines }) {
  if (state === "Lost") return ["bad", "✕", "lost"];
  if (state === "ResetRequired") return ["bad", "R", "reset required"];
  if (quarantines.length) return ["held", "Q", `in quarantine (${quarantines.join(", ")})`];
  if (flags.length) return ["warn", "!", flags.map((flag) => FLAGS[flag] ?? flag).join(", ")];
  if (state !== "OK") return ["unknown", "?", state];
  return ["ok", "", "OK"];
}

export function conditionTone(type, status) {
  if (status === "Unknown") return "unknown";
  return (status === "True") === (type === "Quarantined") ? "bad" : "ok";
}

/** A node that is gone keeps its inventory, as a record. It is not part of any count of what there is. */
export const departed = (node) => node.state === "Departed";

/** The conditions of a node that are not as they should be. Of a departed node, only the delivery matters. */
export const wrong = (node) => Object.entries(node.conditions).filter(([type, [status]]) =>
  conditionTone(type, status) !== "ok" && (!departed(node) || type === "Delivered"));

export const WORDS = {
  Ready: ["The last read was good", "Not read"],
  Healthy: ["Healthy", "GPU health"],
  Delivered: ["Delivered to all sinks", "Not delivered"],
  ChecksPassed: ["Checks pass", "Checks fail"],
  AsExpected: ["As the policy expects", "Not as expected"],
  Unique: ["Each GPU once", "GPU on several nodes"],
  Quarantined: ["In quarantine", "In quarantine"],
};
