// The link client on js-libp2p: commands on standard input, events on standard output, as drivers/agent.py has it.
// The first argument is the protocol's page. Owns the connection and the commands.

import { createInterface } from "node:readline";
import WebSocket from "ws";

// Node.js 20 has neither, and libp2p uses both.
globalThis.WebSocket ??= WebSocket;
Promise.withResolvers ??= () => {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
};

const { generateKeyPair, publicKeyFromProtobuf } = await import("@libp2p/crypto/keys");
const { peerIdFromPublicKey } = await import("@libp2p/peer-id");
const { noise } = await import("@chainsafe/libp2p-noise");
const { yamux } = await import("@chainsafe/libp2p-yamux");
const { tcp } = await import("@libp2p/tcp");
const { webSockets } = await import("@libp2p/websockets");
const { createLibp2p } = await import("libp2p");
const { multiaddr } = await import("@multiformats/multiaddr");
const { Frames } = await import("./link_frames.mjs");
const { Member, Refused } = await import("./link_member.mjs");

const PROTOCOL = "/waymeet/link/1";
const frames = new Frames(process.argv[2]);

// An Ed25519 peer id is an identity multihash: two bytes, then libp2p's public key message.
const keyOf = (peer) => publicKeyFromProtobuf(peer.subarray(2));

function toBlock(headers) {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.from(lines.length > 0 ? `NATS/1.0\r\n${lines.join("")}\r\n` : "");
}

function fromBlock(block) {
  const headers = {};
  for (const line of (block ?? Buffer.alloc(0)).toString().split("\r\n").slice(1)) {
    const colon = line.indexOf(":");
    if (colon < 0) continue;
    (headers[line.slice(0, colon)] ??= []).push(line.slice(colon + 1).trim());
  }
  return headers;
}

class Agent {
  #requests = new Map();
  #passed = new Map();
  #number = 0;

  emit(event) {
    process.stdout.write(`${JSON.stringify(event)}\n`);
  }

  async handle({ id, op, ...command }) {
    try {
      this.emit({ id, ok: true, ...(await this[op](command)) });
    } catch (error) {
      this.emit({ id, ok: false, error: error.unanswered ?? String(error) });
    }
  }

  // Dials a node and returns once the link is up; the failure says why the node refused.
  async connect({ url, secret = "" }) {
    this.key = await generateKeyPair("Ed25519");
    this.host = await createLibp2p({
      privateKey: this.key,
      transports: [tcp(), webSockets()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
    });
    const address = multiaddr(url);
    const connection = await this.host.dial(address);
    this.stream = await connection.newStream(PROTOCOL);
    const peer = Buffer.from(this.host.peerId.toMultihash().bytes);
    const neighbour = Buffer.from(connection.remotePeer.toMultihash().bytes);
    this.member = new Member(frames, peer, neighbour, Buffer.from(secret, "base64"), this);
    this.up = Promise.withResolvers();
    this.ended = new Promise((resolve) => this.#read().then(resolve));
    this.member.begin();
    await this.#orEnd(this.up.promise);
    return { peer_id: this.toText(peer) };
  }

  // Reads until the link ends; the result is why it did.
  async #read() {
    let why = "the stream ended";
    try {
      for await (const data of this.stream) {
        await this.member.push(data.subarray());
        if (this.member.phase === "up") this.up.resolve();
      }
    } catch (error) {
      why = error instanceof Refused ? error.message : String(error);
    }
    this.emit({ ended: why });
    return why;
  }

  #orEnd(promise) {
    return Promise.race([promise, this.ended.then((why) => Promise.reject(new Error(why)))]);
  }

  // Returns when the node has taken all that was said before.
  #settled() {
    const passed = Promise.withResolvers();
    this.#passed.set(this.member.ping(), passed.resolve);
    return this.#orEnd(passed.promise);
  }

  async publish({ subject, payload, headers }) {
    this.member.publish(subject, Buffer.from(payload, "base64"), toBlock(headers));
    await this.#settled();
  }

  async subscribe({ sid, subject, queue }) {
    this.member.subscriptions.set(sid, { filter: subject, queue });
    await this.member.announce();
    await this.#settled();
  }

  async unsubscribe({ sid }) {
    this.member.subscriptions.delete(sid);
    await this.member.announce();
    await this.#settled();
  }

  // A reply comes to a subject that nobody was told of: it carries the way back.
  async request({ subject, payload, headers, timeout_ms }) {
    this.#number += 1;
    const reply = `_INBOX.link.${this.#number}`;
    const answered = Promise.withResolvers();
    this.member.inboxes.add(reply);
    const body = Buffer.from(payload, "base64");
    const [sequence, asked] = this.member.publish(subject, body, toBlock(headers), reply);
    this.#requests.set(reply, { sequence, ...answered });
    if (asked === 0) answered.reject({ unanswered: "no_responders" });
    const timer = setTimeout(() => answered.reject({ unanswered: "timeout" }), timeout_ms);
    try {
      const message = await this.#orEnd(answered.promise);
      const payload = (message.payload ?? Buffer.alloc(0)).toString("base64");
      return { payload, headers: fromBlock(message.headers) };
    } finally {
      clearTimeout(timer);
      this.#requests.delete(reply);
      this.member.inboxes.delete(reply);
    }
  }

  // Says good-bye and waits until the node has ended the link.
  async leave() {
    this.member.leave();
    return { why: await this.ended };
  }

  // What this member has learned: the interest of each node.
  async nodes() {
    const wanted = (node) => [...node.entries.values()].map((entry) => [entry.filter, entry.queue ?? ""]).sort();
    const nodes = [...this.member.nodes.values()].map((node) => [this.toText(node.peer), wanted(node)]);
    return { nodes: Object.fromEntries(nodes) };
  }

  // What the member needs of its driver.

  send(bytes) {
    this.stream.send(bytes);
  }

  sign(bytes) {
    return this.key.sign(bytes);
  }

  verify(peer, signature, bytes) {
    return keyOf(peer).verify(bytes, signature);
  }

  toText(peer) {
    return peerIdFromPublicKey(keyOf(peer)).toString();
  }

  onPong(number) {
    this.#passed.get(number)?.();
    this.#passed.delete(number);
  }

  onRefused(sequence) {
    for (const request of this.#requests.values()) {
      if (request.sequence === sequence) request.reject({ unanswered: "no_responders" });
    }
  }

  onMessage(name, message, reply) {
    const request = this.#requests.get(name);
    if (request) {
      request.resolve(message);
      return;
    }
    const payload = (message.payload ?? Buffer.alloc(0)).toString("base64");
    this.emit({ sid: name, subject: message.subject, payload, headers: fromBlock(message.headers), reply });
  }
}

const agent = new Agent();
createInterface({ input: process.stdin })
  .on("line", (line) => agent.handle(JSON.parse(line)))
  .on("close", () => process.exit(0));
