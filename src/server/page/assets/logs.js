// Owns a task's output: read piece by piece, as lines with their time and stream, followed while it runs.

import { ask, clean, fill, h, size } from "./dom.js";

// How much is shown before one has to ask for more, in characters, each time.
const SHOWN = 1 << 20;
// A longer line is cut into several.
const LINE = 4000;
// What steers a terminal, and goes on in the next write.
const UNFINISHED = /\u001b(?:\[[0-?]*[ -/]*|\][^\u0007\u001b]*)?$/;
// A longer one is none.
const STEERING = 200;

function timeOf(text) {
  const at = new Date(text);
  return `${at.toLocaleTimeString([], { hour12: false })}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

/** The panel with one task's output. */
export function logsPanel(id) {
  // A phone has no room for what is the same on most lines.
  const timed = !matchMedia("(max-width: 760px)").matches;
  const list = h("ol", { class: timed ? "lines" : "lines untimed", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Output" });
  const foot = h("p", { class: "foot dim", role: "status" });
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => {
    room = SHOWN;
    void read();
  } }, "Show more output");
  const toggle = (name, text, pressed) => h("button", { type: "button", "aria-pressed": String(pressed), "data-toggle": name, onclick: (event) => {
    const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
    event.currentTarget.setAttribute("aria-pressed", String(on));
    flip[name](on);
  } }, text);
  const only = ["all", "stdout", "stderr"].map((name) => h("button", { type: "button", "aria-pressed": String(name === "all"), "data-only": name, onclick: () => {
    list.dataset.only = name;
    for (const button of only) button.setAttribute("aria-pressed", String(button.dataset.only === name));
  } }, name));
  const flip = {
    times: (on) => list.classList.toggle("untimed", !on),
    wrap: (on) => list.classList.toggle("unwrapped", !on),
    follow: (on) => {
      following = on;
      if (on) list.scrollTop = list.scrollHeight;
    },
  };
  const followButton = toggle("follow", "Follow", true);
  const element = h("section", { class: "panel logs", "aria-labelledby": "logs-title" },
    h("div", { class: "titled" }, h("h2", { id: "logs-title" }, "Output"),
      h("div", { class: "choices", role: "group", "aria-label": "Stream" }, only),
      h("div", { class: "choices", role: "group", "aria-label": "Show" }, toggle("times", "Times", timed), toggle("wrap", "Wrap", true), followButton)),
    list, more, foot);

  let offset = 0;
  let room = SHOWN;
  let shown = 0;
  let task = null;
  let seen = "";
  let last = false;
  let reading = false;
  let following = true;
  let closed = false;
  // By stream: a line whose end has not come yet, a character and a steering sequence that a write cut in two.
  const open = {};
  const halves = { stdout: new TextDecoder(), stderr: new TextDecoder() };
  const held = { stdout: "", stderr: "" };

  function textOf({ stream, data, data_base64: base64 }) {
    const bytes = base64 && Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const text = held[stream] + (bytes ? halves[stream].decode(bytes, { stream: true }) : halves[stream].decode() + data);
    const [unfinished = ""] = UNFINISHED.exec(text) ?? [];
    held[stream] = unfinished.length < STEERING ? unfinished : "";
    return clean(text.slice(0, text.length - held[stream].length));
  }

  function add(entry, into) {
    const lines = textOf(entry).split("\n");
    lines.forEach((text, at) => {
      const ended = at < lines.length - 1;
      const begun = open[entry.stream];
      if (begun && begun.length < LINE) {
        begun.element.lastChild.append(document.createTextNode(text));
        begun.length += text.length;
      } else if (text !== "" || ended) {
        for (let from = 0; from === 0 || from < text.length; from += LINE) into.append(line(entry, text.slice(from, from + LINE)));
      }
      if (ended) delete open[entry.stream];
    });
  }

  function line(entry, text) {
    const made = h("li", { "data-stream": entry.stream },
      h("time", { datetime: entry.time, title: entry.attempt > 1 ? `attempt ${entry.attempt}` : null }, timeOf(entry.time)),
      h("span", { class: "stream", title: entry.stream }, entry.stream === "stderr" ? "err" : "out"), h("span", { class: "text" }, text));
    open[entry.stream] = { element: made, length: text.length };
    return made;
  }

  async function read() {
    if (reading) return;
    reading = true;
    try {
      while (!closed && !last && room > 0) {
        const piece = await ask(`tasks/${id}/logs?offset=${offset}`);
        const lines = document.createDocumentFragment();
        for (const entry of piece.entries) {
          add(entry, lines);
          room -= entry.data.length;
          shown += entry.data.length;
        }
        list.append(lines);
        const moved = piece.next > offset;
        offset = piece.next;
        last = piece.last;
        if (following && moved) list.scrollTop = list.scrollHeight;
        if (!moved) break;
      }
    } catch (error) {
      fill(foot, h("span", { class: "bad" }, `The output can't be read: ${error.message}`));
      return;
    } finally {
      reading = false;
    }
    show();
  }

  function show() {
    const { stdout_bytes: out, stderr_bytes: err, dropped_bytes: dropped } = task.logs;
    list.hidden = list.childElementCount === 0;
    more.hidden = last || room > 0;
    followButton.hidden = task.ended_at !== null;
    if (out + err === 0) {
      fill(foot, task.ended_at ? "It wrote nothing." : "Nothing written yet.");
    } else {
      fill(foot, `${size(out)} stdout, ${size(err)} stderr`, !task.ended_at && ", going on", !more.hidden && `, the first ${size(shown)} shown`,
        dropped > 0 && h("span", { class: "bad" }, ` – ${size(dropped)} came after the limit of the output and were dropped`));
    }
    // The end may come before its output was read to the end.
    if (!last && task.ended_at && room > 0 && !closed) setTimeout(() => void read(), 500);
  }

  // Whoever scrolls up wants to read; whoever comes back to the end wants to go on.
  list.addEventListener("scroll", () => {
    if (!task || task.ended_at) return;
    following = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
    followButton.setAttribute("aria-pressed", String(following));
  });

  return {
    element,
    /** What is told of the task says whether there is more. */
    told(now) {
      // What goes on is read from its end, what is over from its beginning.
      if (task === null) following = now.ended_at === null;
      task = now;
      const mark = JSON.stringify([now.logs, now.ended_at]);
      if (mark !== seen || reading) {
        seen = mark;
        void read();
      }
    },
    close() {
      closed = true;
    },
  };
}
