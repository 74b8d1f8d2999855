// Sessions, a page of them at a time: the node sorts, filters and cuts the list.

import { Fragment } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ask, listSessions, remove, type Session, type Sessions } from "./api";
import { bytes, clientName, duration, protocol, short } from "./format";
import type { Key } from "./i18n";
import { route, useCell, usePolling, useWords } from "./state";

const EVERY_MS = 2000;
const PAGE = 50;

const COLUMNS: { key: Key; sort: string; number?: boolean }[] = [
  { key: "name", sort: "name" },
  { key: "user", sort: "user" },
  { key: "protocol", sort: "listener" },
  { key: "address", sort: "address" },
  { key: "subscriptions", sort: "subscriptions", number: true },
  { key: "in", sort: "messages_in", number: true },
  { key: "out", sort: "messages_out", number: true },
  { key: "outbox", sort: "outbox_bytes", number: true },
  { key: "lostColumn", sort: "dropped", number: true },
  { key: "idle", sort: "idle_ms", number: true },
];

function Outbox({ session }: { session: Session }) {
  const { outbox_bytes: waiting, outbox_limit_bytes: limit } = session;
  if (waiting === null) return <>–</>;
  const share = limit ? Math.min(1, waiting / limit) : 0;
  return (
    <span class={`gauge ${session.slow ? "slow" : ""}`}>
      <span class="gauge-track" aria-hidden="true">
        <span style={{ width: `${Math.max(share * 100, waiting > 0 ? 2 : 0)}%` }} />
      </span>
      {bytes(waiting)}
    </span>
  );
}

function Filters({ id }: { id: number }) {
  const t = useWords();
  const [session, setSession] = useState<Session | null>(null);
  usePolling(async () => setSession(await ask<Session>(`/sessions/${id}`)), EVERY_MS, [id]);
  if (!session) return null;
  const said = [session.lang, session.version].filter(Boolean).join(" ");
  return (
    <div class="session-more">
      <p class="quiet">
        {t("session", { id })} · {session.since}
        {said && ` · ${said}`}
        {session.rtt_ms !== null && ` · ${session.rtt_ms.toFixed(2)} ms`}
      </p>
      {session.filters?.length ? (
        <ul class="chips">
          {session.filters.map(({ filter, queue }) => (
            <li key={filter + queue}><code>{filter}</code>{queue && <small> {queue}</small>}</li>
          ))}
        </ul>
      ) : (
        <p class="quiet">{t("noFilters")}</p>
      )}
    </div>
  );
}

