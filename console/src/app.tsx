// The page around its views: who the node is, where one can go, how it looks and in which language it speaks.

import { useLayoutEffect, useRef } from "preact/hooks";
import { facts } from "./api";
import { translator, type Key } from "./i18n";
import { connection } from "./live";
import { MessagesView } from "./messages";
import { OverviewView } from "./overview";
import { SessionsView } from "./sessions";
import { language, route, theme, useCell, useWords, Words, type Theme } from "./state";
import { SubjectsView } from "./subjects";

const VIEWS = [
  { name: "overview", View: OverviewView },
  { name: "subjects", View: SubjectsView },
  { name: "messages", View: MessagesView },
  { name: "sessions", View: SessionsView },
] as const;

const THEMES: [Theme, Key][] = [["auto", "themeAuto"], ["light", "themeLight"], ["dark", "themeDark"]];

async function logOut(): Promise<void> {
  await fetch("/logout", { method: "POST" });
  location.assign("/");
}

function Header() {
  const t = useWords();
  const state = useCell(connection);
  const { view } = useCell(route);
  const words = { waiting: "connecting", live: "live", lost: "lost", paused: "paused" } as const;
  return (
    <header>
      <div class="masthead">
        <svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><path d="M4 6l6 20 6-14 6 14 6-20" /></svg>
        <h1>Waymeet</h1>
        <p class="node"><strong>{facts.name}</strong> <code title={facts.id}>{facts.id}</code></p>
        <p class="state" id="state" role="status" data-state={state}>{t(words[state])}</p>
        <div class="preferences">
          {facts.user !== null && (
            <span class="who"><span class="quiet">{facts.user}</span> <button type="button" class="small" id="log-out" onClick={() => void logOut()}>{t("logOut")}</button></span>
          )}
          <label>
            <span class="visually-hidden">{t("theme")}</span>
            <select id="theme" value={theme.value} onChange={(event) => (theme.value = event.currentTarget.value as Theme)}>
              {THEMES.map(([value, key]) => <option key={value} value={value}>{t(key)}</option>)}
            </select>
          </label>
          <button
            type="button"
            class="small"
            id="language"
            lang={language.value === "zh" ? "en" : "zh-CN"}
            onClick={() => (language.value = language.value === "zh" ? "en" : "zh")}
          >
            {t("language")}
          </button>
        </div>
      </div>
      <nav aria-label={t("views")}>
        {VIEWS.map(({ name }) => (
          <a key={name} href={`#${name}`} {...(view === name ? { "aria-current": "page" as const } : {})}>{t(name)}</a>
        ))}
      </nav>
    </header>
  );
}

export function App() {
  const spoken = useCell(language);
  useCell(theme);
  const { view } = useCell(route);
  const t = translator(spoken);
  const { View } = VIEWS.find(({ name }) => name === view) ?? VIEWS[0];
  const main = useRef<HTMLElement>(null);
  const shown = useRef(view);
  // Before the view is painted: a key pressed as soon as it is seen is meant for it.
  useLayoutEffect(() => {
    document.title = `${t(view as Key)} · ${facts.name} · Waymeet`;
    // Another view begins at its top, for keyboards and screen readers as well; another language leaves one where one is.
    if (shown.current === view) return;
    shown.current = view;
    main.current?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, [view, spoken]);
  return (
    <Words.Provider value={t}>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), main.current?.focus())}>{t("skip")}</a>
      <Header />
      <main id="main" ref={main} tabIndex={-1} data-view={view}>
        <View />
      </main>
      <footer>
        <a href="/openapi.json">openapi.json</a> <a href="/metrics">metrics</a> <a href="/peers">peers</a>{" "}
        <a href="/healthz">healthz</a> <a href="/readyz">readyz</a>
        <span>Waymeet {facts.version}</span>
      </footer>
    </Words.Provider>
  );
}
