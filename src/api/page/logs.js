// What a function prints, followed.

import { keep, lines, path } from "./api.js";
import { make, say } from "./dom.js";

/** Lines that are kept on the page. */
const KEPT = 1000;

export function logView(name, signal) {
  const list = make("div", { class: "log", role: "log", "aria-live": "off", "aria-label": `Log of ${name}`, tabindex: "0" });
  const empty = make("p", { class: "nothing" }, "Nothing was printed yet.");
  const follows = make("input", { type: "checkbox", id: "follows", checked: true, onchange: () => stick() });
  const clear = make("button", { onclick: () => { list.replaceChildren(); empty.hidden = false; } }, "Clear");
  const bar = make("div", { class: "bar" }, make("label", { for: "follows", class: "check" }, follows, " Keep the newest in sight"), clear);
  let waiting = [];
  let since = null;

  const stick = () => follows.checked && (list.scrollTop = list.scrollHeight);
  // Who scrolls up wants to read.
  list.addEventListener("scroll", () => {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
    if (follows.checked !== atEnd) follows.checked = atEnd;
  });

  function flush() {
    const late = waiting.slice(-KEPT);
    waiting = [];
    list.append(...late.map(row));
    while (list.children.length > KEPT) list.firstChild.remove();
    empty.hidden = list.children.length > 0;
    stick();
  }

  const broken = (error) => error && say(empty, error.message);
  keep(signal, broken, async () => {
    // After a break the last line comes once more.
    const known = since;
    const query = since ? `since=${encodeURIComponent(since)}` : "tail=200";
    for await (const text of lines(path(name, `/logs?follow=true&${query}`), signal)) {
      if (!text) continue;
      const line = JSON.parse(text);
      if (known && line.time === known) continue;
      since = line.time;
      if (waiting.push(line) === 1) setTimeout(flush, 60);
    }
  });
  return make("div", {}, bar, list, empty);
}

function row(line) {
  const at = new Date(line.time);
  const clock = `${at.toLocaleTimeString("en-GB")}.${String(at.getMilliseconds()).padStart(3, "0")}`;
  return make(
    "div",
    { class: line.stream },
    make("time", { datetime: line.time, title: `version ${line.version}, replica ${line.replica}` }, clock),
    make("span", { class: "stream" }, line.stream === "stdout" ? "out" : line.stream === "stderr" ? "err" : "sys"),
    make("span", { class: "text" }, line.text),
  );
}
