// Owns the view of the node itself.

import { ask, fill, h, moment, since, size } from "./dom.js";

// How often the states are looked at while they are shown, in milliseconds.
const AGAIN = 5_000;
// How many of them are shown.
const STATES = 100;

function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter((row) => row[1] !== null)
    .map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value))));
}

const count = (number) => number.toLocaleString("en");

/** A state as a row: what it is, how full, how far behind its sync. */
function stateRow(state) {
  const cell = (name, ...children) => h("td", { role: "cell", class: `s-${name}` }, ...children);
  const sync = state.sync;
  const behind = !sync ? h("span", { class: "dim" }, "–")
    : sync.forks.length ? h("span", { class: "bad", title: sync.forks.map((fork) => `${fork.writer} goes on after ${fork.after} as well`).join("; ") }, "forked")
    : sync.segments_pending ? h("span", { title: sync.error ?? sync.target, class: sync.error ? "bad" : null }, `${count(sync.segments_pending)} pending`)
    : h("span", { title: sync.target }, "in step");
  return h("tr", { role: "row", "data-state": state.name },
    cell("name", state.name, h("span", { class: "under dim" }, state.bindings.map((bound) => bound.artifact).join(", "))),
    cell("class", state.kind === "kv" ? `${state.class}, kv` : state.class),
    cell("used", `${size(state.used_bytes)} of ${size(state.quota_bytes)}`),
    cell("sync", behind));
}

const NO_STATES = ["No states yet. Tasks bind them as folders:", "vyr state create readings"];

/** The view. */
export function nodeView() {
  const about = h("div", {}, h("p", { class: "dim" }, "Loading…"));
  const load = h("div", {});
  const states = h("div", {}, h("p", { class: "dim pad" }, "Loading…"));
  let timer = 0;
  let closed = false;
  const section = (key, title, ...children) => h("section", { class: "panel", "aria-labelledby": `${key}-title` },
    h("h2", { id: `${key}-title` }, title), ...children);
  const link = (path, what) => h("li", {}, h("a", { href: path }, h("code", {}, path)), h("span", { class: "dim" }, ` ${what}`));
  const url = `${location.protocol}//${location.host}`;
  async function readStates() {
    try {
      const page = await ask(`states?limit=${STATES}`);
      if (closed) return;
      const head = ["Name", "Class", "Used", "Sync"].map((name) => h("th", { role: "columnheader", scope: "col" }, name));
      const rows = page.states.map(stateRow);
      fill(states, rows.length
        ? h("table", { class: "states", role: "table", "aria-label": "States" },
          h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), h("tbody", { role: "rowgroup" }, rows))
        : [h("p", { class: "dim pad" }, NO_STATES[0]), h("pre", {}, NO_STATES[1])],
      page.next ? h("p", { class: "dim pad" }, `The first ${STATES}; vyr state ls has them all.`) : null);
    } catch (error) {
      fill(states, h("p", { class: "bad pad" }, error.message));
    }
    if (!closed) timer = setTimeout(() => void readStates(), AGAIN);
  }

  void readStates();
  return {
    title: "Node",
    close() {
      closed = true;
      clearTimeout(timer);
    },
    element: h("div", { class: "view" }, h("h1", { class: "unseen", tabindex: "-1" }, "Node"),
      h("div", { class: "halves" },
        section("about", "This node", about),
        section("load", "Load and limits", load),
        section("doors", "The same port", h("ul", { class: "plain" },
          link("/healthz", "whether it is there"), link("/metrics", "for Prometheus"), link("/v2/_catalog", "its OCI registry")),
        h("p", { class: "dim pad" }, "Programs use Control API v0 (gRPC). In a terminal:"), h("pre", {}, `vyr tasks --node ${url}`)),
        section("states", "States", states))),
    on(name, node) {
      if (name !== "node") return;
      fill(about, facts([
        ["Host", node.host],
        ["Health", node.stopping ? "stopping: it takes no more submits" : "serving"],
        ["Version", `vyr ${node.version}`, h("span", { class: "dim" }, ` with Wasmtime ${node.wasmtime_version}`)],
        ["Platform", `${node.os} ${node.architecture}`],
        ["Started", moment(node.started_at), " ", since("age", node.started_at, { class: "dim" }), h("span", { class: "dim" }, " ago")],
        ["Runs", node.capabilities.join(", ")],
        ["Unsigned", node.allows_unsigned ? h("span", { class: "bad" }, "a submit may overrule the trust policy") : "never by a submit's wish"],
        ["Confined", node.confined_by.length ? `by ${node.confined_by.join(" and ")}` : h("span", { class: "bad" }, "not at all")],
        ["You are", node.caller],
      ]));
      fill(load, facts([
        ["Running", `${count(node.running)} of ${count(node.max_running)} places`],
        ["Queued", `${count(node.queued)} of ${count(node.max_queued)}`],
        ["Guests' memory", `${size(node.memory_bytes)} of ${size(node.memory_budget_bytes)}`],
        ["Disk", node.disk_bytes === null ? null : `${size(node.disk_free_bytes)} of ${size(node.disk_bytes)} free`],
      ]));
    },
  };
}
