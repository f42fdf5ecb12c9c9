// Owns the frame: which view is shown, what the node tells of it as it happens, and the node's gauges.

import { ask, clean, empty, h, setClock, since, size, tick, fill } from "./dom.js";
import { artifactsView } from "./artifacts.js";
import { nodeView } from "./node.js";
import { taskView } from "./task.js";
import { tasksView } from "./tasks.js";

const EVENTS = ["tasks", "task", "problem"];
// How long to wait before the node is asked again, the first time and at most, in milliseconds.
const AGAIN = [500, 10_000];

const at = (id) => document.getElementById(id);
const state = { node: null, view: null, stream: null, wait: AGAIN[0], timer: 0 };

/** The address after `#`: a path and parameters. */
function place() {
  const [path, parameters] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean), parameters: new URLSearchParams(parameters) };
}

function viewOf({ parts, parameters }) {
  const [name, id] = parts;
  if (name === "tasks" && id) return taskView(id);
  if (name === "artifacts") return artifactsView();
  if (name === "node") return nodeView();
  return tasksView(parameters, restart);
}

function show() {
  const found = place();
  const [name = "tasks", id] = found.parts;
  state.view?.close?.();
  const view = viewOf(found);
  state.view = view;
  fill(at("main"), view.element);
  for (const tab of document.querySelectorAll("[data-tab]")) {
    if (tab.dataset.tab === name) tab.setAttribute("aria-current", id ? "true" : "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = `${view.title} · VYR`;
  if (state.node) view.on?.("node", state.node);
  scrollTo(0, 0);
  restart();
}

/** Listens anew, for what the view shows now. */
function restart() {
  clearTimeout(state.timer);
  state.stream?.close();
  state.stream = null;
  // A browser has six connections to a node over plain HTTP: pages that nobody sees must not hold them.
  if (document.visibilityState === "hidden") return;
  const stream = new EventSource(`/page/v0/events?${state.view.query?.() ?? ""}`);
  state.stream = stream;
  const view = state.view;
  stream.addEventListener("clock", (event) => {
    setClock(JSON.parse(event.data).now);
    state.wait = AGAIN[0];
    notice("");
  });
  stream.addEventListener("node", (event) => {
    state.node = JSON.parse(event.data);
    header(state.node);
    view.on?.("node", state.node);
  });
  for (const name of EVENTS) {
    stream.addEventListener(name, (event) => {
      if (state.view !== view) return;
      const data = JSON.parse(event.data);
      if (name === "problem") problem(data);
      else view.on?.(name, data);
    });
  }
  stream.addEventListener("error", () => {
    if (state.stream !== stream) return;
    stream.close();
    void lost();
    state.timer = setTimeout(restart, state.wait);
    state.wait = Math.min(state.wait * 2, AGAIN[1]);
  });
}

function problem(error) {
  // What is gone stays gone: it is not asked for again.
  state.stream?.close();
  state.stream = null;
  const next = error.next && h("p", {}, error.next);
  if (error.kind === "not_found" || error.kind === "usage") {
    fill(at("main"), empty(error.why, next, h("p", {}, h("a", { href: "#/tasks" }, "All tasks"))));
    state.view = { title: "Not found", element: null };
    restart();
    return;
  }
  notice(`${error.why}${error.next ? ` – ${error.next}` : ""}`);
  state.timer = setTimeout(restart, AGAIN[1]);
}

/** Says why nothing new is told: the browser doesn't tell what the stream was answered. */
async function lost() {
  const health = at("health");
  try {
    await ask("node");
    if (!state.stream || state.stream.readyState === EventSource.CLOSED) {
      notice("The node tells nothing new: too many pages may be open on it. The page tries again by itself.");
    }
  } catch (error) {
    health.dataset.state = "lost";
    health.textContent = "not reached";
    notice(error.status === 401 ? "The node wants a credential: load the page again to give one."
      : "The node can't be reached. What is shown may be old; the page tries again by itself.");
  }
}

function notice(text) {
  const element = at("notice");
  element.hidden = text === "";
  if (element.textContent !== text) element.textContent = clean(text);
}

function header(node) {
  at("host").textContent = clean(node.host);
  at("version").textContent = `vyr ${clean(node.version)}`;
  const health = at("health");
  const [mark, word] = node.stopping ? ["stopping", "stopping"] : node.queued >= node.max_queued ? ["full", "queue full"] : ["ok", "healthy"];
  health.dataset.state = mark;
  if (health.textContent !== word) health.textContent = word;
  const gauge = (id, text, of, title) => {
    const value = at(id);
    value.textContent = text;
    const share = Math.min(1, Math.max(0, of));
    value.parentElement.title = title;
    value.parentElement.querySelector("i")?.style.setProperty("--share", share === 0 ? "0" : String(Math.max(share, 0.02)));
  };
  const count = (number) => number.toLocaleString("en");
  gauge("running", count(node.running), node.running / node.max_running, `${count(node.running)} of ${count(node.max_running)} places`);
  gauge("queued", count(node.queued), node.queued / node.max_queued, `${count(node.queued)} of ${count(node.max_queued)} may wait`);
  gauge("memory", size(node.memory_bytes), node.memory_bytes / node.memory_budget_bytes,
    `${size(node.memory_bytes)} of ${size(node.memory_budget_bytes)} for guests`);
  fill(at("uptime"), since("whole", node.started_at));
}

addEventListener("hashchange", () => {
  show();
  state.view.element.querySelector("h1")?.focus({ preventScroll: true });
});
document.addEventListener("visibilitychange", restart);
setInterval(() => document.visibilityState === "visible" && tick(), 250);
addEventListener("keydown", (event) => {
  const search = document.querySelector('input[type="search"]');
  if (event.key !== "/" || !search || event.ctrlKey || event.metaKey || event.target instanceof HTMLInputElement) return;
  event.preventDefault();
  search.focus();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  at("main").focus();
});
show();
