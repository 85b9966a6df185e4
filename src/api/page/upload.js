// The drop zone: a zip or a .py becomes a version of a function.

import { upload } from "./api.js";
import { make, say, tell } from "./dom.js";

/** The name that a file suggests, as `fnbuild push` has it. */
function suggested(file) {
  const stem = file.name.replace(/\.(zip|py)$/i, "");
  return stem.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 63);
}

const NAME = "[a-z0-9]([\\-a-z0-9]{0,61}[a-z0-9])?";

/** A zone for one function, or, without a name, for any; `done` gets what the server made of it. */
export function zone(name, done) {
  let file = null;
  const input = make("input", { type: "file", id: "file", accept: ".zip,.py", class: "unseen", onchange: () => take(input.files[0]) });
  const chosen = make("span", { class: "chosen" }, "");
  const field = make("input", {
    id: "name", required: true, pattern: NAME, maxlength: 63, autocomplete: "off", spellcheck: "false",
    title: "1 to 63 lower-case letters, digits and dashes, with no dash at either end",
  });
  const button = make("button", { class: "main", type: "submit" }, "Upload");
  const bar = make("progress", { max: 1, value: 0, "aria-label": "Upload", hidden: true });
  const outcome = make("p", { class: "outcome", role: "status" });
  const pick = make("label", { for: "file", class: "button" }, "Choose a file");
  const form = make(
    "form",
    { class: "send", hidden: true, onsubmit: (event) => { event.preventDefault(); send(); } },
    name ? null : make("label", { for: "name" }, "Function"),
    name ? null : field,
    button,
  );
  const element = make(
    "div",
    { class: "drop" },
    make("p", {}, make("span", { class: "drag" }, "Drop a ", make("code", {}, ".zip"), " or ", make("code", {}, ".py"), " here, or "), input, pick, chosen),
    form, bar, outcome,
  );

  function take(dropped) {
    if (!dropped) return;
    file = dropped;
    say(chosen, `${file.name}, ${size(file.size)}`);
    if (!name) field.value = suggested(file);
    form.hidden = false;
    outcome.textContent = "";
    outcome.classList.remove("wrong");
    (name ? button : field).focus();
  }

  async function send() {
    const to = name ?? field.value;
    button.disabled = true;
    bar.hidden = false;
    say(outcome, `Sending ${file.name}`);
    try {
      const made = await upload(to, file, (sent, all) => {
        bar.value = all ? sent / all : 0;
        if (sent < all) return say(outcome, `Sending ${file.name}: ${Math.round((100 * sent) / all)} %`);
        // What follows takes as long as it takes.
        bar.removeAttribute("value");
        say(outcome, "Building, and starting the new version");
      });
      outcome.classList.remove("wrong");
      say(outcome, made.unchanged ? `Nothing changed: version ${made.version} is what you sent.` : `Version ${made.version} of ${made.name} is live.`);
      form.hidden = true;
      chosen.textContent = "";
      input.value = "";
      done(made);
    } catch (problem) {
      outcome.classList.add("wrong");
      say(outcome, [problem.message, problem.hint].filter(Boolean).join(". "));
      tell("The upload failed");
    }
    bar.hidden = true;
    button.disabled = false;
  }

  // Anywhere on the page: a zone that is missed by a little must not make the browser open the file.
  const over = (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    element.classList.toggle("over", event.type !== "drop");
    if (event.type === "drop") take(event.dataTransfer.files[0]);
  };
  const left = (event) => event.relatedTarget === null && element.classList.remove("over");
  const listen = (signal) => {
    for (const type of ["dragover", "drop"]) document.addEventListener(type, over, { signal });
    document.addEventListener("dragleave", left, { signal });
  };
  return { element, listen };
}

function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  return bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
