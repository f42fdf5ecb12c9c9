// Owns the view of the node itself.

import { fill, h, moment, since, size } from "./dom.js";

function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter((row) => row[1] !== null)
    .map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value))));
}

const count = (number) => number.toLocaleString("en");

/** The view. */
export function nodeView() {
  const about = h("div", {}, h("p", { class: "dim" }, "Loading…"));
  const load = h("div", {});
  const section = (key, title, ...children) => h("section", { class: "panel", "aria-labelledby": `${key}-title` },
    h("h2", { id: `${key}-title` }, title), ...children);
  const link = (path, what) => h("li", {}, h("a", { href: path }, h("code", {}, path)), h("span", { class: "dim" }, ` ${what}`));
  const url = `${location.protocol}//${location.host}`;
  return {
    title: "Node",
    element: h("div", { class: "view" }, h("h1", { class: "unseen", tabindex: "-1" }, "Node"),
      h("div", { class: "halves" },
        section("about", "This node", about),
        section("load", "Load and limits", load),
        section("doors", "The same port", h("ul", { class: "plain" },
          link("/healthz", "whether it is there"), link("/metrics", "for Prometheus"), link("/v2/_catalog", "its OCI registry")),
        h("p", { class: "dim pad" }, "Programs use Control API v0 (gRPC). In a terminal:"), h("pre", {}, `vyr tasks --node ${url}`)),
        // States are listed here once the node has them: their names, sizes and how far behind their sync is.
        section("states", "States", h("p", { class: "dim pad" },
          "This version of the node has no state: ListStates of its API answers UNIMPLEMENTED.")))),
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
