// A person with a browser: does with one page what the commands on standard input say, and answers on standard output.
// Every name ending in `.example` is this machine, as if somebody's DNS said so.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--host-resolver-rules=MAP *.example 127.0.0.1",
  ],
});
process.on("SIGTERM", () => browser.close().finally(() => process.exit(0)));
const page = await browser.newPage();
const complaints = [];
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(String(error)));

const operations = {
  async open({ url }) {
    const response = await page.goto(url);
    return { status: response.status(), text: await page.innerText("body") };
  },
  async login({ user, password }) {
    await page.fill("input[name=user]", user);
    await page.fill("input[name=password]", password);
    const [response] = await Promise.all([page.waitForNavigation(), page.click("button")]);
    return { status: response.status(), url: page.url(), text: await page.innerText("body") };
  },
  async text({ selector }) {
    return { text: await page.innerText(selector, { timeout: 10_000 }) };
  },
  async waits({ selector, text }) {
    await page.waitForFunction(
      ([selector, text]) => document.querySelector(selector)?.textContent.includes(text),
      [selector, text],
      { timeout: 10_000 },
    );
    return {};
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
