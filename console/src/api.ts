// What the page asks the node: the same that any client can.

export interface Facts {
  id: string;
  name: string;
  version: string;
  listeners: { listener: string; address: string }[];
  user: string | null;
  sees: { traffic: boolean; peers: boolean; sessions: boolean };
}

export const facts: Facts = JSON.parse(document.getElementById("facts")!.textContent!);

export interface ListenerTraffic {
  listener: string;
  sessions: number;
  messages_in: number;
  messages_out: number;
  bytes_in: number;
  bytes_out: number;
  dropped: number;
}

export interface Quantiles {
  p50_us: number | null;
  p99_us: number | null;
}

export interface Traffic {
  subscriptions: number;
  listeners: ListenerTraffic[];
  drops: Record<string, { rate: number; total: number }>;
  route: Quantiles;
  reply: Quantiles;
}

export interface Link {
  id: string;
  name: string;
  transport: string | null;
  via: string | null;
  rtt_ms: number | null;
  interests: number;
  messages_in: number;
  messages_out: number;
}

export interface Overview {
  now: { at_ms: number; uptime_ms: number };
  traffic?: Traffic;
  links?: Link[];
}

export interface History {
  step_ms: number;
  at_ms: number;
  points: number;
  series: Record<string, number[]>;
}

export interface Session {
  id: number;
  listener: string;
  address: string;
  user: string | null;
  name: string | null;
  lang: string | null;
  version: string | null;
  since: string;
  idle_ms: number;
  subscriptions: number;
  messages_in: number;
  bytes_in: number;
  messages_out: number;
  bytes_out: number | null;
  outbox_bytes: number | null;
  outbox_limit_bytes: number | null;
  dropped: number;
  slow: boolean;
  rtt_ms: number | null;
  filters?: { filter: string; queue: string | null }[];
}

export interface Sessions {
  total: number;
  offset: number;
  sessions: Session[];
}

export interface SubjectRow {
  token: string;
  rate: number;
  messages: number;
  subjects: number;
  is_subject: boolean;
}

export interface SubjectLevel {
  under: string;
  rows: SubjectRow[];
  more: number;
}

export interface Subjects {
  subjects: number;
  beyond: number;
  since_ms: number;
  levels: SubjectLevel[];
  found: SubjectLevel | null;
}

export interface Envelope {
  subject: string;
  payload?: string;
  payload_base64?: string;
  reply?: string;
  headers?: Record<string, string[]>;
}

/** What the node says against a request (RFC 9457). */
export class Refusal extends Error {
  constructor(readonly status: number, detail: string) {
    super(detail);
  }
}

async function refusal(response: Response): Promise<Refusal> {
  // The login has ended: the page asks for it again.
  if (response.status === 401) location.reload();
  const text = await response.text();
  try {
    const problem = JSON.parse(text) as { detail?: string; title?: string };
    return new Refusal(response.status, problem.detail ?? problem.title ?? response.statusText);
  } catch {
    return new Refusal(response.status, text.slice(0, 200) || response.statusText);
  }
}

export async function ask<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await fetch(path, { cache: "no-store", signal: signal ?? AbortSignal.timeout(5000) });
  if (!response.ok) throw await refusal(response);
  return (await response.json()) as T;
}

export async function remove(path: string): Promise<void> {
  const response = await fetch(path, { method: "DELETE" });
  if (!response.ok) throw await refusal(response);
}

export const listSessions = (query: Record<string, string | number>): Promise<Sessions> =>
  ask(`/sessions?${new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)]))}`);

/** One server-sent event. */
export interface Event {
  name: string;
  data: string;
}

/** Reads server-sent events until they end or the signal stops them. `EventSource` hides why a node refuses. */
export async function readEvents(
  path: string,
  signal: AbortSignal,
  begun: () => void,
  event: (event: Event) => void,
): Promise<void> {
  const response = await fetch(path, { signal, cache: "no-store", headers: { Accept: "text/event-stream" } });
  if (!response.ok) throw await refusal(response);
  begun();
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let [name, data] = ["", ""];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (line.startsWith("data: ")) data += line.slice(6);
      else if (line.startsWith("event: ")) name = line.slice(7);
      else if (line === "" && data) {
        event({ name, data });
        [name, data] = ["", ""];
      }
    }
  }
}
