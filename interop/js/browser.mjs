// Opens a page in Debian's Chromium and relays commands and events between it and standard input and output.
// `node browser.mjs URL`: the page is a real one, because its origin and address decide what it may reach.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [url] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
});
process.on("SIGTERM", () => browser.close().finally(() => process.exit(0)));

const page = await browser.newPage();
page.on("console", (message) => console.error(message.text()));
await page.goto(url);
await page.exposeFunction("agentEvent", (event) => process.stdout.write(event + "\n"));
await page.evaluate(readFileSync(new URL("page.bundle.js", import.meta.url), "utf8"));

createInterface({ input: process.stdin })
  .on("line", (line) => page.evaluate((command) => globalThis.agentHandle(command), JSON.parse(line)))
  .on("close", () => browser.close().finally(() => process.exit(0)));
