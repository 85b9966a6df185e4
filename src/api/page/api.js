// What the page asks of the server: JSON, streams of lines, uploads. A 401 asks the reader for a token, once.

import { answer, find } from "./dom.js";

const TOKEN = "fnbuild-token";

/** What the server said was wrong. */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.errorMessage ?? (status ? `the server answered ${status}` : "the server cannot be reached"));
    this.status = status;
    this.hint = body?.hint;
  }
}

/**
 * Does again what found no way to the server. A browser gives up connections that it is about to make whenever an
 * address comes or goes on its machine, which the start of a container is if that is the server's too. Whatever is asked
 * here may be asked twice.
 */
async function insist(work) {
  for (let pause = 100; ; pause *= 2) {
    try {
      return await work();
    } catch (problem) {
      if (problem.status !== 0 || problem.begun || pause > 400) throw problem;
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

export const path = (name, rest = "") => `/v1/functions/${encodeURIComponent(name)}${rest}`;

export function authorization() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

let asking = null;
let declined = false;

/** Asks for a token; true if there is one now. All requests that wait share one question; who says no is left alone. */
function login() {
  if (declined) return Promise.resolve(false);
  asking ??= (async () => {
    const dialog = find("token");
    find("token-value").value = "";
    const value = await answer(dialog);
    const token = find("token-value").value.trim();
    find("token-value").value = "";
    declined = value !== "yes" || !token;
    if (declined) return false;
    sessionStorage.setItem(TOKEN, token);
    return true;
  })().finally(() => (asking = null));
  return asking;
}

const request = (url, options = {}) => insist(() => requestOnce(url, options));

async function requestOnce(url, options) {
  for (;;) {
    const used = sessionStorage.getItem(TOKEN);
    let response;
    try {
      // Without the browser's own credentials: it would ask for them with a window of its own.
      const headers = { ...options.headers, ...authorization() };
      response = await fetch(url, { ...options, credentials: "omit", headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0);
    }
    if (response.status === 401) {
      // Another request may have asked in the meantime.
      const changed = sessionStorage.getItem(TOKEN) !== used;
      if (changed || (await login())) continue;
    }
    if (response.ok) return response;
    throw new Problem(response.status, await response.json().catch(() => null));
  }
}

export const get = async (url) => (await request(url)).json();

export async function post(url, body) {
  const headers = { "Content-Type": "application/json" };
  return (await request(url, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** The lines of an answer, as they come. */
export async function* lines(url, signal) {
  const response = await request(url, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (rest + value).split("\n");
    rest = whole.pop();
    yield* whole;
  }
}

/** Server-sent events, each as its kind and its data. EventSource could not carry a token. */
export async function* events(url, signal) {
  let [kind, data] = ["message", ""];
  for await (const line of lines(url, signal)) {
    if (line.startsWith("event:")) kind = line.slice(6).trim();
    else if (line.startsWith("data:")) data += line.slice(5);
    else if (line === "" && data) {
      yield [kind, JSON.parse(data)];
      [kind, data] = ["message", ""];
    }
  }
}

/** Does something over and over until the signal: what breaks is tried again, later each time it fails at once. */
export async function keep(signal, broken, work) {
  let pause = 500;
  while (!signal.aborted) {
    const began = Date.now();
    try {
      await work();
    } catch (error) {
      if (signal.aborted) return;
      if ([400, 401, 404].includes(error.status)) return broken(error);
    }
    if (signal.aborted) return;
    broken(null);
    pause = Date.now() - began > 5000 ? 500 : Math.min(pause * 2, 10000);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** Sends a file, telling how much of it has gone; fetch cannot. */
export async function upload(name, file, progress) {
  // Whoever has no token is asked for one before the file has gone.
  await get("/v1/status");
  const query = file.name.endsWith(".py") ? `?filename=${encodeURIComponent(file.name)}` : "";
  const send = () =>
    new Promise((resolve, reject) => {
      const sending = new XMLHttpRequest();
      let begun = false;
      sending.open("PUT", path(name) + query);
      for (const [key, value] of Object.entries(authorization())) sending.setRequestHeader(key, value);
      sending.upload.addEventListener("progress", (event) => {
        begun ||= event.loaded > 0;
        progress(event.loaded, event.total);
      });
      sending.upload.addEventListener("load", () => progress(1, 1));
      sending.addEventListener("error", () => reject(Object.assign(new Problem(0), { begun })));
      sending.addEventListener("load", () => {
        let body = null;
        try {
          body = JSON.parse(sending.responseText);
        } catch {
          // Told by its status alone.
        }
        if (sending.status < 300) resolve(body);
        else reject(new Problem(sending.status, body));
      });
      sending.send(file);
    });
  for (;;) {
    try {
      return await insist(send);
    } catch (problem) {
      if (problem.status !== 401 || !(await login())) throw problem;
    }
  }
}
