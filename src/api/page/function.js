// One function: what it does, a call, its versions, its replicas, its logs, and a place to drop the next version.

import { get, path, post } from "./api.js";
import { ago, ask, card, make, number, say, tell, time } from "./dom.js";
import { callForm } from "./call.js";
import { logView } from "./logs.js";
import { plot } from "./plot.js";
import { zone } from "./upload.js";

const KEPT = 180;

export function functionView(name, main, signal) {
  let samples = [];
  let described = null;
  let listed = "";

  const heading = make("h1", {}, name);
  const facts = make("p", { class: "facts" });
  const death = make("p", { class: "outcome wrong", hidden: true });
  const plots = {
    calls: plot("Calls", KEPT, {}),
    errors: plot("Errors", KEPT, { tone: "errors" }),
    latency: plot("Latency", KEPT, { second: "slow", tone: "latency", least: 0.1 }),
    replicas: plot("Replicas", KEPT, { steps: true, tone: "replicas" }),
  };
  const call = callForm(name);
  const versions = make("ol", { class: "versions", reversed: true });
  const outcome = make("p", { class: "outcome", role: "status" });
  const replicas = make("div");
  const upload = zone(name, () => load());
  upload.listen(signal);
  main.append(
    make("nav", { class: "crumbs", "aria-label": "Where you are" }, make("a", { href: "#/" }, "Functions"), " / ", make("span", { "aria-current": "page" }, name)),
    make("div", { class: "title" }, heading, facts),
    death,
    make("div", { class: "plots" }, Object.values(plots).map(({ figure }) => figure)),
    make(
      "div",
      { class: "columns" },
      make("div", {}, card("Call it", call.element)),
      make("div", {}, card("Versions", versions, outcome), card("Next version", upload.element)),
    ),
    card("Replicas", replicas),
    card("Logs", logView(name, signal)),
  );

  async function load() {
    const [now, all] = await Promise.all([get(path(name)), get(path(name, "/versions"))]);
    if (signal.aborted) return;
    described = now;
    const took = now.parameters?.map((parameter) => parameter.name).join(", ");
    facts.replaceChildren(
      make("span", {}, `version ${now.version}`), " · ",
      make("a", { href: new URL(now.url).pathname, target: "_blank", rel: "noopener" }, new URL(now.url).pathname), " · ",
      make("span", { title: now.digest }, short(now.digest)),
    );
    call.describe(took, now.parameters);
    death.hidden = !now.lastDeath;
    if (now.lastDeath) say(death, `A replica of version ${now.lastDeath.version} died: ${now.lastDeath.cause}.`);
    list(all, now.split ?? {});
    showReplicas(now.replicas);
  }

  function list({ current, versions: all }, split) {
    // Drawn anew only where something changed: whoever is at a button stays there.
    const told = JSON.stringify([current, all.map((version) => version.number), split]);
    if (told === listed) return;
    listed = told;
    const focused = versions.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    const items = [...all].reverse().map((version) => {
      const is = version.number === current;
      const share = split[version.number];
      const button = make("button", { onclick: () => change(version.number, current) }, version.number < current ? "Roll back" : "Switch");
      button.setAttribute("aria-label", `${button.textContent} to version ${version.number}`);
      return make(
        "li",
        { value: version.number, class: is ? "current" : null, "aria-current": is ? "true" : null },
        make("span", { class: "number" }, `${version.number}`),
        make("span", { class: "what" }, ago(version.created), make("span", { class: "note", title: version.digest }, short(version.digest))),
        share ? make("span", { class: "badge" }, `${share} %`) : null,
        is ? make("span", { class: "badge well" }, "current") : button,
      );
    });
    versions.replaceChildren(...items);
    if (focused) [...versions.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === focused)?.focus();
  }

  async function change(to, from) {
    const verb = to < from ? "Roll back" : "Switch";
    const text = `Calls of ${name} go to version ${to} instead of ${from} as soon as it is ready. Calls that are being answered finish.`;
    if (!(await ask(`${verb} to version ${to}?`, text, verb))) return;
    outcome.classList.remove("wrong");
    say(outcome, `Switching to version ${to}`);
    try {
      const made = await post(path(name, "/rollback"), { version: to });
      say(outcome, `Version ${made.version} is current.`);
      await load();
      versions.querySelector(".current").tabIndex = -1;
      versions.querySelector(".current").focus();
    } catch (problem) {
      outcome.classList.add("wrong");
      say(outcome, [problem.message, problem.hint].filter(Boolean).join(". "));
    }
  }

  function showReplicas(all) {
    if (all.length === 0) {
      return replicas.replaceChildren(make("p", { class: "nothing" }, "None runs. The next call starts one."));
    }
    const heads = ["Replica", "Version", "Address", "State", "Node", "Trouble"];
    const rows = all.map((replica) => {
      const trouble = [];
      if (replica.outOfMemory) trouble.push(`${replica.outOfMemory} killed for memory`);
      if (replica.outOfPids) trouble.push(`${replica.outOfPids} refused a process`);
      const cells = [replica.version, `${replica.address}:${replica.port}`, replica.state, replica.node, trouble.join(", ") || "–"];
      return make("tr", {}, make("th", { scope: "row" }, make("code", {}, replica.id)), cells.map((text, at) => make("td", {}, at === 1 ? make("code", {}, text) : `${text}`)));
    });
    const head = make("tr", {}, heads.map((text) => make("th", { scope: "col" }, text)));
    replicas.replaceChildren(make("div", { class: "table" }, make("table", {}, make("thead", {}, head), make("tbody", {}, rows))));
  }

  function paint() {
    const of = (key) => samples.map((sample) => sample[key]);
    // A second without calls has no latency.
    const took = (key) => samples.map((sample) => (sample.calls ? sample[key] : null));
    const now = samples.at(-1) ?? { calls: 0, errors: 0, p50: 0, p95: 0, replicas: 0, inFlight: 0 };
    const sum = (key) => samples.reduce((total, sample) => total + sample[key], 0);
    const busy = samples.filter((sample) => sample.calls > 0).at(-1);
    plots.calls.update(of("calls"), [], `${number(now.calls)}/s`, `${number(sum("calls"))} in 3 min`, (top) => `${number(top)}/s`);
    plots.errors.update(of("errors"), [], `${number(now.errors)}/s`, `${number(sum("errors"))} in 3 min`, (top) => `${number(top)}/s`);
    plots.errors.figure.classList.toggle("quiet", sum("errors") === 0);
    plots.latency.update(took("p50"), took("p95"), busy ? time(busy.p50) : "–", busy ? `p95 ${time(busy.p95)}` : "p50 and p95", time);
    plots.replicas.update(of("replicas"), [], number(now.replicas), `${number(now.inFlight)} in flight`, (top) => number(top));
  }

  const failed = (problem) => {
    if (signal.aborted) return;
    if (![400, 404].includes(problem.status) || described) return tell(problem.message);
    main.replaceChildren(make("h1", {}, "There is no such function"), make("p", {}, make("a", { href: "#/" }, "All functions")));
  };
  paint();
  let due = null;
  const again = (pause) => {
    clearTimeout(due);
    due = setTimeout(() => signal.aborted || load().catch(failed), pause);
  };
  return {
    ready: load().catch(failed),
    history({ functions }) {
      samples = functions[name] ?? [];
      paint();
      again(0);
    },
    sample({ functions }) {
      const sample = functions[name] ?? { calls: 0, errors: 0, p50: 0, p95: 0, replicas: 0, inFlight: 0 };
      if (sample.replicas !== samples.at(-1)?.replicas) again(200);
      samples = [...samples, sample].slice(-KEPT);
      paint();
    },
    changed(which) {
      if (which === null || which === name) again(200);
    },
  };
}

const short = (digest) => digest.replace(/^(sha256:.{12}).*$/, "$1");
