// The page: which view the address names, the server's state, what is live.

import { events, get, keep } from "./api.js";
import { find, say, tell } from "./dom.js";
import { overview } from "./overview.js";
import { functionView } from "./function.js";

let leave = new AbortController();

/** `#/` is the overview, `#/NAME` a function. */
async function show(first) {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const name = decodeURIComponent(location.hash.replace(/^#\/?/, "")) || null;
  const main = find("main");
  main.replaceChildren();
  document.title = name ? `${name} · fnbuild` : "fnbuild";
  const view = name ? functionView(name, main, signal) : overview(main, signal);
  if (!first) {
    main.focus();
    scrollTo(0, 0);
    tell(name ? `Function ${name}` : "All functions");
  }
  await view.ready;
  follow(name, view, signal);
}

/** Hands the live events to the view for as long as it is shown. */
function follow(name, view, signal) {
  const url = name ? `/v1/live?name=${encodeURIComponent(name)}` : "/v1/live";
  const lost = () => !signal.aborted && (find("link").hidden = false);
  keep(signal, lost, async () => {
    for await (const [kind, data] of events(url, signal)) {
      find("link").hidden = true;
      if (kind === "change") view.changed(data.name);
      else view[kind]?.(data);
    }
  });
}

async function status() {
  try {
    const server = await get("/v1/status");
    find("health").className = server.ready ? "dot well" : "dot ill";
    say(find("server-text"), server.ready ? `ready · registry ${server.registry}` : server.problems.join("; "));
    find("server").title = `fnbuild ${server.version}, node ${server.id}`;
    find("server").hidden = false;
  } catch {
    // The live stream tells of a server that is away.
  }
}

addEventListener("hashchange", () => show(false));
show(true);
status();
setInterval(() => document.hidden || status(), 15000);
