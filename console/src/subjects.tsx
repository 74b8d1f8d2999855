// The tree of subjects with rates. The node adds it up and sends only what is open; what is drawn is what is in view.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask, type SubjectLevel, type Subjects } from "./api";
import { short } from "./format";
import { href, usePolling, useWords } from "./state";

const EVERY_MS = 1000;
const ROW = 34;
/** Rows above and below those in view. */
const MARGIN = 8;
/** The node answers so many levels at once. */
const MAX_OPEN = 63;

interface Row {
  subject: string;
  token: string;
  depth: number;
  rate: number;
  messages: number;
  below: number;
  isSubject: boolean;
  isOpen: boolean;
  /** Stands for so many rows that are left out. */
  more: number;
}

function flatten(levels: Map<string, SubjectLevel>, open: Set<string>): Row[] {
  const rows: Row[] = [];
  const add = (under: string, depth: number) => {
    const level = levels.get(under);
    for (const row of level?.rows ?? []) {
      const subject = under ? `${under}.${row.token}` : row.token;
      const isOpen = open.has(subject);
      rows.push({ subject, token: row.token, depth, rate: row.rate, messages: row.messages, below: row.subjects, isSubject: row.is_subject, isOpen, more: 0 });
      if (isOpen) add(subject, depth + 1);
    }
    if (level && level.more > 0) {
      rows.push({ subject: `${under}.…`, token: "", depth, rate: 0, messages: 0, below: 0, isSubject: false, isOpen: false, more: level.more });
    }
  };
  add("", 0);
  return rows;
}

