// The overview: figures, the flow, the time series, who is slow.

import { useRef, useState } from "preact/hooks";
import { facts, listSessions, type ListenerTraffic, type Session } from "./api";
import { Chart, type Series } from "./chart";
import { bytes, clientName, duration, micros, protocol, short } from "./format";
import { Graph, type Client } from "./graph";
import type { Key } from "./i18n";
import { history, overview } from "./live";
import { href, useCell, usePolling, useWords } from "./state";

const STEPS = 180;
const CLIENTS_EVERY_MS = 2000;
const CLIENTS = 40;
/** How long a slow subscriber that has gone stays named. */
const REMEMBERED_MS = 15 * 60_000;
const MAX_SLOW = 20;

interface Slow extends Session {
  seen: number;
  gone: boolean;
}

/** The busiest clients with their rates, and the slow ones with those that were slow lately. */
function useClients(): { clients: Client[]; slow: Slow[] } {
  const [clients, setClients] = useState<Client[]>([]);
  const [slow, setSlow] = useState<Slow[]>([]);
  const before = useRef(new Map<number, { at: number; in: number; out: number }>());
  usePolling(
    async () => {
      // One after the other: a browser has few connections to a node, and streams hold some of them.
      const busiest: Session[] = [];
      for (const sort of ["-messages_in", "-messages_out"]) {
        busiest.push(...(await listSessions({ sort, limit: CLIENTS })).sessions);
      }
      const at = performance.now();
      const now = new Map<number, { at: number; in: number; out: number }>();
      const rated = new Map<number, Client>();
      for (const session of busiest) {
        const earlier = before.current.get(session.id);
        const seconds = earlier ? (at - earlier.at) / 1000 : 0;
        const rate = (now: number, then: number | undefined) => (seconds > 0 ? Math.max(0, now - then!) / seconds : 0);
        now.set(session.id, { at, in: session.messages_in, out: session.messages_out });
        rated.set(session.id, { ...session, rateIn: rate(session.messages_in, earlier?.in), rateOut: rate(session.messages_out, earlier?.out) });
      }
      before.current = now;
      setClients([...rated.values()]);
    },
    CLIENTS_EVERY_MS,
    [],
  );
  usePolling(
    async () => {
      const { sessions } = await listSessions({ filter: "slow:yes", sort: "-outbox_bytes", limit: MAX_SLOW });
      const at = performance.now();
      setSlow((known) => {
        const present = new Set(sessions.map(({ id }) => id));
        const left = known
          .filter(({ id, seen }) => !present.has(id) && at - seen < REMEMBERED_MS)
          .map((session) => ({ ...session, gone: true }));
        return [...sessions.map((session) => ({ ...session, seen: at, gone: false })), ...left].slice(0, MAX_SLOW);
      });
    },
    CLIENTS_EVERY_MS / 2,
    [],
  );
  return { clients, slow };
}

/** The columns of the history, with the present values behind the last point. */
function columns(series: Record<string, number[]>, prefix: string, points: number): Map<string, number[]> {
  const found = Object.entries(series).filter(([name]) => name.startsWith(prefix));
  return new Map(found.map(([name, values]) => [name.slice(prefix.length), values.length === points ? values : []]));
}

function sum(all: Iterable<number[]>, points: number): number[] {
  const total = new Array<number>(points).fill(0);
  for (const values of all) values.forEach((value, index) => (total[index]! += value));
  return total;
}

function Figure({ name, value, unit, id }: { name: string; value: string; unit?: string; id: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd id={id}>{value}{unit && <span>{unit}</span>}</dd>
    </div>
  );
}

const REASON_HUES = ["hue-warn", "hue-2", "hue-3", "hue-4", "hue-5", "hue-1"];

function Charts() {
  const t = useWords();
  const { series, points, step_ms } = useCell(history);
  const now = useCell(overview)?.traffic;
  const present = (of: (traffic: ListenerTraffic) => number) => now?.listeners.reduce((total, traffic) => total + of(traffic), 0) ?? 0;
  const rates: Series[] = [
    { name: t("messagesIn"), hue: "hue-1", values: [...sum(columns(series, "in.", points).values(), points), present((l) => l.messages_in)] },
    { name: t("messagesOut"), hue: "hue-2", values: [...sum(columns(series, "out.", points).values(), points), present((l) => l.messages_out)] },
  ];
  const column = (name: string) => series[name] ?? new Array<number>(points).fill(0);
  const latency = (key: Key, name: string, hue: string, value: number | null | undefined): Series =>
    ({ name: t(key), hue, values: [...column(name), value ?? 0] });
  const reasons = columns(series, "drops.", points);
  const drops: Series[] = [...new Set([...reasons.keys(), ...Object.keys(now?.drops ?? {})])].sort().map((reason, index) => ({
    name: reason,
    hue: REASON_HUES[index % REASON_HUES.length]!,
    values: [...(reasons.get(reason) ?? new Array<number>(points).fill(0)), now?.drops[reason]?.rate ?? 0],
  }));
  const common = { stepMs: step_ms, steps: STEPS };
  return (
    <section class="charts" aria-label={t("last15")}>
      <Chart {...common} title={t("rates")} series={rates} empty={t("noTraffic")} />
      <Chart
        {...common}
        title={t("latency")}
        unit={micros}
        empty={t("noTraffic")}
        series={[
          latency("replyP50", "reply.p50", "hue-1", now?.reply.p50_us),
          latency("replyP99", "reply.p99", "hue-3", now?.reply.p99_us),
          latency("routeP99", "route.p99", "hue-4", now?.route.p99_us),
        ]}
      />
      <Chart {...common} title={t("drops")} series={drops} stacked empty={t("noDrops")} />
    </section>
  );
}

