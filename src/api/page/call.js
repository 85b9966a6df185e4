// A form that calls a function with JSON, and what came of it.

import { authorization } from "./api.js";
import { make, number, say, tell, time } from "./dom.js";

/** No more of an answer is shown. */
const SHOWN = 256 * 1024;

export function callForm(name) {
  let running = null;
  let touched = false;
  const methods = ["POST", "GET", "PUT", "PATCH", "DELETE"].map((method) => make("option", {}, method));
  const method = make("select", { id: "method", onchange: () => fit() }, methods);
  const rest = make("input", { id: "rest", autocomplete: "off", spellcheck: "false", placeholder: "/path?query" });
  const body = make("textarea", {
    id: "body", rows: 6, spellcheck: "false", "aria-describedby": "body-note body-wrong",
    oninput: () => { touched = true; check(); },
    onkeydown: (event) => (event.ctrlKey || event.metaKey) && event.key === "Enter" && (event.preventDefault(), form.requestSubmit()),
  });
  body.value = "{}";
  const wrong = make("p", { class: "outcome wrong", id: "body-wrong" });
  const note = make("p", { class: "note", id: "body-note" }, "Its members become the arguments.");
  const send = make("button", { class: "main" }, "Call");
  const label = make("label", { for: "body" }, "JSON");
  const form = make(
    "form",
    { onsubmit: (event) => { event.preventDefault(); running ? running.abort() : call(); } },
    make(
      "div",
      { class: "line" },
      make("div", {}, make("label", { for: "method" }, "Method"), method),
      make("div", { class: "wide" }, make("label", { for: "rest" }, "Path and query"), rest),
    ),
    label, body, note, wrong,
    make("div", { class: "actions" }, make("span", { class: "note" }, make("kbd", {}, "Ctrl"), " ", make("kbd", {}, "Enter")), send),
  );
  const summary = make("p", { class: "summary", role: "status" });
  const output = make("pre", { class: "output", tabindex: "0", "aria-label": "Answer", hidden: true });
  const element = make("div", { class: "call" }, form, summary, output);

  const hasBody = () => method.value !== "GET";

  function fit() {
    body.hidden = label.hidden = note.hidden = !hasBody();
    check();
  }

  /** Says what is wrong with the JSON, if anything is; true where it can be sent. */
  function check() {
    let told = "";
    if (hasBody() && body.value.trim()) {
      try {
        JSON.parse(body.value);
      } catch (error) {
        told = `This is not JSON: ${error.message}`;
      }
    }
    say(wrong, told);
    if (told) body.setAttribute("aria-invalid", "true");
    else body.removeAttribute("aria-invalid");
    return !told;
  }

  async function call() {
    if (!check()) return body.focus();
    running = new AbortController();
    say(send, "Cancel");
    summary.className = "summary";
    say(summary, "Calling");
    const began = performance.now();
    try {
      const extra = rest.value.trim();
      const url = `/function/${encodeURIComponent(name)}${extra && !/^[/?]/.test(extra) ? "/" : ""}${extra}`;
      const sent = hasBody() && body.value.trim() ? body.value : undefined;
      // The server keeps its tokens to itself: the function sees none.
      const headers = { ...authorization(), ...(sent ? { "Content-Type": "application/json" } : {}) };
      const response = await fetch(url, { method: method.value, signal: running.signal, credentials: "omit", body: sent, headers });
      const { text, cut } = await read(response);
      show(response, text, cut, performance.now() - began);
    } catch (error) {
      summary.classList.add("wrong");
      say(summary, error.name === "AbortError" ? "Cancelled" : "No answer: the connection broke");
      output.hidden = true;
    }
    running = null;
    say(send, "Call");
  }

  function show(response, text, cut, took) {
    const wrote = [`${response.status} ${response.statusText}`.trim(), time(took)];
    const inside = Number(response.headers.get("x-duration-seconds"));
    if (inside) wrote.push(`${time(inside * 1000)} at the server`);
    if (response.headers.get("x-cold-start")) wrote.push("cold start");
    const whose = response.headers.get("x-fnbuild-error");
    if (whose) wrote.push(whose === "function" ? "the function's error" : "the platform's error");
    summary.className = `summary ${response.ok ? "well" : "wrong"}`;
    const id = response.headers.get("x-call-id");
    summary.replaceChildren(
      make("strong", {}, wrote[0]), ` · ${wrote.slice(1).join(" · ")}`,
      id ? make("span", { class: "note" }, "call ", make("code", {}, id.slice(0, 12))) : "",
    );
    output.hidden = false;
    say(output, pretty(text, cut) + (cut ? `\n… only the first ${number(SHOWN / 1024)} KiB are shown` : "") || "(empty)");
  }

  return {
    element,
    /** What the function takes, as far as that is known. */
    describe(told, parameters) {
      say(note, told ? `Its members become the arguments: ${told}.` : "Its members become the arguments.");
      if (touched || !parameters) return;
      const named = parameters.filter(({ kind }) => ["POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY"].includes(kind));
      const example = Object.fromEntries(named.map(({ name: key, default: usual }) => [key, value(usual)]));
      body.value = JSON.stringify(example, null, 2);
      tell("");
    },
  };
}

/** A default as Python has it, where JSON can say it too. */
function value(text) {
  const python = { None: null, True: true, False: false };
  if (text in python) return python[text];
  try {
    return JSON.parse((text ?? "null").replaceAll("'", '"'));
  } catch {
    return null;
  }
}

async function read(response) {
  if (!response.body) return { text: "", cut: false };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value: piece, done } = await reader.read();
    if (done) return { text, cut: false };
    text += piece;
    if (text.length > SHOWN) {
      reader.cancel();
      return { text: text.slice(0, SHOWN), cut: true };
    }
  }
}

function pretty(text, cut) {
  if (cut) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
