// A member of the mesh with one link, as docs/link-protocol.md describes it: bytes in, bytes and calls out.
// Owns the handshake, this member's own state and messages in both directions; it does no I/O. It announces
// everything that it wants each time, where the client in Python sends what has changed.

import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { framed, Splitter, varint } from "./link_frames.mjs";

const WINDOW = 1024 * 1024;
const MAX_FRAME = 2 * 1024 * 1024;
const LEAVING = 1;
const UNREADABLE = 8;
const RECORD_LABEL = Buffer.from("waymeet link 1 record");
const PROOF_LABEL = Buffer.from("waymeet link 1 proof");

// The other side said good-bye, or what it sent does not hold.
export class Refused extends Error {}

// The eight bytes that name one life of a node, as the decimal text that frames have them in.
function tagOf(peer, epoch) {
  const life = Buffer.alloc(8);
  life.writeBigUInt64BE(BigInt(epoch));
  return createHash("sha256").update(peer).update(life).digest().readBigUInt64BE().toString();
}

function interestDigest(entries) {
  const sorted = entries.map((e) => [Buffer.from(e.filter), Buffer.from(e.queue ?? ""), e.members ?? 0]);
  sorted.sort((a, b) => Buffer.compare(a[0], b[0]) || Buffer.compare(a[1], b[1]));
  const hash = createHash("sha256");
  for (const [filter, queue, members] of sorted) {
    hash.update(varint(filter.length)).update(filter);
    hash.update(varint(queue.length)).update(queue).update(varint(members));
  }
  return hash.digest();
}

export function matches(filter, subject) {
  const wanted = filter.split(".");
  const tokens = subject.split(".");
  for (let i = 0; i < Math.max(wanted.length, tokens.length); i += 1) {
    if (wanted[i] === ">" && i < tokens.length) return true;
    if (i >= wanted.length || i >= tokens.length) return false;
    if (wanted[i] !== "*" && wanted[i] !== tokens[i]) return false;
  }
  return true;
}

export class Member {
  phase = "hello";
  subscriptions = new Map();
  // Where replies come to. Nobody is told of them: a reply carries its way back.
  inboxes = new Set();
  nodes = new Map();
  #splitter = new Splitter();
  #epoch = Date.now();
  #records = 0;
  #version = 0;
  #announced = "[]";
  #sequences = 0;
  #pings = 0;
  #asked = new Map();
  #seen = new Map();
  #sent = 0;
  #limit = 0;
  #waiting = [];
  #received = 0;
  #granted = WINDOW;

  // `driver` has `send(bytes)`, `sign(bytes)`, `verify(peer, signature, bytes)`, which may be promises,
  // `toText(peer)`, and is told of what came with `onMessage`, `onRefused` and `onPong`.
  constructor(frames, peer, neighbour, secret, driver) {
    Object.assign(this, { frames, peer, neighbour, secret, driver });
    this.tag = tagOf(peer, this.#epoch);
  }

  begin() {
    this.ownHello = this.frames.encode("hello", {
      version: 1,
      nonce: randomBytes(32),
      epoch: this.#epoch,
      attempt: 1,
      max_frame: MAX_FRAME,
      window: WINDOW,
    });
    this.driver.send(framed(this.ownHello));
  }

  #proof(prover, verifier, proversHello, verifiersHello) {
    const hmac = createHmac("sha256", this.secret).update(PROOF_LABEL);
    for (const part of [prover, verifier, proversHello, verifiersHello]) {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(part.length);
      hmac.update(length).update(part);
    }
    return hmac.digest();
  }

