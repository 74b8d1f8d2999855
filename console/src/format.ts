// Numbers as people read them.

import type { Translate } from "./i18n";

/** A count or a rate in at most four digits: 0.4, 12, 1,204, 24.1 k, 3.20 M. */
export function short(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value >= 10 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

export function bytes(value: number): string {
  if (value >= 1 << 30) return `${(value / (1 << 30)).toFixed(1)} GiB`;
  if (value >= 1 << 20) return `${(value / (1 << 20)).toFixed(1)} MiB`;
  if (value >= 1 << 10) return `${(value / (1 << 10)).toFixed(1)} KiB`;
  return `${value} B`;
}

export function micros(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} s`;
  if (value >= 1e3) return `${(value / 1e3).toFixed(value >= 1e5 ? 0 : 1)} ms`;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} µs`;
}

/** A time by its largest two units, or its largest one below an hour. */
export function duration(milliseconds: number, t: Translate): string {
  const seconds = Math.floor(milliseconds / 1000);
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days > 0) return `${t("days", { n: days })} ${t("hours", { n: hours })}`;
  if (hours > 0) return `${t("hours", { n: hours })} ${t("minutes", { n: minutes })}`;
  if (minutes > 0) return t("minutes", { n: minutes });
  return t("seconds", { n: seconds });
}

/** Cuts a text in its middle, where names differ least. */
export function cut(text: string, length: number): string {
  if (text.length <= length) return text;
  const tail = Math.floor((length - 1) / 3);
  return `${text.slice(0, length - 1 - tail)}…${tail > 0 ? text.slice(-tail) : ""}`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
export const time = (at: Date | number): string => clock.format(at);

const LISTENERS: Record<string, string> = {
  nats: "NATS", websocket: "WebSocket", http: "HTTP", coap: "CoAP", coaps: "CoAP/DTLS",
  lines: "Lines", datagrams: "Datagrams", mesh: "Mesh", embedded: "In process",
};
export const protocol = (listener: string): string => LISTENERS[listener] ?? listener;

/** What a client is called: of a browser's long name for itself, the word that people use. */
export function clientName(name: string | null): string {
  if (!name?.startsWith("Mozilla/")) return name ?? "";
  const known = [["Edg/", "Edge"], ["OPR/", "Opera"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["Safari/", "Safari"]] as const;
  return known.find(([mark]) => name.includes(mark) || name.includes(`Headless${mark}`))?.[1] ?? name;
}
