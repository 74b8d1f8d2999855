// Messages by hand: subscribe and look at what comes, publish, request; and the explanation of one of them.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { Explained } from "./explain";
import { clear, follow, following, KEPT, stop, type Gap, type Received } from "./follow";
import { time } from "./format";
import { route, useCell, useWords } from "./state";
import { Traces, type Explanation, type Step } from "./traces";

const MAX_SHOWN = 4096;
const MAX_LINE = 240;
/** Rows that are drawn. */
const DRAWN = 100;

const quote = (text: string) => (/^[\w./:=%@+,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const target = (verb: string, subject: string) => `/${verb}/${encodeURIComponent(subject)}`;
// In a command the wildcards and dots stay readable; the shell sees them inside quotes.
const readable = (verb: string, subject: string) => `${location.origin}/${verb}/${encodeURIComponent(subject).replace(/%3E$/, "**")}`;

function Command({ text }: { text: string }) {
  const t = useWords();
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <div class="command">
      <pre tabIndex={0} aria-label={t("sameWithCurl")}>{text}</pre>
      <button type="button" class="small" onClick={() => void copy()}>{isCopied ? t("copied") : t("copy")}</button>
    </div>
  );
}

function useShortened(): (text: string, length?: number) => string {
  const t = useWords();
  return (text, length = MAX_SHOWN) => (text.length > length ? text.slice(0, length) + t("characters", { n: text.length.toLocaleString("en") }) : text);
}

/** What a reply or a payload looks like best: JSON on lines of its own. */
function pretty(text: string): string {
  if (!/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function explanationOf(steps: Step[]): Explanation | null {
  const traces = new Traces();
  for (const step of steps) traces.add(step);
  const first = steps.find(({ step }) => step === "accepted") ?? steps[0];
  if (!first) return null;
  const own = steps.filter(({ message }) => message === first.message);
  const answers = steps.filter(({ request }) => request === first.message).map(({ message }) => message);
  return {
    id: first.message,
    steps: own,
    answers: [...new Set(answers)].map((id) => ({ id, steps: steps.filter(({ message }) => message === id), answers: [] })),
  };
}

interface Result {
  isFailed: boolean;
  head: string;
  body: string;
}

interface Sent {
  subject: string;
  explanation: Explanation;
}

type ShowSent = (sent: Sent | null) => void;

function SendForm({ verb, show }: { verb: "publish" | "request"; show: ShowSent }) {
  const t = useWords();
  const shortened = useShortened();
  const [subject, setSubject] = useState(verb === "publish" ? "demo.hello" : "demo.ask");
  const [payload, setPayload] = useState(verb === "publish" ? "hello from the console" : "");
  const [timeout, setTimeout] = useState("5s");
  const [isBusy, setBusy] = useState(false);
  const [result, setResult] = useState<Result | null>(null);
  const isRequest = verb === "request";
  const short = isRequest ? "req" : "pub";
  const query = isRequest ? `?timeout=${encodeURIComponent(timeout)}` : "";
  const data = payload || !isRequest ? `-d ${quote(payload)} ` : "";

  const send = async (event: SubmitEvent) => {
    event.preventDefault();
    setBusy(true);
    const begun = performance.now();
    try {
      // A payload from a text field is text; without one there is no body to describe.
      const body = new Blob([payload], { type: payload ? "text/plain" : "" });
      const response = await fetch(target(short, subject) + query, { method: "POST", body, headers: { "Waymeet-Trace": "1" } });
      const text = await response.text();
      const head = t("took", { status: `${response.status} ${response.statusText}`.trim(), ms: (performance.now() - begun).toFixed(1) });
      let steps: Step[] = [];
      let shown = text;
      const inHead = response.headers.get("waymeet-trace");
      if (inHead) steps = JSON.parse(`[${inHead}]`) as Step[];
      if (!isRequest && response.ok) {
        const { trace, ...receipt } = JSON.parse(text) as { trace?: Step[] };
        steps = trace ?? [];
        shown = JSON.stringify(receipt);
      }
      setResult({ isFailed: !response.ok, head, body: shortened(pretty(shown)) });
      const explanation = explanationOf(steps);
      show(explanation && { subject, explanation });
    } catch (error) {
      setResult({ isFailed: true, head: String((error as Error).message), body: "" });
    } finally {
      setBusy(false);
    }
  };
  return (
    <form id={verb} autocomplete="off" onSubmit={(event) => void send(event)}>
      <label>{t("subject")}<input name="subject" value={subject} spellcheck={false} required onInput={(event) => setSubject(event.currentTarget.value)} /></label>
      <label>{t("payload")}<textarea name="payload" rows={3} spellcheck={false} value={payload} onInput={(event) => setPayload(event.currentTarget.value)} /></label>
      {isRequest && (
        <label>
          {t("timeout")}
          <input name="timeout" value={timeout} pattern="[0-9]+(ms|s|m)" title={t("timeoutHint")} spellcheck={false} required onInput={(event) => setTimeout(event.currentTarget.value)} />
        </label>
      )}
      <button class="primary" disabled={isBusy}>{t(verb)}</button>
      <Command text={`curl ${data}${quote(readable(short, subject) + query)}`} />
      <div class="result" role="status">
        {result && (
          <>
            <p class={result.isFailed ? "failed" : "done"}>{result.head}</p>
            {result.body && <pre tabIndex={0} aria-label={result.head}>{result.body}</pre>}
          </>
        )}
      </div>
    </form>
  );
}

function Send({ show }: { show: ShowSent }) {
  const t = useWords();
  const [verb, setVerb] = useState<"publish" | "request">("publish");
  return (
    <section class="card send" aria-label={t(verb)}>
      <div class="segments" role="group">
        {(["publish", "request"] as const).map((one) => (
          <button key={one} type="button" aria-pressed={verb === one} data-verb={one} onClick={() => setVerb(one)}>{t(one)}</button>
        ))}
      </div>
      <SendForm key={verb} verb={verb} show={show} />
    </section>
  );
}

function Detail({ received, close }: { received: Received; close: () => void }) {
  const t = useWords();
  const shortened = useShortened();
  const { envelope, explanation } = received;
  const { isTraced } = useCell(following);
  const heading = useRef<HTMLHeadingElement>(null);
  // Before the detail is painted: a key pressed as soon as it is seen is meant for it.
  useLayoutEffect(() => heading.current?.focus(), [received.number]);
  const headers = Object.entries(envelope.headers ?? {});
  return (
    <aside class="card detail" aria-labelledby="detail-title" onKeyDown={(event) => event.key === "Escape" && close()}>
      <div class="bar">
        <h2 id="detail-title" ref={heading} tabIndex={-1}><code>{envelope.subject}</code></h2>
        <button type="button" class="small" onClick={close}>{t("close")}</button>
      </div>
      {explanation ? (
        <Explained explanation={explanation} />
      ) : (
        <p class="quiet">{isTraced ? t("noTrace") : `${t("noTrace")} ${t("traceHint")}`}</p>
      )}
      <h3>{t("payload")}</h3>
      <pre tabIndex={0} aria-label={t("payload")}>{shortened(pretty(envelope.payload ?? `base64 ${envelope.payload_base64}`))}</pre>
      {envelope.reply && <p class="quiet">{t("reply")} <code>{envelope.reply}</code></p>}
      {headers.length > 0 && (
        <>
          <h3>{t("headers")}</h3>
          <dl class="headers">
            {headers.map(([name, values]) => (
              <div key={name}><dt>{name}</dt><dd>{values.join(", ")}</dd></div>
            ))}
          </dl>
        </>
      )}
    </aside>
  );
}

function MessageRow({ row, isOpen, open }: { row: Received | Gap; isOpen: boolean; open: () => void }) {
  const t = useWords();
  const shortened = useShortened();
  if (row.kind === "gap") {
    return <li class="gap"><time>{time(row.at)}</time><span>{t("gap", { n: row.dropped.toLocaleString("en"), reason: row.reason })}</span></li>;
  }
  const { subject, payload, payload_base64: base64 } = row.envelope;
  return (
    <li>
      <button type="button" class="message" aria-pressed={isOpen} onClick={open}>
        <time>{time(row.at)}</time>
        <code class="subject">{subject}</code>
        <code class="payload">{shortened(payload ?? `base64 ${base64}`, MAX_LINE)}</code>
        <span class={`traced ${row.explanation ? "yes" : ""}`} aria-hidden="true" />
      </button>
    </li>
  );
}

export function MessagesView() {
  const t = useWords();
  const { parameters } = useCell(route);
  const now = useCell(following);
  const [filter, setFilter] = useState(now.filters.join(" ") || "demo.>");
  const [queue, setQueue] = useState("");
  const [wantsTrace, setWantsTrace] = useState(true);
  const [chosen, setChosen] = useState<number | null>(null);
  const [sent, setSent] = useState<Sent | null>(null);
  const isRunning = ["subscribing", "live", "retrying"].includes(now.state);
  const asked = parameters.get("follow");

  // Before the paint: who goes on to another view at once must not be brought back by the new address.
  useLayoutEffect(() => {
    if (!asked) return;
    setFilter(asked);
    void follow([asked], "", wantsTrace);
    // Going back to this view later must not begin anew.
    history.replaceState(null, "", "#messages");
    route.value = { view: "messages", parameters: new URLSearchParams() };
  }, [asked]);

  const filters = filter.trim().split(/\s+/).filter(Boolean);
  const query = new URLSearchParams(filters.map((one) => ["filter", one]));
  if (queue) query.append("queue", queue);
  const command =
    filters.length === 1
      ? `curl -N ${quote(readable("sub", filters[0]!) + (queue ? `?queue=${encodeURIComponent(queue)}` : ""))}`
      : `curl -N ${quote(`${location.origin}/sub?${query}`)}`;
  const names = now.filters.join(" ");
  const state = {
    idle: t("notSubscribed"),
    subscribing: t("subscribing"),
    live: now.count === 0 ? t("subscribedTo", { filters: names }) : t("received", { n: now.count.toLocaleString("en"), filters: names }),
    retrying: t("retrying"),
    ended: t("ended", { n: now.count.toLocaleString("en") }),
    refused: t("refused", { why: now.why }),
  }[now.state];
  const selected = now.rows.find((row): row is Received => row.kind === "message" && row.number === chosen);
  // The chosen message stays open although newer ones push it out.
  const kept = useRef<Received | null>(null);
  if (selected) kept.current = selected;
  const detail = chosen === null ? null : (selected ?? kept.current);

  return (
    <div class={`messages-view ${detail ? "with-detail" : ""}`}>
      <div class="tools">
        <section class="card" aria-labelledby="subscribe-title">
          <h2 id="subscribe-title">{t("subscribe")}</h2>
          <form
            id="subscribe"
            autocomplete="off"
            onSubmit={(event) => {
              event.preventDefault();
              if (isRunning) return stop();
              setChosen(null);
              void follow(filters, queue, wantsTrace);
            }}
          >
            <label>
              {t("filters")}
              <input name="filter" value={filter} spellcheck={false} required aria-describedby="filter-hint" onInput={(event) => setFilter(event.currentTarget.value)} />
            </label>
            <p class="hint quiet" id="filter-hint">{t("filtersHint")}</p>
            <label>
              {t("queue")}
              <input name="queue" value={queue} spellcheck={false} placeholder={t("none")} onInput={(event) => setQueue(event.currentTarget.value)} />
            </label>
            <label class="check" title={t("explainHint")}>
              <input type="checkbox" name="explain" checked={wantsTrace} onChange={(event) => setWantsTrace(event.currentTarget.checked)} />
              {t("explain")} <span class="quiet">{t("explainHint")}</span>
            </label>
            <button class="primary">{isRunning ? t("stop") : t("subscribe")}</button>
            <Command text={command} />
          </form>
        </section>
        <Send show={setSent} />
      </div>
      <div class="flowing">
        {sent && (
          <section class="card" id="sent" aria-labelledby="sent-title">
            <div class="bar">
              <h2 id="sent-title"><code>{sent.subject}</code></h2>
              <button type="button" class="small" onClick={() => setSent(null)}>{t("close")}</button>
            </div>
            <Explained explanation={sent.explanation} />
          </section>
        )}
        <section class="card stream" aria-labelledby="messages-title">
          <div class="bar">
            <h2 id="messages-title">{t("messages")}</h2>
            <p class="quiet" id="received-state" role="status">{state}</p>
            {now.rows.length > 0 && <button type="button" class="small" onClick={clear}>{t("clear")}</button>}
          </div>
          {now.rows.length === 0 && now.state !== "idle" && <p class="empty">{t("nothingYet")}</p>}
          <ol id="messages" class="messages">
            {now.rows.slice(0, DRAWN).map((row) => (
              <MessageRow
                key={row.number}
                row={row}
                isOpen={row.number === chosen}
                open={() => setChosen(row.number === chosen ? null : row.number)}
              />
            ))}
          </ol>
          {now.rows.length >= DRAWN && <p class="quiet hint">{t("shownLast", { n: Math.min(DRAWN, KEPT) })}</p>}
        </section>
      </div>
      {detail && <Detail received={detail} close={() => setChosen(null)} />}
    </div>
  );
}
