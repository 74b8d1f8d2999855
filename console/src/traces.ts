// What became of messages: the steps of `GET /trace`, by message, and which of them belongs to a message that was received.

export interface Step {
  trace: string;
  message: string;
  at: string;
  node: string;
  name: string;
  step: "accepted" | "answered" | "matched" | "delivered" | "dropped" | "forwarded" | "unmatched";
  subject: string;
  listener?: string;
  session?: number;
  user?: string;
  size?: number;
  reply?: string;
  delivery?: number;
  subscription?: string;
  queue?: string;
  peer?: string;
  reason?: string;
  request?: string;
  after_us?: number;
}

/** All steps of one message, and of its answers. */
export interface Explanation {
  id: string;
  steps: Step[];
  answers: Explanation[];
}

const MAX_MESSAGES = 2000;
/** How far a received message is looked for among those that were traced and not received yet. */
const LOOK_AHEAD = 64;

export class Traces {
  #byMessage = new Map<string, Explanation>();
  /** Of each subject the traced messages that were not received yet, the oldest first. */
  #unclaimed = new Map<string, Explanation[]>();

  add(step: Step): void {
    const id = `${step.trace} ${step.message}`;
    let explanation = this.#byMessage.get(id);
    if (!explanation) {
      explanation = { id, steps: [], answers: [] };
      this.#byMessage.set(id, explanation);
      const waiting = this.#unclaimed.get(step.subject) ?? [];
      waiting.push(explanation);
      if (waiting.length > LOOK_AHEAD) waiting.shift();
      this.#unclaimed.set(step.subject, waiting);
      if (this.#byMessage.size > MAX_MESSAGES) this.#forgetOldest();
    }
    explanation.steps.push(step);
    const asked = step.request && this.#byMessage.get(`${step.trace} ${step.request}`);
    if (asked && !asked.answers.includes(explanation)) asked.answers.push(explanation);
  }

  /** The explanation of a message that was received: messages on one subject come in the order in which they were taken. */
  claim(subject: string, payloadBytes: number, hasHeaders: boolean): Explanation | null {
    const waiting = this.#unclaimed.get(subject) ?? [];
    const fits = ({ steps }: Explanation) => {
      const size = steps.find(({ step }) => step === "accepted" || step === "answered")?.size;
      return size === undefined || (hasHeaders ? size >= payloadBytes : size === payloadBytes);
    };
    const index = waiting.findIndex(fits);
    if (index < 0) return null;
    const [found] = waiting.splice(0, index + 1).slice(-1);
    if (waiting.length === 0) this.#unclaimed.delete(subject);
    return found ?? null;
  }

  /** Steps were lost: what was received no longer pairs with what was traced. */
  lose(): void {
    this.#unclaimed.clear();
  }

  #forgetOldest(): void {
    const [oldest] = this.#byMessage.keys();
    const forgotten = this.#byMessage.get(oldest!);
    this.#byMessage.delete(oldest!);
    const subject = forgotten?.steps[0]?.subject;
    const waiting = subject === undefined ? undefined : this.#unclaimed.get(subject);
    if (waiting?.[0] === forgotten) waiting!.shift();
    if (subject !== undefined && waiting?.length === 0) this.#unclaimed.delete(subject);
  }
}

/** One place on the way of a message. */
export interface Place {
  kind: "publisher" | "node" | "delivered" | "dropped" | "waiting" | "unmatched";
  title: string;
  note: string;
  /** What stands on the way to it. */
  edge: string;
  children: Place[];
}

export interface Wording {
  nodeName(id: string, name?: string): string;
  protocol(listener: string): string;
  session(id: number): string;
  micros(value: number): string;
  word(key: "publisher" | "waiting" | "stepUnmatched" | "stepDelivered"): string;
}

/** The way of a message as a tree: its publisher, the node that took it, who received it there, the nodes beyond. */
export function path(explanation: Explanation, words: Wording): Place | null {
  const steps = [...explanation.steps].sort((a, b) => a.at.localeCompare(b.at));
  const taken = (step: Step) => step.step === "accepted" || step.step === "answered";
  const visited = new Set<string>();
  const nodePlace = (node: string, name: string | undefined, edge: string): Place => {
    visited.add(node);
    const here = steps.filter((step) => step.node === node);
    const place: Place = { kind: "node", title: words.nodeName(node, name ?? here[0]?.name), note: "", edge, children: [] };
    for (const matched of here.filter(({ step }) => step === "matched")) {
      const end = here.find(({ step, delivery }) => (step === "delivered" || step === "dropped") && delivery === matched.delivery);
      const who = { ...matched, ...end };
      const title = who.user ?? (who.session === undefined ? words.protocol(who.listener ?? "") : words.session(who.session));
      const over = [end?.reason, words.protocol(who.listener ?? ""), who.subscription, who.queue].filter(Boolean).join(" · ");
      const after = end?.after_us === undefined ? "" : words.micros(end.after_us);
      const edge = end ? after : words.word("waiting");
      place.children.push({ kind: end ? (end.step as "delivered" | "dropped") : "waiting", title, note: over, edge, children: [] });
    }
    for (const { peer } of here.filter(({ step }) => step === "forwarded")) {
      if (peer && !visited.has(peer)) {
        const there = steps.find((step) => step.node === peer && taken(step));
        const lag = there ? Date.parse(there.at) - Date.parse(here[0]!.at) : NaN;
        place.children.push(nodePlace(peer, there?.name, lag > 0 ? `+${lag} ms` : ""));
      }
    }
    const refusals = here.filter(({ step, delivery }) => step === "dropped" && delivery === undefined);
    for (const { reason, peer } of refusals) {
      place.children.push({ kind: "dropped", title: reason ?? "", note: peer ? words.nodeName(peer) : "", edge: "", children: [] });
    }
    if (here.some(({ step }) => step === "unmatched")) {
      place.children.push({ kind: "unmatched", title: words.word("stepUnmatched"), note: "", edge: "", children: [] });
    }
    return place;
  };
  const origin = steps.find((step) => taken(step) && step.peer === undefined) ?? steps.find(taken) ?? steps[0];
  if (!origin) return null;
  const first = nodePlace(origin.node, origin.name, words.protocol(origin.listener ?? ""));
  // Nodes whose way here was not told hang on the first one.
  for (const { node, name } of steps) if (!visited.has(node)) first.children.push(nodePlace(node, name, ""));
  const who = origin.user ?? (origin.session === undefined ? words.word("publisher") : words.session(origin.session));
  const note = [words.protocol(origin.listener ?? ""), origin.size === undefined ? "" : `${origin.size} B`].filter(Boolean).join(" · ");
  return { kind: "publisher", title: who, note, edge: "", children: [first] };
}
