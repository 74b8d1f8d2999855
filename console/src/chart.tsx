// Time series over the last fifteen minutes, as lines or as stacked areas.

import { useEffect, useRef, useState } from "preact/hooks";
import { short } from "./format";
import { useWords } from "./state";

export interface Series {
  name: string;
  /** The class that colours it. */
  hue: string;
  values: number[];
}

interface Props {
  title: string;
  series: Series[];
  stepMs: number;
  /** How many steps the whole width stands for. */
  steps: number;
  stacked?: boolean;
  unit?: (value: number) => string;
  empty: string;
}

const HEIGHT = 120;
const [TOP, BOTTOM] = [10, 18];

/** A round number at or above the value, so that the axis is easily read. */
function ceiling(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 2.5, 5, 10].find((step) => step * power >= value * 0.999)!;
  return step * power;
}

export function useWidth<T extends Element>(): [{ current: T | null }, number] {
  const element = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    observer.observe(element.current!);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}

export function Chart({ title, series, stepMs, steps, stacked = false, unit = short, empty }: Props) {
  const t = useWords();
  const [element, width] = useWidth<HTMLDivElement>();
  const [at, setAt] = useState<number | null>(null);
  const length = Math.max(0, ...series.map(({ values }) => values.length));
  const shown = series.filter(({ values }) => values.some((value) => value > 0));

  const sums = new Array<number>(length).fill(0);
  const curves = shown.map(({ name, hue, values }) => {
    const low = sums.slice();
    if (stacked) values.forEach((value, index) => (sums[index]! += value));
    return { name, hue, values, low, high: stacked ? sums.slice() : values };
  });
  const top = ceiling(Math.max(0, ...curves.flatMap(({ high }) => high)));
  const x = (index: number) => width - (length - 1 - index) * (width / (steps - 1));
  const y = (value: number) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const line = (values: number[]) => values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
  const minutes = (steps * stepMs) / 60_000;
  const index = at === null ? length - 1 : Math.max(0, Math.min(length - 1, at));
  const summary = shown.map(({ name, values }) => `${name} ${unit(values.at(-1) ?? 0)}`).join(", ");

  return (
    <figure class="chart">
      <figcaption>
        <h3>{title}</h3>
        <ul class="legend">
          {shown.map(({ name, hue, values }) => (
            <li key={name} class={hue}>
              {name} <strong>{unit(values[index] ?? 0)}</strong>
            </li>
          ))}
        </ul>
      </figcaption>
      <div
        ref={element}
        onPointerMove={(event) => {
          const { left } = event.currentTarget.getBoundingClientRect();
          setAt(Math.round(length - 1 - (width - (event.clientX - left)) / (width / (steps - 1))));
        }}
        onPointerLeave={() => setAt(null)}
      >
        {shown.length === 0 && <p class="empty">{empty}</p>}
        <svg width={width} height={HEIGHT} role="img" aria-label={`${title}: ${summary || empty}`}>
          {[0, 0.5, 1].map((share) => (
            <line key={share} class="grid" x1="0" x2={width} y1={y(top * share)} y2={y(top * share)} />
          ))}
          {shown.length > 0 && [0.5, 1].map((share) => (
            <text key={share} class="tick" x="0" y={y(top * share) - 3}>{unit(top * share)}</text>
          ))}
          {curves.map(({ name, hue, low, high }) => (
            <g key={name} class={hue}>
              <polygon
                class={stacked ? "area" : "wash"}
                points={[...line(high), ...line(stacked ? low : high.map(() => 0)).reverse()].join(" ")}
              />
              <polyline points={line(high).join(" ")} />
            </g>
          ))}
          {at !== null && length > 0 && <line class="cursor" x1={x(index)} x2={x(index)} y1={TOP} y2={HEIGHT - BOTTOM} />}
          {[0, 1 / 3, 2 / 3, 1].map((share) => (
            <text
              key={share}
              class="tick"
              x={width * share}
              y={HEIGHT - 4}
              text-anchor={share === 0 ? "start" : share === 1 ? "end" : "middle"}
            >
              {share === 1 ? t("now") : t("minutes", { n: `−${Math.round(minutes * (1 - share))}` })}
            </text>
          ))}
        </svg>
      </div>
    </figure>
  );
}
