// Routes addresses to views, and keeps the shown view in step with the fleet.
import { badge, h, number } from "./dom.js";
import { gpu, node } from "./details.js";
import { nodes, quarantines, sinks } from "./lists.js";
import { map } from "./map.js";
import { overview } from "./overview.js";
import { clusters, connect, departed, onChange, store } from "./store.js";
import "./search.js";

const main = document.getElementById("main");
const strip = document.getElementById("clusters");
const live = document.getElementById("live");
let view = null;
let shown = null;

function route() {
  const [place, words] = (location.hash.replace(/^#\/?/, "") || "").split("?");
  const [name, ...rest] = place.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  const params = new URLSearchParams(words);
  const views = { "": overview, map, nodes: () => nodes(params), quarantines, sinks, gpu: () => gpu(rest[0] ?? ""), node: () => node(rest[0] ?? "", rest[1] ?? "") };
  const found = (views[name] ?? (() => [h("h1", null, "No such view"), h("p", { class: "state" }, "This address has no view. ", h("a", { href: "#/" }, "Open the overview"))]))();
  return { name, ...(Array.isArray(found) ? { content: found } : found) };
}

function render(navigated) {
  const focused = main.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  view = route();
  main.replaceChildren(...view.content.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  document.title = `${main.querySelector("h1")?.textContent ?? "Fleet"} · gpuid`;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.getAttribute("href") === `#/${view.name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (navigated) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  } else if (focused) {
    main.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
}

function states() {
  const tones = { ready: "ok", loading: "quiet", error: "bad", forbidden: "bad" };
  const text = { ready: "live", loading: "loading", error: "error", forbidden: "no permission" };
  const items = clusters("nodes").map((one) => {
    const count = [...store.nodes.values()].filter((node) => node.cluster === one.cluster && !departed(node)).length;
    return h("span", { class: "cluster" }, h("b", null, one.cluster), badge(tones[one.state], text[one.state]), h("span", null, `${number(count)} nodes`), one.message ? h("span", { class: "why" }, one.message) : null);
  });
  if (!store.connected) items.unshift(h("span", { class: "cluster" }, badge("bad", "not connected"), h("span", null, "kubectl gpuid ui has ended or does not answer; the page shows what it last knew.")));
  return items;
}

function refresh(change) {
  const next = states();
  if (next.map((one) => one.textContent).join() !== shown) {
    shown = next.map((one) => one.textContent).join();
    strip.replaceChildren(...next);
  }
  if (!store.loaded) return;
  if (!view || !view.update || !view.update(change)) render(false);
  const changed = change ? change.nodes.length + change.gone.length : 0;
  if (changed && !clusters("nodes").some((one) => one.state === "loading")) live.textContent = changed === 1 && change.nodes.length ? `${change.nodes[0].name} changed` : `${number(changed)} objects changed`;
}

const THEMES = ["system", "light", "dark"];
const button = document.getElementById("theme");
function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  button.textContent = `Theme: ${name}`;
  localStorage.setItem("theme", name);
}
theme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system");
button.addEventListener("click", () => theme(THEMES[(THEMES.indexOf(localStorage.getItem("theme")) + 1) % THEMES.length]));
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });

addEventListener("hashchange", () => store.loaded && render(true));
onChange(refresh);
connect();
