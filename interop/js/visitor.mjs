// A person with a browser: does with one page what the commands on standard input say, and answers on standard output.
// Every name ending in `.example` is this machine, as if somebody's DNS said so.

import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

// A browser on a busy machine of two cores. Only a test that fails waits for all of it.
const PATIENCE_MS = 60_000;
const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  timeout: PATIENCE_MS,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--host-resolver-rules=MAP *.example 127.0.0.1",
  ],
});
process.on("SIGTERM", () => browser.close().finally(() => process.exit(0)));
let page;
let asked;
// What pages have said against themselves since this program began.
const complaints = [];

// A connection that was cut is no fault of the page, which shows it; a status that says no may be one.
const isTheNetworks = (text) => text.startsWith("Failed to load resource: net::");

async function begin(options) {
  await page?.context().close();
  page = await (await browser.newContext(options)).newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  asked = [];
  page.on("console", (message) => {
    if (message.type() === "error" && !isTheNetworks(message.text())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => asked.push(request.url()));
}
await begin({});

const operations = {
  // Begins anew as somebody with this window, language and taste: `viewport`, `locale`, `colorScheme`.
  async begin({ options }) {
    await begin(options);
    return {};
  },
  async open({ url }) {
    const response = await page.goto(url);
    // Another view of the same page is no navigation.
    return { status: response?.status(), text: await page.innerText("body") };
  },
  async login({ user, password }) {
    await page.fill("input[name=user]", user);
    await page.fill("input[name=password]", password);
    const [response] = await Promise.all([page.waitForNavigation(), page.click("button")]);
    return { status: response.status(), url: page.url(), text: await page.innerText("body") };
  },
  async text({ selector }) {
    return { text: await page.innerText(selector) };
  },
  async waits({ selector, text }) {
    await page.waitForFunction(
      ([selector, text]) => document.querySelector(selector)?.textContent.includes(text),
      [selector, text],
    );
    return {};
  },
  async click({ selector }) {
    await page.click(selector);
    return {};
  },
  async fill({ selector, value }) {
    await page.fill(selector, value);
    return {};
  },
  async select({ selector, value }) {
    await page.selectOption(selector, value);
    return {};
  },
  // Keys one after the other, as a keyboard sends them to whatever has the focus.
  async press({ keys }) {
    for (const key of keys) await page.keyboard.press(key);
    return {};
  },
  async types({ text }) {
    await page.keyboard.type(text);
    return {};
  },
  // Tab after tab until the focus is on what is looked for.
  async tabsTo({ selector }) {
    for (let turn = 0; turn < 80; turn++) {
      await page.keyboard.press("Tab");
      if (await page.evaluate((selector) => document.activeElement?.matches(selector), selector)) return { turns: turn + 1 };
    }
    throw new Error(`80 tabs do not lead to ${selector}`);
  },
  // What an expression says in the page, as JSON.
  async evaluate({ expression }) {
    return { value: await page.evaluate(expression) };
  },
  // As soon as an expression holds. The page's policy forbids to let the page itself look again and again.
  async until({ expression }) {
    const end = Date.now() + PATIENCE_MS;
    while (!(await page.evaluate(expression))) {
      if (Date.now() > end) throw new Error(`it did not come to this: ${expression}; ${await page.innerText("body")}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return {};
  },
  async shoot({ path, fullPage }) {
    await page.screenshot({ path, fullPage: fullPage ?? false, animations: "disabled" });
    return {};
  },
  // What axe-core finds that is serious or worse.
  async axe() {
    await page.evaluate(readFileSync(AXE, "utf8"));
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
    return { findings: serious.map(({ id, nodes }) => ({ id, where: nodes.map(({ html, any }) => [html.slice(0, 200), any[0]?.message]) })) };
  },
  // Seconds of work since the page was opened.
  async work() {
    const session = await page.context().newCDPSession(page);
    await session.send("Performance.enable");
    const { metrics } = await session.send("Performance.getMetrics");
    await session.detach();
    return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
  },
  async asked() {
    return { urls: asked };
  },
  // Submits a form of the page's own making: what a page elsewhere can do without asking anybody.
  async post({ url, fields }) {
    const navigation = page.waitForNavigation();
    await page.evaluate(
      ([url, fields]) => {
        const form = document.createElement("form");
        form.method = "post";
        form.action = url;
        for (const [name, value] of Object.entries(fields)) {
          const input = document.createElement("input");
          [input.name, input.value] = [name, value];
          form.append(input);
        }
        document.body.append(form);
        form.submit();
      },
      [url, fields],
    );
    return { status: (await navigation).status() };
  },
  // What a script of the page is told; `blocked` when the browser keeps the answer from it.
  async fetch({ url, options }) {
    return page.evaluate(
      ([url, options]) =>
        fetch(url, { credentials: "include", ...options }).then(
          async (response) => ({ status: response.status, text: await response.text() }),
          () => ({ blocked: true }),
        ),
      [url, options ?? {}],
    );
  },
  async script() {
    return { cookie: await page.evaluate(() => document.cookie), complaints };
  },
  async cookies() {
    return { cookies: await page.context().cookies() };
  },
};

createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const { id, op, ...command } = JSON.parse(line);
    let answer;
    try {
      answer = { ok: true, ...(await operations[op](command)) };
    } catch (error) {
      answer = { ok: false, error: String(error) };
    }
    process.stdout.write(JSON.stringify({ id, ...answer }) + "\n");
  })
  .on("close", () => browser.close().finally(() => process.exit(0)));
