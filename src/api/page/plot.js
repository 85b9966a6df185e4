// Small plots of the last minutes: a line (or two) over time, drawn as SVG, moved on by a sample a second.

import { draw, make, say } from "./dom.js";

const HEIGHT = 40;

/** The values as a path over `length` places, the newest at the right; a null is a gap. */
function line(values, length, top, steps) {
  const x = (at) => length - values.length + at;
  const y = (value) => (HEIGHT - 1 - (value / top) * (HEIGHT - 2)).toFixed(1);
  let path = "";
  values.forEach((value, at) => {
    if (value === null) return;
    const before = at > 0 ? values[at - 1] : null;
    if (before === null) path += `M${x(at)} ${y(value)}h0`;
    else path += steps ? `H${x(at)}V${y(value)}` : `L${x(at)} ${y(value)}`;
  });
  return path;
}

/** What is below a line without gaps. */
function area(path, values, length) {
  return path ? `${path}V${HEIGHT}H${length - values.length}Z` : "";
}

/** A picture of one or two series; `update` takes their values, oldest first. */
export function picture(length, { steps = false, second = null } = {}) {
  const fill = draw("path", { class: "fill" });
  const stroke = draw("path", { class: "stroke" });
  const other = draw("path", { class: `stroke ${second ?? ""}` });
  const svg = draw("svg", { viewBox: `0 0 ${length - 1} ${HEIGHT}`, preserveAspectRatio: "none", class: "plot" }, fill, stroke);
  svg.setAttribute("aria-hidden", "true");
  if (second) svg.append(other);
  const update = (values, others = [], least = 1) => {
    const top = Math.max(least, ...values, ...others);
    const path = line(values, length, top, steps);
    stroke.setAttribute("d", path);
    fill.setAttribute("d", values.includes(null) ? "" : area(path, values, length));
    if (second) other.setAttribute("d", line(others, length, top, steps));
    return top;
  };
  return { svg, update };
}

/** A plot with its name, its present value and its scale: a figure that says in words what it shows. */
export function plot(title, length, options) {
  const { svg, update } = picture(length, options);
  const value = make("strong", {}, "–");
  const note = make("span", { class: "note" }, "");
  const scale = make("span", {}, "");
  const minutes = `${Math.round(length / 60)} min`;
  const figure = make(
    "figure",
    { class: `card figure ${options.tone ?? ""}`, role: "group", "aria-label": title },
    make("figcaption", {}, make("span", {}, title), value, note),
    svg,
    make("div", { class: "axis" }, make("span", {}, minutes), scale, make("span", {}, "now")),
  );
  return {
    figure,
    /** Both series, and the present in words. */
    update(values, others, told, aside, label) {
      const top = update(values, others, options.least ?? 1);
      say(value, told);
      say(note, aside);
      say(scale, `peak ${label(top)}`);
    },
  };
}
