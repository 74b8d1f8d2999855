// State that several parts of the page share, and the hooks that read it.

import { createContext } from "preact";
import { useContext, useEffect, useLayoutEffect, useReducer } from "preact/hooks";
import { translator, type Language, type Translate } from "./i18n";

/** A value that components follow. */
export class Cell<T> {
  #followers = new Set<() => void>();
  constructor(private current: T) {}

  get value(): T {
    return this.current;
  }

  set value(value: T) {
    this.current = value;
    for (const tell of this.#followers) tell();
  }

  follow(tell: () => void): () => void {
    this.#followers.add(tell);
    return () => void this.#followers.delete(tell);
  }
}

export function useCell<T>(cell: Cell<T>): T {
  const [, redraw] = useReducer((n: number) => n + 1, 0);
  const drawn = cell.value;
  // Before the paint: a value that changes after it must not go unseen. A component below may have changed it already.
  useLayoutEffect(() => {
    if (cell.value !== drawn) redraw(undefined);
    return cell.follow(() => redraw(undefined));
  }, [cell]);
  return drawn;
}

export type Theme = "auto" | "light" | "dark";

function remembered<T extends string>(key: string, allowed: readonly T[], otherwise: T): Cell<T> {
  let stored: string | null = null;
  try {
    stored = localStorage.getItem(key);
  } catch {
    // Without storage nothing is remembered.
  }
  const cell = new Cell(allowed.find((value) => value === stored) ?? otherwise);
  cell.follow(() => {
    try {
      localStorage.setItem(key, cell.value);
    } catch {
      // As above.
    }
  });
  return cell;
}

export const theme = remembered<Theme>("waymeet.theme", ["auto", "light", "dark"], "auto");
const preferred: Language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
export const language = remembered<Language>("waymeet.language", ["en", "zh"], preferred);

function applyPreferences(): void {
  document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en";
  document.documentElement.dataset.theme = theme.value;
}
theme.follow(applyPreferences);
language.follow(applyPreferences);
applyPreferences();

export const Words = createContext<Translate>(translator("en"));
export const useWords = (): Translate => useContext(Words);

/** The view that the address names, with its parameters: `#sessions?filter=…`. */
export interface Route {
  view: string;
  parameters: URLSearchParams;
}

function readRoute(): Route {
  const [view = "", query = ""] = location.hash.slice(1).split("?", 2);
  return { view: view || "overview", parameters: new URLSearchParams(query) };
}

export const route = new Cell<Route>(readRoute());
window.addEventListener("hashchange", () => (route.value = readRoute()));

export const href = (view: string, parameters: Record<string, string> = {}): string => {
  const query = new URLSearchParams(parameters).toString();
  return `#${view}${query && `?${query}`}`;
};

/** Calls again and again while the page is visible and the component there, the next time after the last has ended. */
export function usePolling(poll: () => Promise<unknown>, everyMs: number, inputs: unknown[]): void {
  useEffect(() => {
    let timer = 0;
    let over = false;
    const turn = async () => {
      if (!document.hidden) await poll().catch(() => undefined);
      if (!over) timer = window.setTimeout(turn, everyMs);
    };
    void turn();
    return () => {
      over = true;
      window.clearTimeout(timer);
    };
  }, inputs);
}
