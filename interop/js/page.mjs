// The official client over WebSocket in a browser page. browser.mjs gives the page `agentEvent`.

import { createAgent } from "./agent.mjs";

globalThis.agentHandle = createAgent((event) => globalThis.agentEvent(JSON.stringify(event)));
