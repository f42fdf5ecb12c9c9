// Owns the view of one task: what became of it, where the time went, what it wrote, where its code came from.

import { ask, backIcon, chip, copyButton, digest, fill, h, moment, parseReference, referenceName, size, span, took } from "./dom.js";
import { logsPanel } from "./logs.js";
import { TIERS, result } from "./tasks.js";
import { waterfall } from "./waterfall.js";

const PULLS = { missing: "what the store lacks", always: "each time", never: "never" };
const GOOD = new Set(["queued", "preparing", "running", "succeeded"]);

function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter((row) => row && row[1] !== null && row[1] !== undefined && row[1] !== "")
    .map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value))));
}

const micros = (us) => (us === null || us === undefined ? null : span(us));
const figure = (name, value, title) => h("div", { class: "figure", title }, h("dt", {}, name), h("dd", {}, value ?? h("span", { class: "dim" }, "–")));

function figures(task) {
  return h("dl", { class: "figures", "aria-label": "Figures" },
    figure("Duration", took(task), "how long the guest ran"),
    figure("Submit to start", micros(task.submit_to_start_us), "from the submit to the guest's first instruction"),
    figure("Start tier", task.tier && [task.tier, h("span", { class: "dim" }, ` ${TIERS[task.tier]?.[0] ?? ""}`)], TIERS[task.tier]?.[1]),
    figure("Result", result(task), task.end_reason),
    figure("CPU", micros(task.cpu_us), "CPU time of the guest"),
    figure("Memory", task.peak_memory_bytes === null ? null : size(task.peak_memory_bytes), "the most linear memory that it held"),
    figure("Attempt", task.max_attempts > 1 ? `${task.attempt} of ${task.max_attempts}` : String(task.attempt)));
}

/** Why it did not end well, and what to do. */
function why(task) {
  const ended = task.ended_at !== null;
  if (!ended || GOOD.has(task.status)) return null;
  const kind = task.trap ? `Trap: ${task.trap.kind.replaceAll("_", " ")}` : task.end_reason?.replaceAll("_", " ");
  return h("div", { class: "why", "data-status": task.status },
    h("p", { class: "title" }, kind ?? task.status),
    task.message && h("p", {}, task.message),
    task.next && h("p", { class: "next" }, h("b", {}, "Next: "), task.next),
    task.trap?.backtrace && h("details", { open: true }, h("summary", {}, "Backtrace"), h("pre", {}, task.trap.backtrace)));
}

/** Why it was let run: the signature that counted, or what stood for one. */
function trust(task) {
  const said = task.acceptance;
  if (!said) {
    if (task.status === "refused") return h("span", { class: "verdict", "data-verdict": "no" }, "refused, nothing of it ran");
    return h("span", { class: "dim" }, task.ended_at ? "not asked" : "known when it starts");
  }
  const verdict = said.startsWith("signed by") ? "yes" : said.startsWith("NOT") ? "no" : "unsigned";
  const [, who, id] = /^signed by (.*) \((.*)\)$/s.exec(said) ?? [];
  if (!who) return h("span", { class: "verdict", "data-verdict": verdict }, said);
  return [h("span", { class: "verdict", "data-verdict": verdict }, "signed by ", h("b", {}, who)), " ",
    /^sha256:/.test(id) ? digest(id, "key id") : h("span", { class: "dim" }, id)];
}

function path(task) {
  if (task.path === "wasm") return ["Wasm", task.kind && `, a ${task.kind}`, h("span", { class: "dim" }, " – Wasm is tried first, and it could be started")];
  if (task.path === "container") return ["Container", task.fallback_reason && h("span", { class: "dim" }, ` – ${task.fallback_reason}`)];
  if (task.path) return [task.path];
  if (!task.ended_at) return h("span", { class: "dim" }, "known when it starts");
  return h("span", { class: "dim" }, "none: it was not started");
}

function provenance(task) {
  const asked = parseReference(task.reference).digest;
  return facts([
    ["Reference", h("span", { class: "break" }, task.reference), copyButton(task.reference, "reference")],
    ["Digest", digest(task.digest ?? asked, "digest", 24), !task.digest && asked && h("span", { class: "dim" }, " as submitted")],
    ["Manifest", task.manifest && (task.manifest === task.digest ? h("span", { class: "dim" }, "the same") : digest(task.manifest, "manifest digest", 24))],
    ["Signature", trust(task)],
    ["Signed digest", task.signed_digest && (task.signed_digest === task.digest ? h("span", { class: "dim" }, "the same digest") : digest(task.signed_digest, "signed digest", 24))],
    ["Wasm", task.code && digest(task.code, "digest of the Wasm", 24)],
    ["Form", task.form],
    ["Path", path(task)],
  ]);
}

