// The console: live rates from /metrics and a form for each verb. It uses only what any client can use.
"use strict";

const POLL_MS = 1000;
const HISTORY = 60;
const MAX_MESSAGES = 200;
const MAX_SHOWN = 4096;
const LISTENERS = { nats: "NATS", websocket: "NATS over WebSocket", http: "HTTP", coap: "CoAP", lines: "Lines", datagrams: "Datagrams", mesh: "Peers", embedded: "In process" };

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);

$("name").textContent = facts.name;
$("id").textContent = facts.id;
$("version").textContent = `Waymeet ${facts.version}`;
document.title = `${facts.name} · Waymeet`;

// Metrics: one sample is a list of { name, labels, value }.

function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^([a-z_]+)(?:\{(.*)\})? ([^ ]+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] || "").matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    samples.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return samples;
}

function sum(samples, name, labels = {}) {
  const wanted = Object.entries(labels);
  return samples
    .filter((s) => s.name === name && wanted.every(([label, value]) => s.labels[label] === value))
    .reduce((total, s) => total + s.value, 0);
}

function shown(rate) {
  if (rate >= 1e6) return `${(rate / 1e6).toFixed(2)} M`;
  if (rate >= 1e4) return `${(rate / 1e3).toFixed(1)} k`;
  return rate >= 10 || Number.isInteger(rate) ? Math.round(rate).toLocaleString("en") : rate.toFixed(1);
}

const histories = {};
function draw(key, value) {
  const history = (histories[key] ||= []);
  history.push(value);
  if (history.length > HISTORY) history.shift();
  const top = Math.max(1, ...history);
  const points = history.map((v, i) => `${120 - (history.length - 1 - i) * (120 / (HISTORY - 1))},${26 - (v / top) * 24}`);
  $(`line-${key}`).firstElementChild.setAttribute("points", points.join(" "));
}

let previous = null;
function show(samples, at) {
  const seconds = previous ? (at - previous.at) / 1000 : 0;
  const rate = (name, labels) => {
    if (seconds <= 0) return 0;
    return Math.max(0, (sum(samples, name, labels) - sum(previous.samples, name, labels)) / seconds);
  };
  for (const [key, name] of [["in", "waymeet_messages_in_total"], ["out", "waymeet_messages_out_total"], ["dropped", "waymeet_messages_dropped_total"]]) {
    const value = rate(name);
    $(`rate-${key}`).textContent = shown(value);
    draw(key, value);
  }
  const subscriptions = sum(samples, "waymeet_subscriptions");
  $("subscriptions").textContent = shown(subscriptions);
  draw("subscriptions", subscriptions);
  for (const row of $("listeners").children) {
    const labels = { listener: row.dataset.listener };
    const cells = row.querySelectorAll(".number");
    const values = [
      sum(samples, "waymeet_sessions", labels),
      rate("waymeet_messages_in_total", labels),
      rate("waymeet_messages_out_total", labels),
      sum(samples, "waymeet_messages_dropped_total", labels),
    ];
    values.forEach((value, i) => (cells[i].textContent = shown(value)));
  }
  const reasons = new Map();
  for (const s of samples) {
    if (s.name === "waymeet_messages_dropped_total" && s.value > 0) {
      reasons.set(s.labels.reason, (reasons.get(s.labels.reason) || 0) + s.value);
    }
  }
  $("reasons").hidden = reasons.size === 0;
  $("reasons").textContent = `Dropped since the start: ${[...reasons].map(([r, n]) => `${n.toLocaleString("en")} ${r}`).join(", ")}`;
  previous = { samples, at };
}

function setState(state, text) {
  if ($("state").dataset.state === state) return;
  $("state").dataset.state = state;
  $("state").textContent = text;
}

