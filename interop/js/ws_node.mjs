// The official client over WebSocket in Node.js: commands on standard input, events on standard output.
// What a browser would do at the upgrade, such as showing a certificate or a cookie, comes as `UPGRADE` in the
// environment: the options of `ws`, with `ca`, `cert` and `key` as names of files.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import WebSocket from "ws";
import { createAgent } from "./agent.mjs";

const upgrade = JSON.parse(process.env.UPGRADE ?? "{}");
for (const file of ["ca", "cert", "key"]) {
  if (upgrade[file]) upgrade[file] = readFileSync(upgrade[file]);
}

// Node.js 20 has no WebSocket of its own; the client looks for the global that browsers have.
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    super(url, upgrade);
  }
};

const handle = createAgent((event) => process.stdout.write(JSON.stringify(event) + "\n"));
createInterface({ input: process.stdin })
  .on("line", (line) => handle(JSON.parse(line)))
  .on("close", () => process.exit(0));