function request(task) {
  const { limits } = task;
  const labels = Object.entries(task.labels).map(([key, value]) => h("span", { class: "label" }, `${key}=${value}`));
  const left = task.args_left_out > 0 ? h("span", { class: "dim" }, `and ${task.args_left_out} more`) : null;
  const args = task.args.map((argument) => h("code", { class: "argument" }, argument === "" ? "''" : argument));
  return facts([
    ["Submitted", moment(task.submitted_at), h("span", { class: "dim" }, ` by ${task.submitter}`)],
    ["Started", task.started_at && moment(task.started_at)],
    ["Ended", task.ended_at && moment(task.ended_at)],
    ["Arguments", args.length ? h("span", { class: "arguments" }, args, left) : h("span", { class: "dim" }, "none")],
    ["Variables", task.env.length ? task.env.map((name) => h("code", { class: "argument" }, name)) : null],
    ["Labels", labels.length ? labels : null],
    ["Limits", [
      limits.memory_bytes ? `${size(limits.memory_bytes)} memory` : "1 GiB memory",
      limits.timeout_us ? `${span(limits.timeout_us)} by the clock` : "no time limit",
      limits.cpu_us && `${span(limits.cpu_us)} CPU`,
      `${limits.log_bytes ? size(limits.log_bytes) : "4 MiB"} output`,
    ].filter(Boolean).join(" · ")],
    ["Network", task.allow_net.length ? task.allow_net.join(", ") : h("span", { class: "dim" }, "nobody")],
    ["Pull", PULLS[task.pull]],
    ["If the node dies", task.on_interrupt === "run_again" ? "run again" : "lost"],
    ["Interruptions", task.interruptions > 0 ? String(task.interruptions) : null],
    ["Trust policy", task.allow_unsigned ? h("span", { class: "bad" }, "overruled by the submit") : null],
    ["Key", task.idempotency_key],
    ["Cancelled in", micros(task.cancel_latency_us)],
    ["Trace", task.trace_id && h("code", {}, task.trace_id)],
  ]);
}

/** What the page doesn't do, since it only reads. */
function terminal(task) {
  const verbs = task.ended_at ? ["trace", "logs"] : ["logs -f", "cancel"];
  return h("ul", { class: "plain commands" }, verbs.map((verb) => {
    const line = `vyr ${verb} ${task.id}`;
    return h("li", {}, h("code", {}, line), copyButton(line, "command"));
  }));
}

/** The view. */
export function taskView(id) {
  const head = h("div", { class: "head" });
  const numbers = h("div", {});
  const reason = h("div", {});
  const source = h("div", {}, h("p", { class: "dim" }, "Loading…"));
  const asked = h("div", {});
  const lines = h("div", {});
  const lanes = waterfall();
  const logs = logsPanel(id);
  let traced = "";
  let shown = "";

  const section = (key, title, ...children) => h("section", { class: `panel ${key}`, "aria-labelledby": `${key}-title` },
    h("h2", { id: `${key}-title` }, title), ...children);
  const element = h("div", { class: "view task" },
    h("a", { class: "back", href: "#/tasks" }, backIcon(), "All tasks"), head, numbers, reason,
    h("div", { class: "columns" },
      h("div", { class: "main" }, h("section", { class: "panel", "aria-labelledby": "timeline-title" },
          h("div", { class: "titled" }, h("h2", { id: "timeline-title" }, "Timeline"), lanes.tools), lanes.element), logs.element),
      h("div", { class: "side" }, section("provenance", "Provenance", source), section("request", "Request", asked), section("terminal", "In a terminal", lines))));
  fill(head, h("h1", { tabindex: "-1" }, "Task"), h("code", { class: "dim" }, id));

  function draw(task) {
    const focused = head.contains(document.activeElement);
    document.title = `${task.status.replaceAll("_", " ")} · ${parseReference(task.reference).name || "task"} · VYR`;
    fill(head, h("h1", { tabindex: "-1" }, referenceName(task.reference)), chip(task.status),
      h("span", { class: "id" }, h("code", { class: "dim" }, task.id), copyButton(task.id, "task id")));
    if (focused) head.querySelector("h1").focus({ preventScroll: true });
    fill(numbers, figures(task));
    fill(reason, why(task));
    fill(source, provenance(task));
    fill(asked, request(task));
    fill(lines, terminal(task));
  }

  async function trace(task) {
    // Its spans are other ones when it has gone a step further.
    const step = `${task.status} ${task.attempt} ${task.ended_at}`;
    if (step === traced) return;
    traced = step;
    try {
      lanes.show(await ask(`tasks/${id}/trace`));
    } catch (error) {
      lanes.fail(error);
    }
  }

  return {
    title: `Task …${id.slice(-12)}`,
    element,
    query: () => `task=${encodeURIComponent(id)}`,
    close() {
      lanes.close();
      logs.close();
    },
    on(name, task) {
      if (name !== "task") return;
      // Output comes often; the rest is left alone then, with what is selected or focused in it.
      const now = JSON.stringify({ ...task, logs: null });
      if (now !== shown) {
        shown = now;
        draw(task);
        void trace(task);
      }
      logs.told(task);
    },
  };
}
