// The search field: / focuses it, arrows choose, Enter opens.
import { fetchJson, h, path } from "./dom.js";
import { several } from "./store.js";

const field = document.getElementById("search");
const list = document.getElementById("hits");
let hits = [];
let at = -1;
let asked = 0;

const address = (hit) => (hit.kind === "gpu" ? path("gpu", hit.id) : path("node", hit.cluster, hit.node));

function words(hit) {
  if (hit.kind === "node") return [hit.node, `node${several() ? ` in ${hit.cluster}` : ""}, machine ${hit.machine || "unknown"}`];
  const now = hit.places.filter((one) => one.presence === "present").map((one) => (several() ? `${one.cluster} / ${one.node}` : one.node));
  return [hit.id, now.length ? `now on ${now.slice(0, 2).join(", ")}${now.length > 2 ? ", …" : ""}${hit.count > now.length ? `, before on ${hit.count - now.length} more` : ""}` : `on no node now, before on ${hit.count}`];
}

function close() {
  list.hidden = true;
  field.setAttribute("aria-expanded", "false");
  field.removeAttribute("aria-activedescendant");
  at = -1;
}

function open(hit) {
  location.hash = address(hit);
  field.value = "";
  close();
  field.blur();
}

function choose(index) {
  at = hits.length ? (index + hits.length) % hits.length : -1;
  [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === at)));
  if (at >= 0) {
    field.setAttribute("aria-activedescendant", `hit-${at}`);
    list.children[at].scrollIntoView({ block: "nearest" });
  }
}

async function look() {
  const text = field.value.trim();
  const turn = ++asked;
  if (text.length < 2) return close();
  let found;
  try {
    found = await fetchJson(`api/search?${new URLSearchParams({ q: text })}`);
  } catch {
    found = null;
  }
  if (turn !== asked) return undefined;
  hits = found ?? [];
  const items = hits.map((hit, i) => {
    const [name, place] = words(hit);
    return h("li", { id: `hit-${i}`, role: "option", "aria-selected": "false", onmousedown: (event) => { event.preventDefault(); open(hit); } }, h("b", { class: "mono" }, name), h("span", null, place));
  });
  const none = found ? "Nothing has this in its name. Press Enter to ask the clusters." : "The page's server did not answer.";
  list.replaceChildren(...(items.length ? items : [h("li", { class: "none", role: "option", "aria-selected": "false" }, none)]));
  list.hidden = false;
  field.setAttribute("aria-expanded", "true");
  choose(0);
  return undefined;
}

field.addEventListener("input", look);
field.addEventListener("blur", close);
field.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    choose(at + (event.key === "ArrowDown" ? 1 : -1));
  } else if (event.key === "Escape") {
    field.value = "";
    close();
  } else if (event.key === "Enter" && field.value.trim()) {
    const chosen = at;
    const text = field.value.trim();
    look().then(() => open(hits[Math.max(chosen, 0)] ?? { kind: "gpu", id: text }));
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.closest("input, textarea")) {
    event.preventDefault();
    field.focus();
    field.select();
  }
});
