// The flow at a glance: clients, the listeners they come by, this node, and the nodes beyond with their links.
//
// Columns instead of forces: what a thing is shows in where it stands, and nothing moves while one looks at it.

import { facts, type Link, type ListenerTraffic, type Session } from "./api";
import { useWidth } from "./chart";
import { clientName, cut, protocol, short } from "./format";
import { href, useWords } from "./state";

export interface Client extends Session {
  rateIn: number;
  rateOut: number;
}

interface Props {
  listeners: ListenerTraffic[];
  links: Link[];
  clients: Client[];
}

interface Box {
  key: string;
  title: string;
  note: string;
  x: number;
  y: number;
  width: number;
  href?: string;
  kind: string;
  label?: string;
}

interface Edge {
  key: string;
  from: Box;
  to: Box;
  /** Messages a second from left to right, and back. */
  forth: number;
  back: number;
  kind: string;
}

const ROW = 46;
const BOX = 36;
const CLIENTS_PER_LISTENER = 3;
/** Clients, listeners and nodes that are drawn apart; the rest is one row. */
const MAX_ROWS = 14;

/** As thick as the number of digits: a busy edge is seen, a quiet one is not lost. */
const thickness = (rate: number): number => (rate > 0 ? 1.25 + Math.log10(1 + rate) * 1.1 : 1);

function curve({ from, to }: Edge): string {
  const [x1, y1] = [from.x + from.width, from.y + BOX / 2];
  const [x2, y2] = [to.x, to.y + BOX / 2];
  const middle = (x1 + x2) / 2;
  return `M${x1},${y1}C${middle},${y1} ${middle},${y2} ${x2},${y2}`;
}

