// The chat page in headless Chromium: streaming, stop, settings, light and dark, no other host. SHOTS names a folder for
// pictures, to be looked at.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const url = process.env.PLANISH_URL ?? "http://127.0.0.1:23333";
const shots = process.env.SHOTS;
if (shots) mkdirSync(shots, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const strangers = [];
const complaints = [];

async function fresh(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 760 }, ...options });
  const page = await context.newPage();
  page.on("request", (request) => request.url().startsWith(url) || request.url().startsWith("data:") || strangers.push(request.url()));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  // While the page is being worked on: its parts from a folder in place of the server's.
  if (process.env.PAGES)
    await page.route(/\/(chat|chat\.css|chat\.js|markdown\.js)$/, (route) => {
      const name = new URL(route.request().url()).pathname.slice(1);
      const file = name.includes(".") ? name : `${name}.html`;
      const kind = file.endsWith("html") ? "text/html" : file.endsWith("css") ? "text/css" : "text/javascript";
      route.fulfill({ body: readFileSync(`${process.env.PAGES}/${file}`), contentType: kind });
    });
  await page.goto(`${url}/chat`);
  await page.waitForFunction(() => document.querySelector("#model").value !== "");
  return page;
}

const shoot = async (page, name) => shots && (await page.screenshot({ path: `${shots}/${name}.png` }));
const say = async (page, text) => {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
};
const ended = (page, count) =>
  page.waitForFunction((n) => document.querySelectorAll(".turn.assistant .foot").length >= n && document.querySelector("#stop").hidden, count, { timeout: 600000 });
const set = (page, id, value) => page.$eval(`#${id}`, (element, text) => {
  element.value = text;
  element.dispatchEvent(new Event("input", { bubbles: true }));
}, String(value));

const checks = {
  async "an answer streams"() {
    const page = await fresh();
    await shoot(page, "welcome");
    await page.click("#toggle");
    await set(page, "max_tokens", 48);
    await set(page, "temperature", 0);
    await page.evaluate(() => {
      window.seen = [];
      new MutationObserver(() => window.seen.push(document.querySelector(".turn.assistant .body")?.textContent ?? "")).observe(
        document.querySelector("#log"), { subtree: true, childList: true, characterData: true });
    });
    await say(page, "Write a list of three fruits.");
    await ended(page, 1);
    const text = await page.textContent(".turn.assistant .body");
    const lengths = new Set((await page.evaluate(() => window.seen)).map((seen) => seen.length));
    assert.ok(text.length > 10 && lengths.size > 3, `${lengths.size} states of ${JSON.stringify(text)}`);
    assert.match(await page.textContent(".foot"), /\d+ tokens, [\d.]+ tokens\/s/);
    await shoot(page, "answer");
  },
  async "stop ends an answer and the server's work"() {
    const page = await fresh();
    await set(page, "max_tokens", 4000);
    // An answer that does not end by itself, however slow the machine is.
    const endless = (route) => route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) });
    await page.route("**/chat/completions", endless);
    await say(page, "Write a very long story about a fox.");
    await page.waitForFunction(() => (document.querySelector(".turn.assistant .body")?.textContent ?? "").length > 10, null, { timeout: 600000 });
    await shoot(page, "running");
    await page.click("#stop");
    await page.unroute("**/chat/completions", endless);
    await ended(page, 1);
    assert.match(await page.textContent(".foot"), /stopped/);
    for (let i = 0; ; i++) {
      const metrics = await (await fetch(`${url}/metrics`)).text();
      if (/^planish_http_requests_inside 0$/m.test(metrics)) break;
      assert.ok(i < 2400, "the request goes on");
      await new Promise((done) => setTimeout(done, 50));
    }
    // What was said is part of the conversation that goes on; "try again" forgets it.
    await set(page, "max_tokens", 4);
    let sent = null;
    page.on("request", (request) => request.method() === "POST" && (sent = request.postDataJSON()));
    await page.click(".again");
    await ended(page, 1);
    assert.equal(sent.messages.length, 1);
    await say(page, "And then?");
    await ended(page, 2);
    assert.deepEqual(sent.messages.map(({ role }) => role), ["user", "assistant", "user"]);
  },
  async "settings are sent, and kept but for the key"() {
    const page = await fresh();
    await page.click("#toggle");
    const values = { system: "Be brief.", temperature: 0.2, top_p: 0.9, top_k: 40, repetition_penalty: 1.1, max_tokens: 3, seed: 7 };
    for (const [id, value] of Object.entries(values)) await set(page, id, value);
    await page.fill("#key", "secret");
    const sent = page.waitForRequest((request) => request.method() === "POST");
    await say(page, "Hi");
    const body = (await sent).postDataJSON();
    assert.deepEqual(body.messages, [{ role: "system", content: "Be brief." }, { role: "user", content: "Hi" }]);
    for (const [id, value] of Object.entries(values)) if (id !== "system") assert.equal(body[id], value, id);
    assert.equal((await sent).headers().authorization, "Bearer secret");
    await ended(page, 1);
    await shoot(page, "settings");
    await page.reload();
    assert.deepEqual([await page.inputValue("#system"), await page.inputValue("#seed"), await page.inputValue("#key")], ["Be brief.", "7", ""]);
    await page.click("#toggle");
    await page.click("#restore");
    assert.equal(await page.inputValue("#system"), "");
  },
  async "light, dark, and small"() {
    const back = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await fresh({ colorScheme: "dark" });
    const light = await fresh({ colorScheme: "light" });
    assert.notEqual(await back(dark), await back(light));
    const night = await back(dark);
    await dark.click("#theme");
    assert.equal(await back(dark), await back(light));
    await dark.click("#theme");
    assert.equal(await back(dark), night);
    await dark.evaluate(() => {
      messages.push({ role: "user", content: "x" });
      show(make("div", "turn user")).append(make("div", "body", "How do I read a file in Python?"));
      const turn = answerTurn();
      turn.think("They want a short example.");
      turn.say("Use **open** with a `with` block:\n\n```python\nwith open(\"notes.txt\") as file:\n    text = file.read()\n```\n\n1. It closes the file by itself.\n2. *Text* is read as UTF-8.\n\n> Binary files need \"rb\".");
      turn.end("42 tokens, 61.3 tokens/s");
    });
    await shoot(dark, "dark");
    const phone = await fresh({ viewport: { width: 390, height: 700 } });
    assert.ok(await phone.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing sticks out");
    await shoot(phone, "phone");
  },
  async "markup of an answer stays text"() {
    const page = await fresh();
    const found = await page.evaluate(() => {
      const turn = answerTurn();
      turn.say("<img src=x onerror=alert(1)> [a](javascript:alert(1)) <script>alert(1)</script>");
      turn.end("");
      const body = document.querySelector(".turn .body");
      return [body.querySelectorAll("img, script, a").length, body.textContent];
    });
    assert.equal(found[0], 0);
    assert.match(found[1], /<img src=x/);
  },
  async "an error is shown in the server's words"() {
    const page = await fresh();
    const before = complaints.length;
    await set(page, "max_tokens", 99999999);
    await say(page, "Hi");
    await page.waitForSelector(".error");
    assert.match(await page.textContent(".error"), /longest sequence/);
    await shoot(page, "error");
    // Chromium itself complains about the status.
    complaints.splice(before);
  },
  async "nothing else was asked or complained of"() {
    assert.deepEqual(strangers, []);
    assert.deepEqual(complaints, []);
  },
};

let [passed, failed] = [0, 0];
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    passed += 1;
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.stack}`);
  }
}
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
