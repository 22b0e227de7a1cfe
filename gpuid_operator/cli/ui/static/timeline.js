// Placements as bars over time. The table beside it says the same in words.
import { h, svg, time } from "./dom.js";

const ROW = 34;
const LEFT = 210;
const TOP = 30;

const moment = (text) => (text ? Date.parse(text) : null);

function ticks(from, to, wide) {
  const steps = [1, 5, 15, 60, 360, 1440, 10080, 43200, 259200, 525600].map((minutes) => minutes * 60000);
  const step = steps.find((one) => (to - from) / one <= wide / 120) ?? steps.at(-1) * Math.ceil((to - from) / steps.at(-1) / 8);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found.map((at) => [at, step >= 86400000 ? new Date(at).toISOString().slice(0, 10) : new Date(at).toISOString().slice(5, 16).replace("T", " ")]);
}

/** `lanes`: [{label, href, bars: [{since, until, present, tone, words}]}]. */
export function timeline(title, lanes) {
  const frame = h("div", { class: "timeline" });
  const now = Date.now();
  const known = lanes.flatMap((lane) => lane.bars.flatMap((bar) => [moment(bar.since), moment(bar.until)])).filter(Boolean);
  const first = Math.min(now - 3600000, ...known);
  const from = first - (now - first) * 0.04;
  const draw = (width) => {
    const wide = Math.max(320, width - LEFT - 16);
    const x = (at) => LEFT + ((at - from) / (now - from)) * wide;
    const height = TOP + lanes.length * ROW + 8;
    const axis = ticks(from, now, wide).map(([at, text]) => [
      svg("line", { x1: x(at), x2: x(at), y1: TOP - 6, y2: height - 6, class: "grid" }),
      svg("text", { x: x(at), y: 14, class: "tick", "text-anchor": x(at) > LEFT + wide - 40 ? "end" : "middle" }, text)]);
    const rows = lanes.map((lane, row) => {
      const y = TOP + row * ROW;
      return [
        svg("a", { href: lane.href }, svg("text", { x: 0, y: y + 19, class: "lane" }, lane.label.length > 27 ? `${lane.label.slice(0, 26)}…` : lane.label), svg("title", null, lane.label)),
        lane.bars.map((bar) => {
          const start = moment(bar.since) ?? Math.min(from, moment(bar.until) ?? from);
          const end = bar.present ? now : moment(bar.until) ?? Math.max(start, start + (now - from) * 0.03);
          const a = x(start);
          const b = Math.max(a + 5, x(end));
          return [
            svg("rect", { x: a, y: y + 4, width: b - a, height: ROW - 12, rx: 4, class: `span ${bar.tone}` }, svg("title", null, bar.words)),
            !bar.since && svg("line", { x1: a, x2: a, y1: y + 2, y2: y + ROW - 6, class: "open" }),
            !bar.until && !bar.present && svg("line", { x1: b, x2: b, y1: y + 2, y2: y + ROW - 6, class: "open" }),
            b - a > 90 && svg("text", { x: a + 8, y: y + 19, class: `inside ${bar.tone}` }, bar.present ? "now" : "past")];
        })];
    });
    frame.replaceChildren(svg("svg", { width: LEFT + wide + 16, height, role: "img", "aria-label": `${title}. The table that follows says the same.` }, axis, rows));
  };
  draw(900);
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width && width !== last) draw((last = width));
  }).observe(frame);
  return frame;
}

export const since = (row) => time(row.since) ?? "unknown";
export const until = (row) => (row.present ? "now" : time(row.until) ?? "unknown");