async function poll() {
  try {
    const response = await fetch("/metrics", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    // The login has ended: the page asks for it again.
    if (response.status === 401) return location.reload();
    if (!response.ok) throw new Error(response.statusText);
    show(parseMetrics(await response.text()), performance.now());
    setState("live", "live");
  } catch {
    previous = null;
    setState("lost", "node does not answer");
  }
  setTimeout(poll, POLL_MS);
}

for (const { listener, address } of facts.listeners) {
  const row = $("listeners").insertRow();
  row.dataset.listener = listener;
  row.insertCell().textContent = LISTENERS[listener] || listener;
  row.insertCell().textContent = address;
  for (let i = 0; i < 4; i++) row.insertCell().className = "number";
}
poll();

// The mesh: this node in the middle, its links around it, and behind each link the nodes that are reached over it.

const TOPOLOGY_EVERY_MS = 2000;
const CENTRE = { x: 320, y: 130 };

function shape(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  return node;
}

function place(nodes, radius, from, to) {
  const step = (to - from) / nodes.length;
  return nodes.map((node, i) => {
    const angle = from + step * (i + 0.5);
    return { node, angle, step, x: CENTRE.x + 2 * radius * Math.cos(angle), y: CENTRE.y + radius * Math.sin(angle) };
  });
}

function drawTopology({ id, name, peers }) {
  const links = peers.filter((peer) => !peer.via);
  const behind = (hop) => peers.filter((peer) => peer.via === hop.id);
  const lines = [];
  const dots = [];
  const dot = ({ node, x, y }, kind) => {
    const group = shape("g", { class: kind });
    group.append(shape("circle", { cx: x, cy: y, r: kind === "self" ? 9 : 6 }));
    group.append(shape("text", { x, y: y - 11, "text-anchor": "middle" }, node.name || node.id.slice(-8)));
    const rtt = node.rtt_ms === null || node.rtt_ms === undefined ? "" : `, ${node.rtt_ms.toFixed(1)} ms`;
    group.append(shape("title", {}, kind === "self" ? node.id : `${node.id}\n${node.transport}${rtt}, ${node.interests} filters`));
    dots.push(group);
  };
  const line = (a, b, kind) => lines.push(shape("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, class: kind }));
  for (const hop of place(links, 70, -Math.PI, Math.PI)) {
    line(CENTRE, hop, `link ${hop.node.transport}`);
    dot(hop, "peer");
    for (const far of place(behind(hop.node), 108, hop.angle - hop.step / 2, hop.angle + hop.step / 2)) {
      line(hop, far, "way");
      dot(far, "peer far");
    }
  }
  dot({ node: { id, name }, ...CENTRE }, "self");
  $("topology").replaceChildren(...lines, ...dots);
  $("peers").hidden = peers.length === 0;
}

async function pollPeers() {
  try {
    const response = await fetch("/peers", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (response.ok) drawTopology(await response.json());
  } catch {
    // The traffic above says that the node does not answer.
  }
  setTimeout(pollPeers, TOPOLOGY_EVERY_MS);
}
pollPeers();

// The forms. Each shows the command that does the same.

const quote = (text) => (/^[\w./:=%@+,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const path = (verb, subject) => `/${verb}/${encodeURIComponent(subject)}`;
// In a command the wildcards and dots stay readable; the shell sees them inside quotes.
const readable = (verb, subject) => `${location.origin}/${verb}/${encodeURIComponent(subject).replace(/%3E$/, "**")}`;

function filterQuery(form) {
  const filters = form.filter.value.trim().split(/\s+/).filter(Boolean);
  const query = new URLSearchParams(filters.map((filter) => ["filter", filter]));
  if (form.queue.value) query.append("queue", form.queue.value);
  return { filters, query };
}

const commands = {
  publish: (form) => `curl -d ${quote(form.payload.value)} ${quote(readable("pub", form.subject.value))}`,
  request: (form) => {
    const data = form.payload.value ? `-d ${quote(form.payload.value)} ` : "";
    return `curl ${data}${quote(`${readable("req", form.subject.value)}?timeout=${form.timeout.value}`)}`;
  },
  subscribe: (form) => {
    const { filters, query } = filterQuery(form);
    if (filters.length !== 1) return `curl -N ${quote(`${location.origin}/sub?${query}`)}`;
    const queue = form.queue.value ? `?queue=${encodeURIComponent(form.queue.value)}` : "";
    return `curl -N ${quote(readable("sub", filters[0]) + queue)}`;
  },
};

for (const [id, command] of Object.entries(commands)) {
  const form = $(id);
  const update = () => (form.querySelector(".command").textContent = command(form));
  form.addEventListener("input", update);
  update();
}

function report(form, failed, text) {
  const result = form.querySelector(".result");
  result.hidden = false;
  result.classList.toggle("failed", failed);
  result.textContent = text;
}

function send(id, target) {
  const form = $(id);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    const begun = performance.now();
    try {
      const body = form.payload.value;
      // A payload from a text field is text; without one there is no body to describe.
      const options = { method: "POST", body: new Blob([body], { type: body ? "text/plain" : "" }) };
      const response = await fetch(target(form), options);
      const text = await response.text();
      const took = (performance.now() - begun).toFixed(1);
      report(form, !response.ok, `${response.status} ${response.statusText} in ${took} ms\n${shortened(text)}`);
    } catch (error) {
      report(form, true, String(error.message || error));
    } finally {
      button.disabled = false;
    }
  });
}
send("publish", (form) => path("pub", form.subject.value));
send("request", (form) => `${path("req", form.subject.value)}?timeout=${encodeURIComponent(form.timeout.value)}`);

// The subscription: server-sent events, newest first, at most MAX_MESSAGES of them.

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
let source = null;
let received = 0;

function shortened(text) {
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}… (${text.length.toLocaleString("en")} characters)` : text;
}

function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function addRow(className, ...parts) {
  const list = $("messages");
  list.querySelector(".empty")?.remove();
  const item = element("li", className, "");
  item.append(element("time", "", clock.format(new Date())), ...parts);
  list.prepend(item);
  while (list.children.length > MAX_MESSAGES) list.lastElementChild.remove();
}

function addMessage(envelope) {
  received += 1;
  const payload = "payload" in envelope ? envelope.payload : `base64 ${envelope.payload_base64}`;
  const extra = Object.entries(envelope.headers || {}).map(([name, values]) => `${name}: ${values.join(", ")}`);
  if (envelope.reply) extra.unshift(`reply: ${envelope.reply}`);
  const parts = [element("span", "subject", envelope.subject), element("span", "payload", shortened(payload))];
  if (extra.length) parts.push(element("span", "headers", extra.join(" · ")));
  addRow("", ...parts);
}

function stop(text) {
  source?.close();
  source = null;
  $("subscribe").querySelector("button").textContent = "Subscribe";
  $("received-state").textContent = text;
}

$("subscribe").addEventListener("submit", (event) => {
  event.preventDefault();
  if (source) return stop(`ended after ${received.toLocaleString("en")}`);
  const { filters, query } = filterQuery($("subscribe"));
  received = 0;
  $("received").hidden = false;
  $("messages").replaceChildren(element("li", "empty", "Nothing yet. Publish something above, or from any other protocol."));
  $("subscribe").querySelector("button").textContent = "Stop";
  $("received-state").textContent = "subscribing";
  source = new EventSource(`/sub?${query}`);
  source.onopen = () => ($("received-state").textContent = `subscribed to ${filters.join(" ")}`);
  source.onmessage = (message) => {
    addMessage(JSON.parse(message.data));
    $("received-state").textContent = `${received.toLocaleString("en")} from ${filters.join(" ")}`;
  };
  source.addEventListener("gap", (gap) => {
    const { dropped, reason } = JSON.parse(gap.data);
    addRow("gap", element("span", "", `${dropped.toLocaleString("en")} messages were dropped: ${reason}`));
  });
  source.onerror = () => {
    if (source?.readyState === EventSource.CLOSED) stop("the node refused the subscription");
    else $("received-state").textContent = "connection lost, trying again";
  };
});
$("clear").addEventListener("click", () => $("messages").replaceChildren());
