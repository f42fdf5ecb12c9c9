// Owns the list of tasks: narrowed by status at the node, by words here, and kept as it changes.

import { ask, chip, digest, empty, fill, h, parseReference, referenceName, since, took } from "./dom.js";

// What the choices mean to the node.
const CHOICES = [
  ["all", "All", ""],
  ["active", "Active", "queued,preparing,running"],
  ["succeeded", "Succeeded", "succeeded"],
  ["failed", "Failed", "failed"],
  ["refused", "Refused", "refused"],
  ["timed_out", "Timed out", "timed_out"],
  ["cancelled", "Cancelled", "cancelled"],
  ["lost", "Lost", "lost"],
];
const HEAD = ["Status", "Artifact", "Duration", "Result", "Tier", "Submitter", "Age"];

// What was there already at a start: in a word, and in full.
export const TIERS = {
  S0: ["pulled", "S0: nothing was there; pulled, verified, compiled"],
  S1: ["compiled", "S1: it was in the store; compiled now"],
  S2: ["from disk", "S2: compiled code was on disk"],
  S3: ["mapped", "S3: compiled code was mapped in the node"],
};

/** How a task ended, in short. */
export function result(task) {
  if (task.exit_code !== null && task.exit_code !== undefined) {
    return h("span", { class: task.exit_code === 0 ? "" : "bad" }, `exit ${task.exit_code}`);
  }
  if (!task.end_reason) return h("span", { class: "dim" }, task.attempt > 1 ? `attempt ${task.attempt}` : "–");
  const words = task.end_reason.replaceAll("_", " ");
  const bad = task.status !== "cancelled" && task.status !== "succeeded";
  return h("span", { class: bad ? "bad" : "", title: task.message }, words);
}

function words(task) {
  const labels = Object.entries(task.labels).map(([key, value]) => `${key}=${value}`);
  return [task.id, task.reference, task.digest, task.status, task.end_reason, task.submitter, task.message, ...labels]
    .join("\n").toLowerCase();
}

function row(task) {
  const known = task.digest ?? parseReference(task.reference).digest;
  const labels = Object.entries(task.labels).slice(0, 4).map(([key, value]) => h("span", { class: "label" }, `${key}=${value}`));
  const cell = (name, ...children) => h("td", { role: "cell", class: `c-${name}` }, ...children);
  return h("tr", { role: "row", "data-id": task.id, "data-status": task.status },
    cell("status", chip(task.status)),
    cell("artifact",
      h("a", { class: "open", href: `#/tasks/${task.id}` }, referenceName(task.reference), h("span", { class: "unseen" }, `, task ${task.id}`)),
      h("span", { class: "under" }, known && digest(known), h("span", { class: "dim id", title: `task ${task.id}` }, `task …${task.id.slice(-12)}`), labels)),
    cell("took", took(task)),
    cell("result", result(task)),
    cell("tier", task.tier ? h("span", { title: TIERS[task.tier]?.[1] }, task.tier) : h("span", { class: "dim" }, "–")),
    cell("submitter", h("span", { title: task.submitter }, task.submitter)),
    cell("age", since("age", task.submitted_at, { title: new Date(task.submitted_at).toLocaleString() })));
}

function hint() {
  return empty("No tasks yet",
    h("p", {}, "Submit one to this node, and it appears here:"),
    h("pre", {}, "vyr submit localhost:5000/hello:v1 -- ARG…"));
}

