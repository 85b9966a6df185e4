// Walks through the page in a headless Chromium as a person would, and fails on what no person should see: an error on the
// console, a request to anywhere else. Says `ok STEP` for each part. With SHOTS, leaves pictures there.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { strict as assert } from "node:assert";
import { join } from "node:path";

const { PAGE, GUARDED, TOKEN, FILES, MODULES, SHOTS } = process.env;
const { chromium } = createRequire(join(MODULES, "x.js"))("playwright-core");
const file = (name) => join(FILES, name);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
const troubles = [];
const changes = [];

async function open(options = {}, url = PAGE) {
  const { origin } = new URL(url);
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, locale: "en-GB", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(60000);
  // Whatever else starts containers on this machine changes its network, which the browser writes there for each
  // connection that it gives up.
  const kept = (text) => (text.includes("ERR_NETWORK_CHANGED") ? changes : troubles);
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && kept(message.text()).push(message.text()));
  page.on("pageerror", (error) => troubles.push(`${error}`));
  page.on("request", (request) => request.url().startsWith(origin) || troubles.push(`asked for ${request.url()}`));
  page.on("dialog", (dialog) => { troubles.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  await page.goto(url);
  return page;
}

const shot = async (page, name, whole = false) => SHOTS && (await page.screenshot({ path: join(SHOTS, name), fullPage: whole }));
const done = (step) => console.log(`ok ${step}`);
const summary = (page) => page.locator(".summary");

/** Begins calls until one is answered. The page repeats none by itself: a call may not be one that can be made twice. */
async function insist(page, begin) {
  for (let broken = 0; ; broken++) {
    await begin();
    await page.locator(".summary:has(code), .summary:has-text('No answer')").waitFor();
    if (await page.locator(".summary:has(code)").count()) return;
    assert.ok(broken < 5, await summary(page).innerText());
  }
}

/** Calls with a body, and gives the status line and the answer. */
async function call(page, body) {
  await page.getByLabel("JSON", { exact: true }).fill(body);
  const button = page.getByRole("button", { name: "Call", exact: true });
  await insist(page, () => button.click());
  await button.waitFor();
  return [await summary(page).innerText(), await page.getByLabel("Answer").innerText()];
}

async function mouse() {
  const page = await open();
  await page.getByText("There is no function yet").waitFor();
  // As a file that is dropped: the browser's own event, with a real file.
  const drop = async (name) => {
    const content = readFileSync(file(name)).toString("base64");
    const data = await page.evaluateHandle(([content, name]) => {
      const transfer = new DataTransfer();
      const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
      transfer.items.add(new File([bytes], name, { type: "application/zip" }));
      return transfer;
    }, [content, name]);
    await page.dispatchEvent(".drop", "dragover", { dataTransfer: data });
    assert.ok(await page.locator(".drop.over").count(), "the zone shows that it would take the file");
    await page.dispatchEvent(".drop", "drop", { dataTransfer: data });
  };
  await drop("adder.zip");
  assert.equal(await page.getByLabel("Function", { exact: true }).inputValue(), "adder");
  await page.getByRole("button", { name: "Upload" }).click();
  await page.getByText("Version 1 of adder is live.").waitFor();
  await page.getByRole("link", { name: "adder" }).click();

  await page.getByText("Its members become the arguments: x, y.").waitFor();
  assert.equal(await page.getByLabel("JSON", { exact: true }).inputValue(), '{\n  "x": null,\n  "y": 2\n}');
  let [status, answer] = await call(page, '{"x": 40}');
  assert.match(status, /^200 OK · [\d.]+ m?s/);
  assert.equal(answer, '{\n  "sum": 42\n}');
  [status, answer] = await call(page, '{"z": 1}');
  assert.match(status, /^400 .*the function's error/);
  assert.match(answer, /errorMessage/);
  await page.getByLabel("JSON", { exact: true }).fill("{x");
  await page.getByText("This is not JSON").waitFor();

  // The same drop zone, on the function's own page.
  await drop("adder-2.zip");
  await page.getByRole("button", { name: "Upload" }).click();
  await page.getByText("Version 2 of adder is live.").waitFor();
  await page.locator(".versions .current", { hasText: "2" }).waitFor();
  [status, answer] = await call(page, '{"x": 1, "y": 1}');
  assert.equal(JSON.parse(answer).by, "second");
  await page.getByRole("log").getByText("<b>bold</b> 1 1").waitFor();
  await page.getByRole("row", { name: /ready/ }).getByText(/^\d+\.\d+\.\d+\.\d+:8081$/).first().waitFor();
  await page.getByRole("group", { name: "Calls" }).getByText(/[3-9] in 3 min/).waitFor();

  const back = page.getByRole("button", { name: "Roll back to version 1" });
  await back.click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  assert.ok(await page.locator(".versions .current", { hasText: "2" }).count(), "nothing happens without the confirm step");
  await back.click();
  // A connection that the browser gives up is made again.
  await page.route("**/rollback", (route) => route.abort("connectionaborted"), { times: 2 });
  await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
  await page.getByText("Version 1 is current.").waitFor();
  [status, answer] = await call(page, '{"x": 1, "y": 1}');
  assert.equal(answer, '{\n  "sum": 2\n}');
  await page.context().close();
  done("mouse");
}

/** Presses Tab until what has the focus is called so. */
async function reach(page, name) {
  for (let presses = 0; presses < 60; presses++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const element = document.activeElement;
      const label = element.labels?.[0]?.innerText;
      return (element.getAttribute("aria-label") ?? label ?? element.innerText ?? "").trim();
    });
    if (at === name) return;
  }
  assert.fail(`${name} cannot be reached by the Tab key`);
}

