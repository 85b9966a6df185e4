// All functions: what each does at the moment, and a place to drop a new one.

import { get } from "./api.js";
import { card, make, number, say, time } from "./dom.js";
import { picture } from "./plot.js";
import { zone } from "./upload.js";

/** Seconds that a row's plot shows. */
const SPAN = 90;
const PAGE = 200;

export function overview(main, signal) {
  const rows = new Map();
  let samples = new Map();
  let next = null;
  let limit = PAGE;

  const body = make("tbody");
  const heads = ["Function", "Last 90 s", "Calls a second", "Errors a second", "p95", "Replicas"];
  const head = make("tr", {}, heads.map((text, at) => make("th", { scope: "col", class: at > 1 ? "figures" : null }, text)));
  const table = make("table", { class: "functions" }, make("caption", { class: "unseen" }, "Functions and what they do now"), make("thead", {}, head), body);
  const nothing = make("p", { class: "nothing", hidden: true });
  const filter = make("input", { id: "filter", type: "search", placeholder: "Filter", "aria-label": "Filter functions by name", oninput: () => sift() });
  const more = make("button", { hidden: true, onclick: () => { limit += PAGE; load(); } }, "Show more");
  const upload = zone(null, (made) => load().then(() => rows.get(made.name)?.link.focus()));
  upload.listen(signal);
  main.append(
    make("div", { class: "title" }, make("h1", {}, "Functions"), filter),
    make("div", { class: "card table" }, table, nothing, more),
    card("New function or version", upload.element),
  );

  function row(name) {
    const { svg, update } = picture(SPAN, { second: "errors" });
    const link = make("a", { href: `#/${encodeURIComponent(name)}` }, name);
    const version = make("span", { class: "note" });
    const cells = heads.slice(2).map(() => make("td", { class: "figures" }, "0"));
    const tr = make("tr", {}, make("th", { scope: "row" }, link, version), make("td", { class: "spark" }, svg), cells);
    return { tr, link, version, update, cells };
  }

  async function load() {
    let functions = [];
    next = null;
    do {
      const after = next ? `&after=${encodeURIComponent(next)}` : "";
      const page = await get(`/v1/functions?limit=${PAGE}${after}`);
      functions = functions.concat(page.functions);
      next = page.next ?? null;
    } while (next && functions.length < limit);
    if (signal.aborted) return;
    const shown = functions.map((summary) => {
      const entry = rows.get(summary.name) ?? row(summary.name);
      rows.set(summary.name, entry);
      say(entry.version, `version ${summary.version}`);
      entry.everywhere = summary.replicas;
      return summary.name;
    });
    for (const name of [...rows.keys()]) if (!shown.includes(name)) rows.delete(name);
    // Moved only where the order changed: a row that has the focus keeps it.
    shown.forEach((name, at) => {
      const { tr } = rows.get(name);
      if (body.children[at] !== tr) body.insertBefore(tr, body.children[at] ?? null);
    });
    while (body.children.length > shown.length) body.lastChild.remove();
    more.hidden = !next;
    sift();
    paint();
  }

  function sift() {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    for (const [name, { tr }] of rows) {
      tr.hidden = !name.includes(wanted);
      if (!tr.hidden) shown += 1;
    }
    table.hidden = shown === 0;
    nothing.hidden = shown > 0;
    say(nothing, rows.size ? "No function has such a name." : "There is no function yet. Drop one below, or run fnbuild push.");
  }

  function paint() {
    for (const [name, entry] of rows) {
      const last = samples.get(name) ?? [];
      const now = last.at(-1);
      const told = [number(now?.calls ?? 0), number(now?.errors ?? 0), now?.calls ? time(now.p95) : "–", number(now?.replicas ?? entry.everywhere)];
      entry.cells.forEach((cell, at) => say(cell, told[at]));
      entry.cells[1].classList.toggle("wrong", Boolean(now?.errors));
      const recent = last.slice(-SPAN);
      // A line along the bottom would say no more than none.
      const errors = recent.map((sample) => sample.errors || null);
      entry.update(recent.map((sample) => sample.calls), errors);
    }
  }

  const failed = (error) => {
    table.hidden = true;
    nothing.hidden = false;
    say(nothing, error.message);
  };
  let due = null;
  return {
    ready: load().catch(failed),
    history({ functions }) {
      samples = new Map(Object.entries(functions));
      // The stream may have broken off, and come back to another list.
      load().catch(failed);
    },
    sample({ functions }) {
      for (const [name, sample] of Object.entries(functions)) {
        samples.set(name, [...(samples.get(name) ?? []), sample].slice(-SPAN));
      }
      for (const name of samples.keys()) if (!(name in functions)) samples.delete(name);
      paint();
    },
    changed() {
      // Many changes at once are one.
      clearTimeout(due);
      due = setTimeout(() => signal.aborted || load().catch(failed), 300);
    },
  };
}