export function Graph({ listeners, links, clients }: Props) {
  const t = useWords();
  const [element, width] = useWidth<HTMLDivElement>();
  const isWide = width >= 720;
  const isNarrow = width < 520;
  const known = new Set(facts.listeners.map(({ listener }) => listener));
  const active = listeners.filter(
    ({ listener, sessions, messages_in, messages_out }) =>
      listener !== "mesh" && (known.has(listener) || sessions > 0 || messages_in + messages_out > 0),
  );
  const columns = isWide ? 4 : 3;
  const boxWidth = Math.min(190, Math.floor((width - (columns - 1) * (isNarrow ? 28 : 64)) / columns));
  const left = (column: number) => Math.floor(((width - boxWidth) * column) / (columns - 1));
  const characters = Math.floor((boxWidth - 20) / 7.6);
  const sessions = (n: number) => (n === 1 ? t("clientCountOne") : t("clientCount", { n: short(n) }));

  const boxes: Box[] = [];
  const edges: Edge[] = [];
  const place = (key: string, title: string, note: string, column: number, y: number, kind: string, more: Partial<Box> = {}) => {
    const box: Box = { key, title: cut(title, characters), note: cut(note, characters + 3), x: left(column), y, width: boxWidth, kind, ...more };
    boxes.push(box);
    return box;
  };

  // The listeners stand in the middle of their clients; a column is as high as its rows.
  const byListener = (listener: string) =>
    clients
      .filter((client) => client.listener === listener)
      .sort((a, b) => b.rateIn + b.rateOut - (a.rateIn + a.rateOut) || a.id - b.id)
      .slice(0, CLIENTS_PER_LISTENER);
  let row = 0;
  const listenerBoxes: { box: Box; traffic: ListenerTraffic }[] = [];
  for (const traffic of active) {
    const shown = isWide && row < MAX_ROWS ? byListener(traffic.listener) : [];
    const rest = isWide && shown.length > 0 ? traffic.sessions - shown.length : 0;
    const rows = Math.max(1, shown.length + (rest > 0 ? 1 : 0));
    const column = isWide ? 1 : 0;
    const y = (row + (rows - 1) / 2) * ROW;
    const count = sessions(traffic.sessions);
    const box = place(traffic.listener, protocol(traffic.listener), count, column, y, "listener", {
      href: href("sessions", { filter: `listener:${traffic.listener}` }),
      label: `${protocol(traffic.listener)}, ${count}`,
    });
    listenerBoxes.push({ box, traffic });
    shown.forEach((client, index) => {
      const name = clientName(client.name) || t("unnamed", { id: client.id });
      const from = place(`client-${client.id}`, name, client.user ?? client.address, 0, (row + index) * ROW, client.slow ? "client slow" : "client", {
        href: href("sessions", { filter: `id:${client.id}` }),
      });
      edges.push({ key: from.key, from, to: box, forth: client.rateIn, back: client.rateOut, kind: "" });
    });
    if (rest > 0) {
      const others = clients.filter((client) => client.listener === traffic.listener && shown.includes(client));
      const sum = (of: (client: Client) => number) => others.reduce((total, client) => total + of(client), 0);
      const from = place(`rest-${traffic.listener}`, t("clientsMore", { n: short(rest) }), "", 0, (row + shown.length) * ROW, "rest", {
        href: href("sessions", { filter: `listener:${traffic.listener}` }),
      });
      const forth = Math.max(0, traffic.messages_in - sum((client) => client.rateIn));
      const back = Math.max(0, traffic.messages_out - sum((client) => client.rateOut));
      edges.push({ key: from.key, from, to: box, forth, back, kind: "" });
    }
    row += rows;
  }
  const linked = links.filter((link) => link.via === null);
  const behind = (id: string) => links.filter((link) => link.via === id);
  const beyond = linked.flatMap((link) => [link, ...behind(link.id)]).slice(0, Math.max(MAX_ROWS, row));
  const rows = Math.max(row, beyond.length, 1);
  const middle = ((rows - 1) / 2) * ROW;
  const shift = ((rows - row) / 2) * ROW;
  for (const box of boxes) box.y += shift;
  const self = place("self", facts.name, t("thisNode"), columns - 2, middle, "self");
  for (const { box, traffic } of listenerBoxes) {
    const kind = traffic.dropped > 0 ? "dropping" : "";
    edges.push({ key: `in-${box.key}`, from: box, to: self, forth: traffic.messages_in, back: traffic.messages_out, kind });
  }
  const nodeBoxes = new Map<string, Box>();
  beyond.forEach((link, index) => {
    const y = (index + (rows - beyond.length) / 2) * ROW;
    const hop = link.via === null ? null : nodeBoxes.get(link.via);
    const rtt = link.rtt_ms === null ? "" : ` · ${link.rtt_ms.toFixed(1)} ms`;
    const note = hop ? t("via", { name: hop.title }) : `${link.transport ?? ""}${rtt}`;
    const box = place(`node-${link.id}`, link.name || link.id.slice(-8), note, columns - 1, y, hop ? "peer far" : "peer", {
      label: `${link.name || link.id}, ${note}, ${t("interests", { n: link.interests })}`,
    });
    nodeBoxes.set(link.id, box);
    if (!hop) edges.push({ key: box.key, from: self, to: box, forth: link.messages_out, back: link.messages_in, kind: link.transport ?? "" });
  });

  const total = (of: (traffic: ListenerTraffic) => number) => short(active.reduce((sum, traffic) => sum + of(traffic), 0));
  const summary = t("flowSummary", {
    listeners: active.length,
    links: linked.length,
    in: total(({ messages_in }) => messages_in),
    out: total(({ messages_out }) => messages_out),
  });
  const headings = isWide ? [t("client"), t("listener"), "", t("node")] : [t("listener"), "", t("node")];

  return (
    <div class="graph" ref={element}>
      {width > 0 && (
        <svg id="graph" width={width} height={rows * ROW + 24} role="group" aria-label={summary}>
          {headings.map((heading, column) =>
            heading && !(column === columns - 1 && beyond.length === 0) ? (
              <text key={heading} class="heading" x={left(column)} y="10">{heading}</text>
            ) : null,
          )}
          <g transform="translate(0 22)">
            {edges.map((edge) => {
              const gap = edge.to.x - edge.from.x - edge.from.width;
              const isBusy = edge.forth + edge.back > 0;
              // Where edges meet there is no room: each is labelled at its own end.
              const isOut = edge.from.kind === "self";
              const end = isOut ? edge.to : edge.from;
              const x = isOut ? end.x - 8 : end.x + end.width + 8;
              const y = end.y + BOX / 2;
              const anchor = isOut ? "end" : "start";
              return (
                <g key={edge.key} class={`edge ${isBusy ? "busy" : ""} ${edge.kind}`} data-edge={edge.key} data-forth={edge.forth} data-back={edge.back}>
                  <path d={curve(edge)} stroke-width={thickness(edge.forth + edge.back)} />
                  {edge.forth > 0 && gap >= 40 && <text x={x} y={y - 5} text-anchor={anchor}>{short(edge.forth)} →</text>}
                  {edge.back > 0 && gap >= 40 && <text x={x} y={y + 14} text-anchor={anchor}>← {short(edge.back)}</text>}
                </g>
              );
            })}
            {boxes.map((box) => {
              const body = (
                <>
                  <rect x={box.x} y={box.y} width={box.width} height={BOX} rx="7" />
                  <text class="title" x={box.x + 10} y={box.y + (box.note ? 15 : 22)}>{box.title}</text>
                  {box.note && <text class="note" x={box.x + 10} y={box.y + 29}>{box.note}</text>}
                </>
              );
              return (
                <g key={box.key} class={`box ${box.kind}`} data-box={box.key}>
                  {box.href ? <a href={box.href}><title>{box.label ?? `${box.title} ${box.note}`}</title>{body}</a> : body}
                </g>
              );
            })}
          </g>
        </svg>
      )}
      {isNarrow && (
        <ul class="flows">
          {edges.filter((edge) => edge.forth + edge.back > 0).map((edge) => (
            <li key={edge.key}>
              <span>{edge.from.title} ⇄ {edge.to.title}</span>
              <span class="number">{short(edge.forth)} → · ← {short(edge.back)}</span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