  async #shakeHands(kind, fields, body) {
    if (this.phase === "hello" && kind === "hello") {
      this.theirHello = Buffer.from(body);
      this.#limit = Number(fields.window ?? 0);
      this.neighbourTag = tagOf(this.neighbour, fields.epoch);
      this.#send("proof", { hmac: this.#proof(this.peer, this.neighbour, this.ownHello, body) });
      this.phase = "proof";
    } else if (this.phase === "proof" && kind === "proof") {
      const right = this.#proof(this.neighbour, this.peer, this.theirHello, this.ownHello);
      if (!timingSafeEqual(right, fields.hmac)) throw new Refused("3 the node does not know the secret");
      this.phase = "up";
      await this.announce();
      this.#send("summary", {});
    } else {
      throw new Refused(`${UNREADABLE} a ${kind} in the handshake`);
    }
  }

  // Takes what was read from the stream.
  async push(data) {
    for (const body of this.#splitter.push(data)) {
      const [kind, fields] = this.frames.decode(body);
      if (kind === "go_away") throw new Refused(`${fields.code} ${fields.text}`);
      if (this.phase !== "up") await this.#shakeHands(kind, fields, body);
      else await this.#take(kind, fields, body);
    }
  }

  async #take(kind, fields, body) {
    switch (kind) {
      case "state":
        return this.#takeState(fields);
      case "summary":
        return this.announce();
      case "ask":
        return fields.node === this.tag ? this.announce() : undefined;
      case "message":
        return this.#takeMessage(fields, body);
      case "refusal":
        return this.#takeRefusal(fields);
      case "ping":
        return this.#send("pong", { number: fields.number });
      case "pong":
        return this.driver.onPong(Number(fields.number));
      case "credit":
        this.#limit = Math.max(this.#limit, Number(fields.limit));
        while (this.#waiting.length > 0 && this.#sent < this.#limit) this.#sendMessage(this.#waiting.shift());
    }
  }

  async #takeState(state) {
    const record = this.frames.decodeRecord(state.record);
    const id = record.peer.toString("hex");
    const [epoch, sequence] = [BigInt(record.epoch), BigInt(record.sequence)];
    if (record.peer.equals(this.peer)) {
      if (epoch < BigInt(this.#epoch)) return;
      this.#epoch = Number(epoch) + 1;
      this.tag = tagOf(this.peer, this.#epoch);
      this.#records = 0;
      return this.announce();
    }
    let node = this.nodes.get(id);
    if (node && (node.epoch > epoch || (node.epoch === epoch && node.sequence >= sequence))) return;
    const signed = Buffer.concat([RECORD_LABEL, state.record]);
    if (!(await this.driver.verify(record.peer, state.signature, signed))) {
      throw new Refused("9 a state that its origin did not sign");
    }
    const tag = tagOf(record.peer, record.epoch);
    if (!node || node.epoch !== epoch) node = { peer: record.peer, tag, epoch, version: "0", entries: new Map() };
    const entries = derive(node, state);
    if (!entries || !interestDigest([...entries.values()]).equals(record.interest_digest)) {
      if (state.change === "snapshot") throw new Refused("9 a snapshot that is not what was signed");
      return this.#send("ask", { node: tag });
    }
    const links = new Map(record.link.map((link) => [link.node, link.cost]));
    this.nodes.set(id, { ...node, sequence, entries, links, version: record.interest_version });
  }

  #takeMessage(message, body) {
    this.#received += framed(body).length;
    if (this.#received > this.#granted - (WINDOW * 3) / 4) {
      this.#granted = this.#received + WINDOW;
      this.#send("credit", { limit: this.#granted });
    }
    const tag = message.origin ?? this.neighbourTag;
    const origin = [...this.nodes.values()].find((node) => node.tag === tag);
    if (!origin || this.#wasSeen(tag, message.sequence)) return;
    let reply = message.reply || null;
    if (reply && !reply.startsWith("_PEER.")) reply = `_PEER.${this.driver.toText(origin.peer)}.${reply}`;
    const takers = this.#takers(message);
    for (const name of takers) this.driver.onMessage(name, message, reply);
    if (message.reply && takers.length === 0) {
      const { sequence, asked } = message;
      this.#send("refusal", { target: tag, sequence, reply: message.reply, asked });
    }
  }

  #wasSeen(tag, sequence) {
    const seen = this.#seen.get(tag) ?? new Set();
    this.#seen.set(tag, seen);
    if (seen.has(sequence)) return true;
    seen.add(sequence);
    // A set gives its values in the order in which they came; far more than 65,536 are never told apart.
    if (seen.size > 65_536) seen.delete(seen.values().next().value);
    return false;
  }

  // The names of the subscriptions that a message is for: plain ones, and one of each group that is for this member.
  #takers(message) {
    const here = message.target === this.tag;
    if (message.target !== undefined && !here) return [];
    if (here && this.inboxes.has(message.subject)) return [message.subject];
    const assigned = (message.assignment ?? []).filter((one) => one.node === this.tag).map((one) => one.queue);
    const groups = new Set();
    const takers = [];
    for (const [name, { filter, queue }] of this.subscriptions) {
      if (!matches(filter, message.subject) || groups.has(queue)) continue;
      if (queue && !here && !assigned.includes(queue)) continue;
      if (queue) groups.add(queue);
      takers.push(name);
    }
    return takers;
  }

  #takeRefusal(refusal) {
    const left = (this.#asked.get(refusal.sequence) ?? 0) - 1;
    if (refusal.target !== this.tag || left < 0) return;
    this.#asked.set(refusal.sequence, left);
    if (left === 0) {
      this.#asked.delete(refusal.sequence);
      this.driver.onRefused(Number(refusal.sequence));
    }
  }

  #send(kind, fields) {
    this.driver.send(framed(this.frames.encode(kind, fields)));
  }

  // Asks the node to answer when it has taken everything before; returns the number to look for.
  ping() {
    this.#pings += 1;
    this.#send("ping", { number: this.#pings });
    return this.#pings;
  }

  // Tells what this member wants now, all of it.
  async announce() {
    const entries = new Map();
    for (const { filter, queue } of this.subscriptions.values()) {
      const key = JSON.stringify([filter, queue ?? ""]);
      const entry = entries.get(key) ?? { filter, queue: queue ?? "", members: 0 };
      entries.set(key, { ...entry, members: queue ? entry.members + 1 : 0 });
    }
    const entry = [...entries.values()];
    if (JSON.stringify(entry) !== this.#announced) {
      this.#announced = JSON.stringify(entry);
      this.#version += 1;
    }
    this.#records += 1;
    const record = this.frames.encodeRecord({
      peer: this.peer,
      epoch: this.#epoch,
      sequence: this.#records,
      link: [{ node: this.neighbourTag, cost: 1 }],
      interest_version: this.#version,
      interest_digest: interestDigest(entry),
      name: "link-client-js",
    });
    const signature = await this.driver.sign(Buffer.concat([RECORD_LABEL, record]));
    this.#send("state", { record, signature, snapshot: { entry } });
  }

  // Publishes; returns the message's sequence and how many nodes are asked for a reply.
  publish(subject, payload, headers, reply = "") {
    this.#sequences += 1;
    const message = { sequence: this.#sequences, subject, payload, headers, reply };
    if (subject.startsWith("_PEER.")) {
      const [, peer, ...rest] = subject.split(".");
      message.target = [...this.nodes.values()].find((node) => this.driver.toText(node.peer) === peer).tag;
      message.subject = rest.join(".");
      message.asked = 1;
    } else {
      const [plain, groups] = this.#receivers(subject);
      message.assignment = [...groups].map(([queue, node]) => ({ queue, node }));
      message.asked = new Set([...plain, ...groups.values()]).size;
    }
    const { asked } = message;
    if (!reply) message.asked = 0;
    else this.#asked.set(String(this.#sequences), asked);
    this.#sendMessage(framed(this.frames.encode("message", message)));
    return [this.#sequences, asked];
  }

  #sendMessage(bytes) {
    if (this.#sent >= this.#limit) {
      this.#waiting.push(bytes);
      return;
    }
    this.#sent += bytes.length;
    this.driver.send(bytes);
  }

  // Who gets a message on `subject`: the tags of nodes with plain interest, and the nearest node of each group.
  #receivers(subject) {
    const plain = new Set();
    const groups = new Map();
    const byTag = new Map([...this.nodes.values()].map((node) => [node.tag, node]));
    for (const tag of this.#nearestFirst(byTag)) {
      for (const { filter, queue } of byTag.get(tag).entries.values()) {
        if (!matches(filter, subject)) continue;
        if (!queue) plain.add(tag);
        else if (!groups.has(queue)) groups.set(queue, tag);
      }
    }
    return [plain, groups];
  }

  // The tags of all nodes that can be reached. A link counts when both ends announce it.
  #nearestFirst(byTag) {
    const links = new Map([...byTag].map(([tag, node]) => [tag, node.links]));
    links.set(this.tag, new Map([[this.neighbourTag, 1]]));
    const distances = new Map([[this.tag, 0]]);
    const done = [];
    for (;;) {
      const open = [...distances].filter(([tag]) => !done.includes(tag)).sort((a, b) => a[1] - b[1]);
      if (open.length === 0) return done.slice(1);
      const [tag, distance] = open[0];
      done.push(tag);
      for (const [other, cost] of links.get(tag)) {
        const back = links.get(other)?.get(tag);
        if (back === undefined) continue;
        const there = distance + Math.max(cost, back);
        if (there < (distances.get(other) ?? Infinity)) distances.set(other, there);
      }
    }
  }

  leave() {
    this.#send("go_away", { code: LEAVING, text: "the test is over" });
  }
}

// The entries of a node after a state: the snapshot, or what is held with the delta, or what is held.
function derive(node, state) {
  const key = (entry) => JSON.stringify([entry.filter, entry.queue ?? ""]);
  const set = (entries, list) => new Map([...entries, ...(list ?? []).map((entry) => [key(entry), entry])]);
  if (state.change === "snapshot") return set(new Map(), state.snapshot.entry);
  if (state.change !== "delta") return node.entries;
  if (String(state.delta.base ?? 0) !== String(node.version)) return undefined;
  const removed = new Set((state.delta.removed ?? []).map(key));
  return set([...node.entries].filter(([name]) => !removed.has(name)), state.delta.set);
}
