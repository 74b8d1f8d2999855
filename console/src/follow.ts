// One running subscription with its trace. It outlives the view, so that looking elsewhere loses nothing.

import { readEvents, Refusal, type Envelope } from "./api";
import { Cell } from "./state";
import { Traces, type Explanation, type Step } from "./traces";

export const KEPT = 500;
/** The list is drawn this often at most. */
const DRAW_EVERY_MS = 200;
const RETRY_MS = 1000;

export interface Received {
  kind: "message";
  number: number;
  at: number;
  envelope: Envelope;
  size: number;
  explanation: Explanation | null;
}

export interface Gap {
  kind: "gap";
  number: number;
  at: number;
  dropped: number;
  reason: string;
}

export type State = "idle" | "subscribing" | "live" | "retrying" | "ended" | "refused";

export interface Following {
  state: State;
  filters: string[];
  count: number;
  why: string;
  isTraced: boolean;
  rows: (Received | Gap)[];
}

const nothing: Following = { state: "idle", filters: [], count: 0, why: "", isTraced: false, rows: [] };
export const following = new Cell<Following>(nothing);

let running: AbortController | null = null;
let traces = new Traces();
let rows: (Received | Gap)[] = [];
let count = 0;
let timer = 0;

function update(change: Partial<Following> = {}): void {
  window.clearTimeout(timer);
  timer = 0;
  following.value = { ...following.value, ...change, rows, count };
}

function soon(): void {
  timer ||= window.setTimeout(() => update(), DRAW_EVERY_MS);
}

function add(row: Received | Gap): void {
  rows = [row, ...rows.slice(0, KEPT - 1)];
  soon();
}

function sizeOf({ payload, payload_base64: base64 }: Envelope): number {
  if (base64 !== undefined) return (base64.length / 4) * 3 - (base64.match(/=*$/)?.[0].length ?? 0);
  return new TextEncoder().encode(payload ?? "").length;
}

/** A step may come after the message that it is about: rows without an explanation ask again. */
function explainLate(): void {
  for (let index = Math.min(rows.length, 100) - 1; index >= 0; index--) {
    const row = rows[index]!;
    if (row.kind === "message" && !row.explanation) row.explanation = claim(row.envelope, row.size);
  }
  soon();
}

const claim = (envelope: Envelope, size: number): Explanation | null =>
  traces.claim(envelope.subject, size, envelope.headers !== undefined);

async function trace(filters: string[], signal: AbortSignal): Promise<void> {
  const query = new URLSearchParams(filters.map((filter) => ["filter", filter]));
  let isLate = 0;
  await new Promise<void>((begun) => {
    const ended = () => {
      update({ isTraced: false });
      begun();
    };
    readEvents(`/trace?${query}`, signal, () => (update({ isTraced: true }), begun()), ({ name, data }) => {
      if (name === "gap") return traces.lose();
      if (name) return;
      traces.add(JSON.parse(data) as Step);
      isLate ||= window.setTimeout(() => ((isLate = 0), explainLate()), 50);
    }).then(ended, ended);
  });
}

/** Subscribes, with a trace of the same filters if it is wanted and to be had. */
export async function follow(filters: string[], queue: string, wantsTrace: boolean): Promise<void> {
  stop();
  const controller = new AbortController();
  const { signal } = controller;
  running = controller;
  [traces, rows, count] = [new Traces(), [], 0];
  update({ ...nothing, state: "subscribing", filters });
  // First the trace, so that it has what the subscription receives.
  if (wantsTrace) await trace(filters, signal);
  const query = new URLSearchParams(filters.map((filter) => ["filter", filter]));
  if (queue) query.append("queue", queue);
  while (!signal.aborted) {
    try {
      await readEvents(`/sub?${query}`, signal, () => update({ state: "live" }), ({ name, data }) => {
        const at = Date.now();
        if (name === "gap") {
          const gap = JSON.parse(data) as { dropped: number; reason: string };
          add({ kind: "gap", number: -at, at, ...gap });
        } else if (name === "end") {
          const { reason } = JSON.parse(data) as { reason: string };
          update({ state: "refused", why: reason });
          controller.abort();
        } else if (!name) {
          const envelope = JSON.parse(data) as Envelope;
          const size = sizeOf(envelope);
          count += 1;
          add({ kind: "message", number: count, at, envelope, size, explanation: claim(envelope, size) });
        }
      });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status < 500) {
        controller.abort();
        return update({ state: "refused", why: error.message });
      }
    }
    if (signal.aborted) return;
    update({ state: "retrying" });
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

export function stop(): void {
  if (!running) return;
  running.abort();
  running = null;
  if (following.value.state !== "refused") update({ state: "ended" });
}

export function clear(): void {
  rows = [];
  update();
}
