// Owns a trace as bars: each span where its time was, below its parent, with those that made the whole as long as it was.

import { fill, h, nodeTime, span } from "./dom.js";

// More than these are not drawn.
const MOST = 400;

/** The spans in the order in which they are drawn: each before those below it, these by their beginning. */
function ordered(spans) {
  const below = new Map();
  const known = new Set(spans.map((one) => one.span_id));
  for (const one of spans) {
    const parent = known.has(one.parent_span_id) ? one.parent_span_id : null;
    below.set(parent, [...(below.get(parent) ?? []), one]);
  }
  const rows = [];
  const walk = (parent, depth) => {
    const children = (below.get(parent) ?? []).sort((a, b) => a.start_us - b.start_us);
    for (const one of children) {
      if (rows.length >= MOST) return;
      rows.push({ one, depth });
      below.set(parent, []);
      walk(one.span_id, depth + 1);
    }
  };
  walk(null, 0);
  return rows;
}

/** Marks at round times, some five of them. */
function marks(length) {
  const rough = length / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough) ?? length;
  const found = [];
  for (let at = 0; at < length * 0.97; at += step) found.push(at);
  return found;
}

/** The waterfall of one trace. */
export function waterfall() {
  const element = h("div", { class: "waterfall" }, h("p", { class: "dim pad" }, "Loading…"));
  let trace = null;
  let timer = 0;
  // The axis ends where the guest began: what came before is too short to be seen beside a long run.
  let close = false;
  const open = new Set();
  const choices = [[false, "All"], [true, "To the start"]].map(([value, text]) =>
    h("button", { type: "button", "aria-pressed": String(value === close), onclick: () => {
      close = value;
      choices.forEach((button, at) => button.setAttribute("aria-pressed", String((at === 1) === close)));
      draw();
    } }, text));
  const tools = h("div", { class: "choices", role: "group", "aria-label": "Scale", hidden: true }, choices);

  function draw() {
    const now = nodeTime() * 1000;
    const rows = ordered(trace.spans);
    if (rows.length === 0) {
      fill(element, h("p", { class: "dim pad" }, "No spans are kept of this task."));
      return;
    }
    const end = (one) => one.end_us ?? Math.max(now, one.start_us);
    const from = Math.min(...rows.map(({ one }) => one.start_us));
    const whole = Math.max(1, Math.max(...rows.map(({ one }) => end(one))) - from);
    const begun = (trace.spans.find((one) => one.name === "execute")?.start_us ?? from) - from;
    tools.hidden = begun <= 0 || begun > whole * 0.4;
    const length = close && !tools.hidden ? begun * 1.05 : whole;
    const percent = (us) => `${(us / length) * 100}%`;
    const grid = marks(length);
    const lines = () => grid.map((at) => h("i", { class: "line", style: { left: percent(at) } }));

    const line = ({ one, depth }) => {
      const parent = trace.spans.some((other) => other.parent_span_id === one.span_id);
      const about = Object.entries(one.attributes ?? {});
      const more = about.length > 0 || Boolean(one.error);
      const duration = `${span(end(one) - one.start_us)}${one.end_us === null ? "…" : ""}`;
      const kinds = ["bar", one.critical && "critical", one.error && "failed", one.end_us === null && "going", parent && "parent"];
      const words = [one.critical && "on the critical path", one.error && "failed", one.end_us === null && "going on"].filter(Boolean);
      const details = h("dl", { class: "about", hidden: !open.has(one.span_id) },
        one.error && h("div", { class: "bad" }, h("dt", {}, "error"), h("dd", {}, one.error)),
        h("div", {}, h("dt", {}, "begins"), h("dd", {}, `+${span(one.start_us - from)}`)),
        about.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, String(value)))));
      const button = h("button", {
        type: "button", class: "span", "aria-expanded": String(open.has(one.span_id)), disabled: !more,
        onclick: () => {
          if (!open.delete(one.span_id)) open.add(one.span_id);
          details.hidden = !details.hidden;
          button.setAttribute("aria-expanded", String(!details.hidden));
        },
      },
      h("span", { class: "name", style: { "--depth": String(Math.min(depth, 8)) } }, one.name,
        words.length > 0 && h("span", { class: "unseen" }, `, ${words.join(", ")}`)),
      h("span", { class: "track" }, lines(), h("span", {
        class: kinds.filter(Boolean).join(" "),
        // One at the very end is seen, too.
        style: { left: `min(${percent(one.start_us - from)}, 100% - 3px)`, width: percent(end(one) - one.start_us) },
      })),
      h("span", { class: "length" }, duration));
      return h("li", {}, button, details);
    };
    const focused = element.contains(document.activeElement) ? [...element.querySelectorAll("button")].indexOf(document.activeElement) : -1;
    fill(element,
      h("div", { class: "axis", "aria-hidden": "true" }, h("span", {}), h("span", { class: "track" },
        grid.map((at) => h("span", { class: "when", style: { left: percent(at) } }, at === 0 ? "0" : span(at)))), h("span", {})),
      h("ol", { class: "spans" }, rows.map(line)),
      h("p", { class: "legend dim", "aria-hidden": "true" },
        h("span", {}, h("i", { class: "bar critical" }), "critical path"), h("span", {}, h("i", { class: "bar" }), "beside it"),
        h("span", {}, h("i", { class: "bar failed" }), "failed"),
        trace.spans.length > MOST && h("span", {}, `the first ${MOST} of ${trace.spans.length} spans`)));
    if (focused >= 0) element.querySelectorAll("button")[focused]?.focus({ preventScroll: true });
  }

  return {
    element,
    tools,
    show(found) {
      clearInterval(timer);
      trace = found;
      draw();
      if (found.spans.some((one) => one.end_us === null)) timer = setInterval(draw, 500);
    },
    fail(error) {
      clearInterval(timer);
      fill(element, h("p", { class: "bad pad" }, `The trace can't be shown: ${error.message}`));
    },
    close: () => clearInterval(timer),
  };
}
