// The official client over WebSocket in Node.js: commands on standard input, events on standard output.

import { createInterface } from "node:readline";
import WebSocket from "ws";
import { createAgent } from "./agent.mjs";

// Node.js 20 has no WebSocket of its own; the client looks for the global that browsers have.
globalThis.WebSocket ??= WebSocket;

const handle = createAgent((event) => process.stdout.write(JSON.stringify(event) + "\n"));
createInterface({ input: process.stdin })
  .on("line", (line) => handle(JSON.parse(line)))
  .on("close", () => process.exit(0));