export function SessionsView() {
  const t = useWords();
  const { parameters } = useCell(route);
  const [filter, setFilter] = useState(parameters.get("filter") ?? "");
  const [sort, setSort] = useState("id");
  const [offset, setOffset] = useState(0);
  const [page, setPage] = useState<Sessions | null>(null);
  const [opened, setOpened] = useState<number | null>(null);
  const [doomed, setDoomed] = useState<Session | null>(null);
  const [notice, setNotice] = useState("");
  const dialog = useRef<HTMLDialogElement>(null);
  const asked = parameters.get("filter");

  useEffect(() => {
    if (asked !== null) setFilter(asked);
    setOffset(0);
  }, [asked]);
  const load = async () => {
    const query: Record<string, string | number> = { sort, offset, limit: PAGE };
    if (filter.trim()) query["filter"] = filter.trim();
    try {
      setPage(await listSessions(query));
    } catch (error) {
      setNotice(String((error as Error).message));
    }
  };
  usePolling(load, EVERY_MS, [sort, offset, filter]);
  useEffect(() => {
    if (doomed) dialog.current?.showModal();
  }, [doomed]);

  const nameOf = (session: Session) => clientName(session.name) || t("unnamed", { id: session.id });
  const disconnect = async () => {
    if (!doomed) return;
    try {
      await remove(`/sessions/${doomed.id}`);
      setNotice(t("disconnected", { name: nameOf(doomed) }));
    } catch (error) {
      setNotice(String((error as Error).message));
    }
    setDoomed(null);
    await load();
  };
  const sortBy = (column: string) => setSort((now) => (now === `-${column}` ? column : `-${column}`));
  const sessions = page?.sessions ?? [];
  const total = page?.total ?? 0;

  return (
    <section class="card tall" aria-labelledby="sessions-title">
      <div class="bar">
        <h2 id="sessions-title">{t("sessions")}</h2>
        <label class="search">
          <span class="visually-hidden">{t("search")}</span>
          <input
            id="session-search"
            type="search"
            value={filter}
            placeholder={t("sessionSearch")}
            autocomplete="off"
            spellcheck={false}
            onInput={(event) => {
              setFilter(event.currentTarget.value);
              setOffset(0);
            }}
          />
        </label>
        <p class="quiet" role="status" id="session-notice">{notice}</p>
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-labelledby="sessions-title">
        <table id="sessions" class="sessions">
          <thead>
            <tr>
              {COLUMNS.map(({ key, sort: column, number }) => {
                const order = sort === column ? "ascending" : sort === `-${column}` ? "descending" : "none";
                return (
                  <th key={key} scope="col" class={number ? "number" : ""} aria-sort={order}>
                    <button type="button" class="plain" onClick={() => sortBy(column)} aria-label={t("sortBy", { column: t(key) })}>
                      {t(key)}<span class={`order ${order}`} aria-hidden="true" />
                    </button>
                  </th>
                );
              })}
              <th><span class="visually-hidden">{t("disconnect")}</span></th>
            </tr>
          </thead>
          <tbody>
            {sessions.map((session) => (
              <Fragment key={session.id}>
                <tr data-session={session.id} class={session.slow ? "is-slow" : ""}>
                  <th scope="row">
                    <button
                      type="button"
                      class="plain"
                      aria-expanded={opened === session.id}
                      onClick={() => setOpened(opened === session.id ? null : session.id)}
                    >
                      <span class={`twist ${opened === session.id ? "open" : "closed"}`} aria-hidden="true" />
                      {nameOf(session)}
                    </button>
                    {session.slow && <small class="badge">{t("slow")}</small>}
                  </th>
                  <td data-label={t("user")}>{session.user ?? <span class="quiet">{t("anonymous")}</span>}</td>
                  <td data-label={t("protocol")}>{protocol(session.listener)}</td>
                  <td data-label={t("address")}><code>{session.address}</code></td>
                  <td data-label={t("subscriptions")} class="number">{short(session.subscriptions)}</td>
                  <td data-label={t("in")} class="number">{short(session.messages_in)}</td>
                  <td data-label={t("out")} class="number">{short(session.messages_out)}</td>
                  <td data-label={t("outbox")} class="number"><Outbox session={session} /></td>
                  <td data-label={t("lostColumn")} class="number">{short(session.dropped)}</td>
                  <td data-label={t("idle")} class="number">{duration(session.idle_ms, t)}</td>
                  <td class="action">
                    <button type="button" class="small danger" onClick={() => setDoomed(session)}>{t("disconnect")}</button>
                  </td>
                </tr>
                {opened === session.id && (
                  <tr class="more"><td colSpan={COLUMNS.length + 1}><Filters id={session.id} /></td></tr>
                )}
              </Fragment>
            ))}
          </tbody>
        </table>
        {page && sessions.length === 0 && <p class="empty">{t("noSessions")}</p>}
      </div>
      <div class="pager">
        <button type="button" class="small" disabled={offset === 0} onClick={() => setOffset(Math.max(0, offset - PAGE))}>{t("previous")}</button>
        <span class="quiet" id="session-count">
          {t("sessionCount", { from: total === 0 ? 0 : offset + 1, to: Math.min(offset + PAGE, total), n: total.toLocaleString("en") })}
        </span>
        <button type="button" class="small" disabled={offset + PAGE >= total} onClick={() => setOffset(offset + PAGE)}>{t("next")}</button>
      </div>
      {doomed && (
        <dialog ref={dialog} aria-labelledby="doomed-title" onClose={() => setDoomed(null)}>
          <h2 id="doomed-title">{t("disconnectAsk", { name: nameOf(doomed) })}</h2>
          <p class="quiet">{protocol(doomed.listener)} · {doomed.address}</p>
          <p>{t("disconnectHint")}</p>
          <div class="buttons">
            <button type="button" onClick={() => dialog.current?.close()}>{t("cancel")}</button>
            <button type="button" class="danger primary" id="disconnect-now" onClick={() => void disconnect()}>{t("disconnect")}</button>
          </div>
        </dialog>
      )}
    </section>
  );
}