/** The view. */
export function tasksView(parameters, restart) {
  let choice = CHOICES.some(([key]) => key === parameters.get("status")) ? parameters.get("status") : "all";
  let text = parameters.get("q") ?? "";
  // Rows by id: what was told, what is searched, its element.
  const rows = new Map();
  let order = [];
  let older = [];
  let next = null;
  let loaded = false;

  const body = h("tbody", { role: "rowgroup" });
  const table = h("table", { class: "tasks", role: "table", "aria-label": "Tasks, newest first" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, HEAD.map((name) => h("th", { role: "columnheader", scope: "col" }, name)))), body);
  const nothing = h("div", { class: "nothing" });
  const count = h("span", { class: "count dim" });
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => void load() }, "Load older tasks");
  const buttons = CHOICES.map(([key, name]) =>
    h("button", { type: "button", "data-choice": key, "aria-pressed": String(key === choice), onclick: () => choose(key) }, name));
  const search = h("input", {
    type: "search", placeholder: "Reference, id, label=value, submitter", "aria-label": "Narrow the tasks shown", "aria-keyshortcuts": "/", title: "/ comes here", value: text,
    autocomplete: "off", spellcheck: "false", oninput: (event) => {
      text = event.target.value;
      remember();
      arrange();
    },
  });
  const element = h("section", { class: "view", "aria-labelledby": "tasks-title" },
    h("div", { class: "tools" },
      h("h1", { id: "tasks-title", class: "unseen", tabindex: "-1" }, "Tasks"),
      h("div", { class: "choices", role: "group", "aria-label": "Status" }, buttons), search, count),
    h("div", { class: "panel" }, table, nothing), more);

  function remember() {
    const found = new URLSearchParams();
    if (choice !== "all") found.set("status", choice);
    if (text) found.set("q", text);
    history.replaceState(null, "", `#/tasks${found.size ? `?${found}` : ""}`);
  }

  function choose(key) {
    choice = key;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.choice === key));
    remember();
    rows.clear();
    [order, older, next, loaded] = [[], [], null, false];
    arrange();
    restart();
  }

  const statuses = () => CHOICES.find(([key]) => key === choice)[2];
  const fits = (task) => statuses() === "" || statuses().split(",").includes(task.status);

  function take(tasks, isNew) {
    for (const task of tasks) {
      const before = rows.get(task.id);
      const made = row(task);
      if (isNew && loaded && !before) made.classList.add("new");
      if (before?.element.contains(document.activeElement)) {
        before.element.replaceWith(made);
        made.querySelector(".open").focus({ preventScroll: true });
      } else {
        before?.element.replaceWith(made);
      }
      rows.set(task.id, { task, words: words(task), element: made });
    }
  }

  /** Puts the rows in their order; those that stand where they belong are left alone. */
  function arrange() {
    const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = [...order, ...older].map((id) => rows.get(id)).filter((found) => found && wanted.every((word) => found.words.includes(word)));
    let place = body.firstChild;
    for (const { element: one } of shown) {
      if (one === place) place = place.nextSibling;
      else body.insertBefore(one, place);
    }
    while (place) {
      const after = place.nextSibling;
      place.remove();
      place = after;
    }
    table.hidden = shown.length === 0;
    const total = order.length + older.length;
    count.textContent = !loaded ? "" : wanted.length ? `${shown.length} of ${total} loaded` : `${total}${next ? "+" : ""}`;
    more.hidden = next === null || total === 0;
    if (shown.length > 0 || !loaded) fill(nothing, loaded || shown.length > 0 ? null : h("p", { class: "empty dim" }, "Loading…"));
    else if (total === 0 && choice === "all") fill(nothing, hint());
    else {
      const what = total === 0 ? `No task is ${CHOICES.find(([key]) => key === choice)[1].toLowerCase()}` : "No loaded task has these words";
      fill(nothing, empty(what, h("p", {}, h("button", { type: "button", onclick: () => {
        text = search.value = "";
        choose("all");
      } }, "Show all tasks"))));
    }
  }

  async function load() {
    more.disabled = true;
    try {
      const status = statuses();
      const found = await ask(`tasks?before=${encodeURIComponent(next)}${status ? `&status=${status}` : ""}`);
      take(found.tasks, false);
      older.push(...found.tasks.map((task) => task.id).filter((id) => !order.includes(id) && !older.includes(id)));
      next = found.next;
    } finally {
      more.disabled = false;
      arrange();
    }
  }

  arrange();
  return {
    title: "Tasks",
    element,
    query: () => `view=tasks${statuses() ? `&status=${statuses()}` : ""}`,
    on(name, data) {
      if (name !== "tasks") return;
      take(data.tasks, true);
      if (older.length > 0) {
        // What newer tasks pushed off the first page stays, above those that were asked for.
        const pushed = order.filter((id) => !data.order.includes(id) && !older.includes(id) && fits(rows.get(id).task));
        older = [...pushed, ...older].filter((id) => !data.order.includes(id));
      } else {
        next = data.next;
      }
      order = data.order;
      loaded = true;
      const kept = new Set([...order, ...older]);
      for (const id of rows.keys()) if (!kept.has(id)) rows.delete(id);
      arrange();
    },
  };
}