export function SubjectsView() {
  const t = useWords();
  const [search, setSearch] = useState("");
  const [open, setOpen] = useState<Set<string>>(new Set());
  const [answer, setAnswer] = useState<Subjects | null>(null);
  /** The subject of the row that the keys are at: where it stands changes with every answer. */
  const [active, setActive] = useState("");
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(480);
  const viewport = useRef<HTMLDivElement>(null);
  const text = search.trim();

  usePolling(
    async () => {
      const query = new URLSearchParams(text ? [["search", text]] : ["", ...open].map((under) => ["under", under]));
      setAnswer(await ask<Subjects>(`/subjects?${query}`));
    },
    EVERY_MS,
    [text, open],
  );
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setHeight(entry!.contentRect.height));
    observer.observe(viewport.current!);
    return () => observer.disconnect();
  }, []);

  const rows = useMemo(() => {
    if (!answer) return [];
    if (answer.found) return flatten(new Map([["", answer.found]]), new Set());
    return flatten(new Map(answer.levels.map((level) => [level.under, level])), open);
  }, [answer, open]);
  const busiest = Math.max(1, ...rows.map(({ rate }) => rate));
  const current = Math.max(0, rows.findIndex(({ subject }) => subject === active));
  const first = Math.max(0, Math.floor(top / ROW) - MARGIN);
  const last = Math.min(rows.length, Math.ceil((top + height) / ROW) + MARGIN);

  const toggle = (row: Row, isOpen: boolean) => {
    const next = new Set(open);
    if (isOpen && next.size < MAX_OPEN) next.add(row.subject);
    if (!isOpen) for (const path of open) if (path === row.subject || path.startsWith(`${row.subject}.`)) next.delete(path);
    setOpen(next);
  };
  const filterOf = (row: Row) => (row.isSubject ? row.subject : `${row.subject}.>`);
  const follow = (row: Row) => (location.hash = href("messages", { follow: filterOf(row) }));
  const move = (index: number) => {
    const to = Math.max(0, Math.min(rows.length - 1, index));
    const subject = rows[to]!.subject;
    setActive(subject);
    const view = viewport.current!;
    if (to * ROW < view.scrollTop) view.scrollTop = to * ROW;
    if ((to + 1) * ROW > view.scrollTop + view.clientHeight) view.scrollTop = (to + 1) * ROW - view.clientHeight;
    requestAnimationFrame(() => view.querySelector<HTMLElement>(`[data-subject="${CSS.escape(subject)}"]`)?.focus());
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const row = rows[current];
    if (!row) return;
    const page = Math.max(1, Math.floor(height / ROW) - 1);
    const moves: Record<string, () => void> = {
      ArrowDown: () => move(current + 1),
      ArrowUp: () => move(current - 1),
      PageDown: () => move(current + page),
      PageUp: () => move(current - page),
      Home: () => move(0),
      End: () => move(rows.length - 1),
      ArrowRight: () => (row.below > 0 && !row.isOpen ? toggle(row, true) : move(current + 1)),
      ArrowLeft: () => {
        if (row.isOpen) return toggle(row, false);
        const parent = rows.slice(0, current).findLastIndex(({ depth }) => depth < row.depth);
        if (parent >= 0) move(parent);
      },
      Enter: () => row.more === 0 && follow(row),
    };
    const action = moves[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  };

  return (
    <section class="card tall" aria-labelledby="subjects-title">
      <div class="bar">
        <h2 id="subjects-title">{t("subjects")}</h2>
        <label class="search">
          <span class="visually-hidden">{t("search")}</span>
          <input
            id="subject-search"
            type="search"
            value={search}
            placeholder={t("searchPlaceholder")}
            autocomplete="off"
            spellcheck={false}
            onInput={(event) => {
              setSearch(event.currentTarget.value);
              setActive("");
            }}
          />
        </label>
        <p class="quiet" role="status">
          {answer && t("subjectCount", { n: answer.subjects.toLocaleString("en") })}
          {answer && answer.beyond > 0 && ` · ${t("subjectsBeyond", { n: short(answer.beyond) })}`}
        </p>
      </div>
      <div class="tree-head" aria-hidden="true">
        <span>{t("subject")}</span>
        <span class="number">{t("total")}</span>
        <span class="number">{t("rate")}</span>
        <span />
      </div>
      <div class="tree" ref={viewport} onScroll={(event) => setTop(event.currentTarget.scrollTop)}>
        {rows.length === 0 && answer && <p class="empty">{text ? t("subjectsNone") : t("subjectsEmpty")}</p>}
        <div
          role="tree"
          id="subject-tree"
          aria-label={t("subjects")}
          aria-describedby="tree-hint"
          style={{ height: `${rows.length * ROW}px` }}
          onKeyDown={onKeyDown}
        >
          {rows.slice(first, last).map((row, offset) => {
            const index = first + offset;
            return (
              <div
                key={row.subject}
                role="treeitem"
                data-subject={row.subject}
                data-rate={row.rate}
                aria-level={row.depth + 1}
                aria-setsize={-1}
                aria-posinset={index + 1}
                aria-selected={index === current}
                {...(row.below > 0 ? { "aria-expanded": row.isOpen } : {})}
                tabIndex={index === current ? 0 : -1}
                class="tree-row"
                style={{ transform: `translateY(${index * ROW}px)` }}
                onClick={() => {
                  setActive(row.subject);
                  if (row.below > 0) toggle(row, !row.isOpen);
                }}
                onFocus={() => setActive(row.subject)}
              >
                <span class="token" style={{ paddingLeft: `${row.depth * 18}px` }}>
                  <span class={`twist ${row.below > 0 ? (row.isOpen ? "open" : "closed") : ""}`} aria-hidden="true" />
                  {row.more > 0 ? <em>{t("subjectsMore", { n: short(row.more) })}</em> : <code>{row.token}</code>}
                  {row.below > 0 && <small>{t("below", { n: short(row.below) })}</small>}
                </span>
                {row.more === 0 && (
                  <>
                    <span class="number">{short(row.messages)}</span>
                    <span class="number rate">
                      <span class="meter" aria-hidden="true" style={{ width: `${(100 * row.rate) / busiest}%` }} />
                      {short(row.rate)}{t("perSecond")}
                    </span>
                    <a
                      tabIndex={-1}
                      href={href("messages", { follow: filterOf(row) })}
                      aria-label={t("followSubject", { subject: filterOf(row) })}
                      onClick={(event) => event.stopPropagation()}
                    >
                      {t("follow")}
                    </a>
                  </>
                )}
              </div>
            );
          })}
        </div>
      </div>
      <p class="quiet hint" id="tree-hint">{t("treeHint")}</p>
    </section>
  );
}