async function keyboard() {
  const page = await open();
  await page.getByRole("link", { name: "adder" }).waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  // A file is chosen by the system's own dialog, which the key has to open.
  await reach(page, "Choose a file");
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.keyboard.press("Space")]);
  await chooser.setFiles(file("markup.py"));
  await page.waitForFunction(() => document.activeElement.id === "name");
  await page.keyboard.press("Enter");
  await page.getByText("Version 1 of markup is live.").waitFor();
  await page.waitForFunction(() => document.activeElement.innerText === "markup");
  await page.keyboard.press("Shift+Tab");
  assert.equal(await page.evaluate(() => document.activeElement.innerText), "adder");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "adder" }).waitFor();
  await reach(page, "JSON");
  await page.keyboard.press("Control+A");
  await page.keyboard.type('{"x": 5}');
  await insist(page, () => page.keyboard.press("Control+Enter"));
  await page.getByLabel("Answer").getByText('"sum": 7').waitFor();
  await reach(page, "Switch to version 2");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.innerText), "Cancel", "the safe answer has the focus");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Switch to version 2");
  await page.keyboard.press("Enter");
  await reach(page, "Switch");
  await page.keyboard.press("Enter");
  await page.getByText("Version 2 is current.").waitFor();
  await page.waitForFunction(() => document.activeElement.className === "current");
  await page.context().close();
  done("keyboard");
}

async function markup() {
  const page = await open();
  await page.getByRole("link", { name: "markup" }).click();
  const [, answer] = await call(page, "{}");
  assert.equal(answer, '"<img src=x onerror=alert(1)>"');
  assert.equal(await page.locator("img").count(), 0, "an answer is shown, not made part of the page");
  // A name out of the address is only text too.
  await page.goto(`${PAGE}#/${encodeURIComponent("<img src=x>")}`);
  await page.getByText("There is no such function").waitFor();
  assert.equal(await page.locator("img").count(), 0);
  await page.context().close();
  done("markup");
}

