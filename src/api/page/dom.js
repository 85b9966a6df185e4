// Elements made of text and other elements, never of markup: whatever a name or a log line holds, it is only shown.

/** An element. Attributes that are false, null or undefined are left out; `on…` are listeners. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const find = (id) => document.getElementById(id);

/** Sets a text only where it is another: what is selected stays so, and nothing is read out twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tells a screen reader. */
export function tell(text) {
  const told = find("told");
  told.textContent = "";
  // A region that gets the text it had is not read again: it has to be empty for a moment.
  setTimeout(() => (told.textContent = text), 50);
}

/** A question with a confirm step; true for yes. Focus goes back to where it was. */
export function ask(title, text, yes) {
  const dialog = find("ask");
  find("ask-title").textContent = title;
  find("ask-text").textContent = text;
  find("ask-yes").textContent = yes;
  return answer(dialog).then((value) => value === "yes");
}

const asked = new Map();

/** The value that a dialog is closed with. */
export function answer(dialog) {
  // The close of the question before may still be on its way: it is no answer to this one.
  asked.get(dialog)?.abort();
  const waiting = new AbortController();
  asked.set(dialog, waiting);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      if (dialog.open) return;
      waiting.abort();
      resolve(dialog.returnValue);
    };
    const { signal } = waiting;
    dialog.addEventListener("close", closed, { signal });
    // Enter in a field means yes: a button that means no is no submit button there.
    dialog.querySelector("button[type=button]")?.addEventListener("click", () => dialog.close("no"), { signal });
  });
}

/** A card with a heading, as a region of its own. */
export function card(title, ...children) {
  const id = `h-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return make("section", { class: "card", "aria-labelledby": id }, make("h2", { id }, title), ...children);
}

const SHORT = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const number = (value) => (value >= 10000 ? COMPACT : SHORT).format(value);

/** Milliseconds, as people read them. */
export function time(ms) {
  if (ms >= 10000) return `${SHORT.format(ms / 1000)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms >= 10 ? `${Math.round(ms)} ms` : `${ms.toFixed(1)} ms`;
}

/** An RFC 3339 time: how long ago, with the time itself as its title. */
export function ago(text) {
  const seconds = Math.max(0, (Date.now() - Date.parse(text)) / 1000);
  const units = [[86400, "day"], [3600, "hour"], [60, "minute"]];
  const [size, name] = units.find(([size]) => seconds >= size) ?? [1, null];
  const count = Math.floor(seconds / size);
  const told = name === null ? "just now" : `${count} ${name}${count === 1 ? "" : "s"} ago`;
  return make("time", { datetime: text, title: new Date(text).toLocaleString() }, told);
}
