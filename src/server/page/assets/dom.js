// Owns how things become text and elements. Output, labels and names are chosen by strangers: they only ever become text.

// Sequences that steer a terminal: colours, titles, the cursor.
const STEERING = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\-_])/g;
// Control characters, and those that are not seen or turn the direction of writing.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

/** Text without what would steer who reads it. */
export function clean(text) {
  return String(text).replace(STEERING, "").replace(/\r\n?/g, "\n").replace(HIDDEN, "");
}

/** An element. Children are elements and text; `on…` attributes are functions, `style` is an object. */
export function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else element.setAttribute(key, value === true ? "" : clean(value));
  }
  element.append(...parts(children));
  return element;
}

/** Replaces what is in an element. */
export function fill(element, ...children) {
  element.replaceChildren(...parts(children));
  return element;
}

function parts(children) {
  const there = children.flat(2).filter((child) => child !== undefined && child !== null && child !== false);
  return there.map((child) => (child instanceof Node ? child : document.createTextNode(clean(child))));
}

const SHAPES = {
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  done: "M3 8.5l3.2 3.2L13 5",
  back: "M9.5 3.5L5 8l4.5 4.5",
};

function icon(shape) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", SHAPES[shape]);
  svg.append(path);
  return svg;
}

export const backIcon = () => icon("back");

/** Says something to who doesn't see the page. */
export function say(text) {
  document.getElementById("said").textContent = clean(text);
}

/** A button that copies. Browsers let only pages that came over TLS or from this machine do so. */
export function copyButton(text, what) {
  if (!navigator.clipboard) return null;
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${what}`, title: `Copy ${what}` }, icon("copy"));
  button.addEventListener("click", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      say("The browser did not let it be copied");
      return;
    }
    say(`Copied ${what}`);
    button.classList.add("done");
    fill(button, icon("done"));
    setTimeout(() => {
      button.classList.remove("done");
      fill(button, icon("copy"));
    }, 1200);
  });
  return button;
}

/** A digest, cut, to be copied whole. */
export function digest(text, what = "digest", length = 12) {
  if (!text) return h("span", { class: "dim" }, "–");
  const hex = text.slice(text.indexOf(":") + 1);
  return h("span", { class: "digest" }, h("code", { title: text }, hex.slice(0, length)), copyButton(text, what));
}

/** What a reference consists of. */
export function parseReference(reference) {
  const at = reference.lastIndexOf("@");
  if (at < 0 && /^sha(256|512):/.test(reference)) return { host: "", name: "", tag: "", digest: reference };
  const rest = at < 0 ? reference : reference.slice(0, at);
  const slash = rest.indexOf("/");
  const first = slash < 0 ? "" : rest.slice(0, slash);
  const host = /[.:]|^localhost$/.test(first) ? first : "";
  const path = host ? rest.slice(slash + 1) : rest;
  const colon = path.lastIndexOf(":");
  const name = colon < 0 ? path : path.slice(0, colon);
  return { host, name, tag: colon < 0 ? "" : path.slice(colon + 1), digest: at < 0 ? "" : reference.slice(at + 1) };
}

/** A reference without its digest, the part that people go by standing out. */
export function referenceName(reference) {
  const { host, name, tag, digest: hex } = parseReference(reference);
  if (!name) return h("span", { class: "ref" }, h("b", {}, hex.slice(0, 19)));
  return h("span", { class: "ref", title: reference },
    host && h("span", { class: "dim host-part" }, `${host}/`), h("b", {}, name), tag && h("span", {}, `:${tag}`));
}

/** A span of time, with two or three digits that matter. Number and unit stay together. */
export function span(us) {
  if (us < 1000) return `${Math.max(0, Math.round(us))}\u00a0µs`;
  if (us < 10_000) return `${(us / 1000).toFixed(1)}\u00a0ms`;
  if (us < 1_000_000) return `${Math.round(us / 1000)}\u00a0ms`;
  if (us < 60_000_000) return `${(Math.floor(us / 100_000) / 10).toFixed(1)}\u00a0s`;
  const seconds = Math.floor(us / 1_000_000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)}\u00a0m\u00a0${String(seconds % 60).padStart(2, "0")}\u00a0s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}\u00a0h\u00a0${String(Math.floor(seconds / 60) % 60).padStart(2, "0")}\u00a0m`;
  return `${Math.floor(seconds / 86_400)}\u00a0d\u00a0${Math.floor(seconds / 3600) % 24}\u00a0h`;
}

/** A time that has passed, in its largest unit alone. */
export function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86_400)}d`;
}

/** A size. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)}\u00a0${units[unit]}`;
}

/** A time of the day, with the day where it isn't today. */
export function moment(text) {
  if (!text) return "–";
  const at = new Date(text);
  const time = at.toLocaleTimeString([], { hour12: false });
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString()} ${time}`;
}

// How far this browser's clock is behind the node's, in milliseconds.
let behind = 0;

export const setClock = (now) => {
  behind = new Date(now).getTime() - Date.now();
};

/** The time on the node, in milliseconds. */
export const nodeTime = () => Date.now() + behind;

const whole = (ms) => (ms < 60_000 ? `${Math.max(0, Math.floor(ms / 1000))} s` : span(ms * 1000));
const ticking = { took: (ms) => span(ms * 1000), whole, age };

/** Text that goes on with time since a moment: `took`, in `whole` seconds, or `age`. */
export function since(kind, from, attributes) {
  const start = new Date(from).getTime();
  const text = ticking[kind](nodeTime() - start);
  return h("span", { ...attributes, "data-tick": kind, "data-from": String(start) }, text);
}

/** Brings all such text up to date. */
export function tick() {
  for (const element of document.querySelectorAll("[data-tick]")) {
    const text = ticking[element.dataset.tick](nodeTime() - Number(element.dataset.from));
    if (element.textContent !== text) element.textContent = text;
  }
}

/** A status, by colour and word. */
export function chip(status) {
  return h("span", { class: "chip", "data-status": status }, String(status).replaceAll("_", " "));
}

/** How long a task's guest ran, or has run so far. */
export function took(task) {
  if (task.run_us !== null && task.run_us !== undefined) return h("span", {}, span(task.run_us));
  if (task.started_at && !task.ended_at) return since("took", task.started_at);
  if (task.started_at) return h("span", {}, span((new Date(task.ended_at) - new Date(task.started_at)) * 1000));
  return h("span", { class: "dim" }, "–");
}

/** Asks the node for a document. */
export async function ask(path) {
  const answer = await fetch(`/page/v0/${path}`, { headers: { accept: "application/json" } });
  const document = await answer.json().catch(() => null);
  if (answer.ok && document) return document;
  const error = new Error(document?.error?.why ?? `the node answered ${answer.status}`);
  error.next = document?.error?.next;
  error.status = answer.status;
  throw error;
}

/** What is shown where there is nothing. */
export function empty(title, ...rest) {
  return h("div", { class: "empty" }, h("p", { class: "title" }, title), ...rest);
}