/** How well the colours that text has can be told apart: WCAG's ratio, for every text on the page. */
const contrast = () => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (colour, below) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const fill of [below, colour]) { canvas.fillStyle = fill; canvas.fillRect(0, 0, 1, 1); }
    return `rgb(${[...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)})`;
  };
  const luminance = (colour) => {
    const parts = colour.match(/\d+/g).slice(0, 3).map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = (element) => {
    if (!element) return "rgb(255,255,255)";
    return over(getComputedStyle(element).backgroundColor, ground(element.parentElement));
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const disabled = element.closest(":disabled");
    if (!own || disabled || !element.checkVisibility() || element.closest(".unseen")) continue;
    const below = ground(element);
    const [a, b] = [luminance(over(getComputedStyle(element).color, below)), luminance(below)].sort((a, b) => b - a);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName}.${element.className} ${element.innerText.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return poor;
};

/** Some traffic, so that there is something to see. */
async function traffic(page, seconds) {
  await page.evaluate(async (seconds) => {
    const call = (body) => fetch("/function/adder", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    for (let second = 0; second < seconds; second++) {
      const calls = 6 + Math.round(5 * Math.sin(second / 4) + 3 * Math.random());
      const all = Array.from({ length: calls }, (_, at) => call(`{"x": ${at}, "y": ${second}}`));
      await Promise.all([...all, new Promise((resolve) => setTimeout(resolve, 950))]);
    }
  }, seconds);
}

async function scheme(colorScheme) {
  const page = await open({ colorScheme });
  await page.getByRole("link", { name: "adder" }).waitFor();
  await traffic(page, SHOTS ? 60 : 2);
  assert.deepEqual(await page.evaluate(contrast), []);
  await shot(page, `page-functions-${colorScheme}.png`);
  await page.getByRole("link", { name: "adder" }).click();
  await call(page, '{"x": 40}');
  await page.getByText("ready", { exact: true }).first().waitFor();
  assert.deepEqual(await page.evaluate(contrast), []);
  await shot(page, `page-function-${colorScheme}.png`, true);
  const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.getByRole("button", { name: "Roll back to version 1" }).click();
  assert.deepEqual(await page.evaluate(contrast), []);
  await page.context().close();
  return ground;
}

async function narrow() {
  const page = await open({ viewport: { width: 390, height: 844 } });
  await page.getByRole("link", { name: "adder" }).waitFor();
  const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  assert.ok(await fits());
  await page.getByRole("link", { name: "adder" }).click();
  await page.getByText("Its members become the arguments: x, y.").waitFor();
  assert.ok(await fits());
  await shot(page, "page-narrow.png");
  await page.context().close();
  done("narrow");
}

/** A page that a function answers does what pages do, but nothing in the name of this one. */
async function origin() {
  const before = troubles.length;
  const page = await open();
  await page.getByRole("link", { name: "adder" }).waitFor();
  const status = await page.evaluate(async (body) => {
    const headers = { "Content-Type": "text/x-python" };
    return (await fetch("/v1/functions/site", { method: "PUT", headers, body })).status;
  }, readFileSync(file("site.py"), "utf8"));
  assert.equal(status, 201);
  await page.evaluate(() => sessionStorage.setItem("kept", "here"));
  await page.goto(new URL("/function/site", PAGE).href);
  await page.waitForFunction(() => document.title !== "trying");
  assert.deepEqual(JSON.parse(await page.title()), { origin: "null", storage: false, list: false, remove: false, worker: false });
  const [opened] = await Promise.all([page.waitForEvent("popup"), page.getByRole("link", { name: "Management" }).click()]);
  await opened.getByRole("link", { name: "adder" }).waitFor();
  assert.equal(await opened.evaluate(() => window.opener), null, "what it opens is out of its reach");
  // The browser itself writes each request that it does not make to the console.
  const told = troubles.splice(before);
  assert.ok(told.every((text) => /CORS|403|net::ERR_FAILED/.test(text)), `${told}`);
  await page.context().close();
  done("origin");
}

/** A server that wants a token. */
async function token() {
  const before = troubles.length;
  const page = await open({}, GUARDED);
  const field = page.getByLabel("Token", { exact: true });
  await field.fill("fnb_wrong");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("#token-value").value === "");
  await field.fill(TOKEN);
  await page.keyboard.press("Enter");
  await page.getByText("There is no function yet").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.getItem("fnbuild-token")), TOKEN);
  assert.equal(await page.evaluate(() => localStorage.length), 0);
  // The browser itself writes every 401 to the console.
  const told = troubles.splice(before);
  assert.ok(told.every((text) => text.includes("401")), `${told}`);
  await page.context().close();
  done("token");
}

try {
  await mouse();
  await keyboard();
  await markup();
  const [light, dark] = [await scheme("light"), await scheme("dark")];
  assert.notEqual(light, dark);
  done("dark");
  await narrow();
  await origin();
  await token();
  // A 400, a 404 and broken connections that a step above provoked are the browser's lines, not the page's.
  const expected = /Failed to load resource: (the server responded with a status of (400|404)|net::ERR_CONNECTION_ABORTED)/;
  assert.deepEqual(troubles.filter((text) => !expected.test(text)), []);
  done("quiet");
} catch (error) {
  // What the page says is the best clue.
  for (const page of browser.contexts().flatMap((context) => context.pages())) {
    const focus = await page.evaluate(() => document.activeElement.outerHTML.slice(0, 200));
    console.log(`${page.url()} has the focus on ${focus} and says:\n${await page.locator("body").innerText()}`);
  }
  console.log([...troubles, ...changes].join("\n"));
  throw error;
} finally {
  await browser.close();
}