function SlowSubscribers({ slow }: { slow: Slow[] }) {
  const t = useWords();
  return (
    <section class="card" aria-labelledby="slow-title">
      <h2 id="slow-title">{t("slowSubscribers")}</h2>
      {slow.length === 0 && <p class="quiet">{t("noSlow")}</p>}
      <ul class="slow-list" id="slow">
        {slow.map((session) => (
          <li key={session.id} class={session.gone ? "gone" : ""}>
            <a href={href("sessions", { filter: `id:${session.id}` })}>{clientName(session.name) || t("unnamed", { id: session.id })}</a>
            <span class="quiet">{[protocol(session.listener), session.user, session.address].filter(Boolean).join(" · ")}</span>
            <span class="number">
              {session.gone
                ? t("slowGone")
                : [session.outbox_bytes ? t("slowWaiting", { bytes: bytes(session.outbox_bytes) }) : "", session.dropped ? t("slowDropped", { n: short(session.dropped) }) : ""]
                    .filter(Boolean)
                    .join(" · ") || t("slow")}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Listeners({ traffic }: { traffic: ListenerTraffic[] }) {
  const t = useWords();
  return (
    <section class="card" aria-labelledby="listeners-title">
      <h2 id="listeners-title">{t("listener")}</h2>
      <div class="scroll" tabIndex={0} role="region" aria-labelledby="listeners-title">
        <table id="listeners">
          <thead>
            <tr>
              <th scope="col">{t("protocol")}</th>
              <th scope="col">{t("address")}</th>
              <th scope="col" class="number">{t("sessions")}</th>
              <th scope="col" class="number">{t("in")}{t("perSecond")}</th>
              <th scope="col" class="number">{t("out")}{t("perSecond")}</th>
            </tr>
          </thead>
          <tbody>
            {facts.listeners.map(({ listener, address }) => {
              const of = traffic.find((one) => one.listener === listener);
              return (
                <tr key={listener + address}>
                  <th scope="row">{protocol(listener)}</th>
                  <td><code>{address}</code></td>
                  <td class="number">{of ? short(of.sessions) : ""}</td>
                  <td class="number">{of ? short(of.messages_in) : ""}</td>
                  <td class="number">{of ? short(of.messages_out) : ""}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </section>
  );
}

export function OverviewView() {
  const t = useWords();
  const now = useCell(overview);
  const { clients, slow } = useClients();
  const traffic = now?.traffic;
  const total = (of: (traffic: ListenerTraffic) => number) => traffic?.listeners.reduce((sum, one) => sum + of(one), 0) ?? 0;
  const dropped = Object.values(traffic?.drops ?? {}).reduce((sum, { rate }) => sum + rate, 0);
  return (
    <>
      {facts.sees.traffic && (
        <dl class="figures">
          <Figure id="rate-in" name={t("messagesIn")} value={short(total((l) => l.messages_in))} unit={t("perSecond")} />
          <Figure id="rate-out" name={t("messagesOut")} value={short(total((l) => l.messages_out))} unit={t("perSecond")} />
          <Figure id="rate-dropped" name={t("dropped")} value={short(dropped)} unit={t("perSecond")} />
          <Figure id="session-count" name={t("sessions")} value={short(total((l) => (l.listener === "mesh" ? 0 : l.sessions)))} />
          <Figure id="subscriptions" name={t("subscriptions")} value={short(traffic?.subscriptions ?? 0)} />
          <Figure id="uptime" name={t("uptime")} value={duration(now?.now.uptime_ms ?? 0, t)} />
        </dl>
      )}
      {(facts.sees.traffic || facts.sees.peers) && (
        <section class="card" aria-labelledby="flow-title">
          <h2 id="flow-title">{t("flow")} <small>{t("flowHint")}</small></h2>
          <Graph listeners={traffic?.listeners ?? []} links={now?.links ?? []} clients={clients} />
        </section>
      )}
      {facts.sees.traffic && <Charts />}
      <div class="pair">
        <SlowSubscribers slow={slow} />
        {facts.sees.traffic && <Listeners traffic={traffic?.listeners ?? []} />}
      </div>
      {!facts.sees.traffic && (
        <p class="card quiet"><strong>{t("hidden")}.</strong> {t("hiddenHint")}</p>
      )}
    </>
  );
}
