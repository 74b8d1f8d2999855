// The overview as it comes, and the history of the last fifteen minutes. Closed while nobody sees the page.

import { facts, readEvents, type History, type Overview } from "./api";
import { Cell } from "./state";

const MAX_POINTS = 180;
const RETRY_MS = 1000;

export type Connection = "waiting" | "live" | "lost" | "paused";

export const connection = new Cell<Connection>("waiting");
export const overview = new Cell<Overview | null>(null);
export const history = new Cell<History>({ step_ms: 5000, at_ms: 0, points: 0, series: {} });

function addPoint(at_ms: number, values: Record<string, number>): void {
  const { points, series, step_ms } = history.value;
  const surplus = points === MAX_POINTS ? 1 : 0;
  const next: Record<string, number[]> = {};
  for (const name of new Set([...Object.keys(series), ...Object.keys(values)])) {
    const column = series[name] ?? new Array<number>(points).fill(0);
    next[name] = [...column.slice(surplus), values[name] ?? 0];
  }
  history.value = { step_ms, at_ms, points: points + 1 - surplus, series: next };
}

let running: AbortController | null = null;

async function run(): Promise<void> {
  while (!document.hidden) {
    running = new AbortController();
    try {
      await readEvents("/overview", running.signal, () => {}, ({ name, data }) => {
        const value: unknown = JSON.parse(data);
        if (name === "overview") {
          overview.value = value as Overview;
          if (connection.value !== "live") connection.value = "live";
        } else if (name === "history") {
          history.value = value as History;
        } else if (name === "point") {
          const { at_ms, values } = value as { at_ms: number; values: Record<string, number> };
          addPoint(at_ms, values);
        }
      });
    } catch {
      // Whatever it was, it is tried again.
    }
    if (document.hidden) break;
    connection.value = "lost";
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  running = null;
}

/** Keeps the overview coming while the page is visible. */
export function start(): void {
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      connection.value = "paused";
      running?.abort();
    } else if (!running) {
      void run();
    }
  });
  if (!document.hidden) void run();
}

export const nodeName = (id: string): string =>
  id === facts.id ? facts.name : (overview.value?.links?.find((link) => link.id === id)?.name || id.slice(-8));
