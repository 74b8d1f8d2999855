// The explanation of a message: its path drawn from left to right, or from top to bottom on a narrow page, and its steps.

import { facts } from "./api";
import { useWidth } from "./chart";
import { cut, micros, protocol } from "./format";
import type { Key } from "./i18n";
import { nodeName } from "./live";
import { useWords } from "./state";
import { path, type Explanation, type Place, type Step, type Wording } from "./traces";

const [BOX, ROW] = [40, 54];
const MAX_BOX = 190;

interface Placed extends Place {
  x: number;
  y: number;
  parent: Placed | null;
}

/** Leaves get a row each; whatever has children stands in their middle. */
function layOut(place: Place, depth: number, columnWidth: number, rows: { next: number }, parent: Placed | null): Placed[] {
  const self: Placed = { ...place, x: depth * columnWidth, y: 0, parent };
  const below = place.children.map((child) => layOut(child, depth + 1, columnWidth, rows, self));
  const heads = below.map(([head]) => head!.y);
  self.y = heads.length > 0 ? (heads[0]! + heads.at(-1)!) / 2 : rows.next++ * ROW;
  return [self, ...below.flat()];
}

/** On a narrow page every place has a row, indented by how far it is from the publisher. */
function layOutNarrow(place: Place, depth: number, rows: { next: number }, parent: Placed | null): Placed[] {
  const self: Placed = { ...place, x: depth * 22, y: rows.next++ * ROW, parent };
  return [self, ...place.children.flatMap((child) => layOutNarrow(child, depth + 1, rows, self))];
}

const depthOf = (place: Place): number => 1 + Math.max(0, ...place.children.map(depthOf));

const describe = (place: Place): string =>
  [place.title + (place.edge ? ` (${place.edge})` : ""), ...place.children.map(describe)].join(" → ");

const SIGNS: Record<Place["kind"], string> = { publisher: "", node: "", delivered: "✓", dropped: "✕", waiting: "…", unmatched: "∅" };

function Path({ root }: { root: Place }) {
  const t = useWords();
  const [element, width] = useWidth<HTMLDivElement>();
  const depth = depthOf(root);
  const isNarrow = width < depth * 150;
  const boxWidth = isNarrow ? Math.max(140, width - (depth - 1) * 22) : Math.min(MAX_BOX, Math.floor((width - (depth - 1) * 84) / depth));
  const column = depth > 1 ? Math.min(boxWidth + 130, Math.floor((width - boxWidth) / (depth - 1))) : 0;
  const rows = { next: 0 };
  const placed = isNarrow ? layOutNarrow(root, 0, rows, null) : layOut(root, 0, column, rows, null);
  const characters = Math.floor((boxWidth - 30) / 7.2);
  return (
    <div class="path" ref={element}>
      {width > 0 && (
        <svg width={width} height={rows.next * ROW} role="img" aria-label={t("pathSummary", { path: describe(root) })}>
          {placed.map(({ parent, x, y, kind, edge }, index) => {
            if (!parent) return null;
            const from = isNarrow ? { x: parent.x + 10, y: parent.y + BOX } : { x: parent.x + boxWidth, y: parent.y + BOX / 2 };
            const to = { x, y: y + BOX / 2 };
            const middle = (from.x + to.x) / 2;
            const d = isNarrow ? `M${from.x},${from.y}V${to.y}H${to.x}` : `M${from.x},${from.y}C${middle},${from.y} ${middle},${to.y} ${to.x},${to.y}`;
            return (
              <g key={index} class={`way ${kind}`}>
                <path d={d} />
                {!isNarrow && edge && <text x={to.x - 6} y={to.y - 6} text-anchor="end">{cut(edge, Math.max(6, Math.floor((column - boxWidth) / 6)))}</text>}
              </g>
            );
          })}
          {placed.map(({ x, y, kind, title, note, edge }, index) => (
            <g key={index} class={`place ${kind}`}>
              <rect x={x} y={y} width={isNarrow ? width - x : boxWidth} height={BOX} rx="7" />
              <text class="title" x={x + 10} y={y + (note || (isNarrow && edge) ? 17 : 24)}>{cut(title, characters)}</text>
              <text class="note" x={x + 10} y={y + 31}>{cut(isNarrow ? [note, edge].filter(Boolean).join(" · ") : note, Math.floor(characters * 1.15))}</text>
              {SIGNS[kind] && <text class="sign" x={(isNarrow ? width : x + boxWidth) - 10} y={y + 25} text-anchor="end">{SIGNS[kind]}</text>}
            </g>
          ))}
        </svg>
      )}
    </div>
  );
}

const STEP_WORDS: Record<Step["step"], Key> = {
  accepted: "stepAccepted",
  answered: "stepAnswered",
  matched: "stepMatched",
  delivered: "stepDelivered",
  dropped: "stepDropped",
  forwarded: "stepForwarded",
  unmatched: "stepUnmatched",
};

function details(step: Step): string {
  const session = step.session === undefined ? "" : `#${step.session}`;
  const peer = step.peer ? nodeName(step.peer) : "";
  const over = step.listener ? protocol(step.listener) : "";
  const arrow = step.step === "accepted" ? "←" : "→";
  return [over, step.user, session, step.subscription, step.queue, peer && `${arrow} ${peer}`, step.reason].filter(Boolean).join(" · ");
}

function Steps({ steps }: { steps: Step[] }) {
  const t = useWords();
  const sorted = [...steps].sort((a, b) => a.at.localeCompare(b.at));
  return (
    <table class="steps">
      <caption class="visually-hidden">{t("steps")}</caption>
      <tbody>
        {sorted.map((step, index) => (
          <tr key={index} class={step.step}>
            <td><time dateTime={step.at}>{step.at.slice(11, -1)}</time></td>
            <td>{step.name || nodeName(step.node)}</td>
            <th scope="row">{t(STEP_WORDS[step.step])}</th>
            <td>{details(step)}</td>
            <td class="number">{step.after_us === undefined ? "" : micros(step.after_us)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function Explained({ explanation, title }: { explanation: Explanation; title?: string }) {
  const t = useWords();
  const words: Wording = {
    nodeName: (id, name) => name || (id === facts.id ? facts.name : nodeName(id)),
    protocol,
    session: (id) => t("session", { id }),
    micros,
    word: (key) => t(key),
  };
  const root = path(explanation, words);
  return (
    <div class="explained">
      <h3>{title ?? t("path")}</h3>
      {root ? <Path root={root} /> : <p class="quiet">{t("traceWaiting")}</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label={t("steps")}><Steps steps={explanation.steps} /></div>
      {explanation.answers.map((answer) => <Explained key={answer.id} explanation={answer} title={t("answer")} />)}
    </div>
  );
}
