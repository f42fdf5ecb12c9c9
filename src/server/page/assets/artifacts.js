// Owns the view of what the node's store holds.

import { ask, digest, empty, fill, h, referenceName, since, size } from "./dom.js";

// How often the store is looked at while it is shown, in milliseconds.
const AGAIN = 10_000;
const CACHE = {
  mapped: ["mapped", "starts at once: its code is mapped in this node"],
  compiled: ["compiled", "its code is on disk"],
  stored: ["stored", "compiled at its first run"],
  unknown: ["stored", "an image: whether its code is compiled is known when it runs"],
  none: ["not run here", "not Wasm: it is kept and handed on"],
};
const HEAD = ["Artifact", "Form", "Size", "Code", "Trust", "Stored", "Used"];

function row(artifact) {
  const cell = (name, ...children) => h("td", { role: "cell", class: `a-${name}` }, ...children);
  const [word, meaning] = CACHE[artifact.cache] ?? [artifact.cache, ""];
  const verdict = h("span", {});
  const button = h("button", { type: "button", class: "small", onclick: async () => {
    button.disabled = true;
    try {
      const trust = await ask(`artifacts/${artifact.digest}`);
      fill(verdict, h("span", { class: "verdict", "data-verdict": trust.accepted ? (/^signed/.test(trust.reason) ? "yes" : "unsigned") : "no", title: trust.reason },
        trust.accepted ? trust.reason.replace(/ \(.*\)$/s, "") : trust.reason));
    } catch (error) {
      fill(verdict, h("span", { class: "bad" }, error.message));
    }
  } }, "Check");
  verdict.append(button);
  const names = artifact.tags.length ? artifact.tags.slice(0, 5).map((tag) => h("div", {}, referenceName(tag))) : h("span", { class: "dim" }, "no name");
  const left = artifact.tags.length > 5 ? h("span", { class: "dim" }, `and ${artifact.tags.length - 5} more names`) : null;
  return h("tr", { role: "row" },
    cell("name", names, left, h("span", { class: "under" }, digest(artifact.digest))),
    cell("form", artifact.form ?? h("span", { class: "dim" }, artifact.artifact_type ?? artifact.media_type)),
    cell("size", size(artifact.size)),
    cell("cache", h("span", { class: "chip", "data-cache": artifact.cache, title: meaning }, word)),
    cell("trust", verdict),
    cell("created", since("age", artifact.created, { title: new Date(artifact.created).toLocaleString() })),
    cell("used", since("age", artifact.last_used, { title: new Date(artifact.last_used).toLocaleString() })));
}

/** The view. */
export function artifactsView() {
  const body = h("tbody", { role: "rowgroup" });
  const table = h("table", { class: "artifacts", role: "table", "aria-label": "Artifacts in the store", hidden: true },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, HEAD.map((name) => h("th", { role: "columnheader", scope: "col" }, name)))), body);
  const nothing = h("div", {}, h("p", { class: "empty dim" }, "Loading…"));
  const count = h("p", { class: "count dim", title: "what two of them share is counted for each" });
  const rows = new Map();
  let shown = "";
  let timer = 0;
  let closed = false;

  async function read() {
    try {
      const found = [];
      let after = "";
      do {
        const page = await ask(`artifacts?limit=500${after && `&after=${encodeURIComponent(after)}`}`);
        found.push(...page.artifacts);
        after = page.next;
      } while (after && found.length < 5000);
      if (closed) return;
      found.sort((a, b) => (a.last_used < b.last_used ? 1 : -1));
      const now = JSON.stringify(found);
      if (now !== shown) {
        shown = now;
        draw(found);
      }
    } catch (error) {
      fill(nothing, empty("The store can't be shown", h("p", {}, error.message)));
    }
    if (!closed) timer = setTimeout(() => void read(), AGAIN);
  }

  function draw(found) {
    const kept = found.map((artifact) => {
      const text = JSON.stringify(artifact);
      const before = rows.get(artifact.digest);
      // A row that is as it was keeps what was asked for.
      const made = before?.text === text ? before : { text, element: row(artifact) };
      rows.set(artifact.digest, made);
      return made.element;
    });
    fill(body, kept);
    table.hidden = found.length === 0;
    const bytes = found.reduce((sum, artifact) => sum + artifact.size, 0);
    count.textContent = found.length === 0 ? "" : `${found.length} ${found.length === 1 ? "artifact" : "artifacts"}, ${size(bytes)}`;
    fill(nothing, found.length === 0 && empty("The store is empty",
      h("p", {}, "What is pushed to this node or run on it is kept here:"),
      h("pre", {}, `vyr push ${location.host}/hello:v1 hello.wasm`)));
  }

  void read();
  return {
    title: "Artifacts",
    element: h("section", { class: "view", "aria-labelledby": "artifacts-title" },
      h("div", { class: "tools" }, h("h1", { id: "artifacts-title", class: "unseen", tabindex: "-1" }, "Artifacts"), count),
      h("div", { class: "panel" }, table, nothing)),
    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
}
