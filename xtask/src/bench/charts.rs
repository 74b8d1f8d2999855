//! The charts: ratios as bars, growth as curves.
//!
//! Owns how results become pictures. It must not measure, nor know how SVG is written.

use super::growth::Chart;
use super::results::Results;
use super::stats::significant;
use super::svg::{Anchor, GRID, LogAxis, SERIES, Svg, TEXT};

const WIDTH: f64 = 860.0;
/// Where the bars begin, right of their names.
const BARS_LEFT: f64 = 300.0;
/// Room for the value behind the longest bar.
const BARS_RIGHT: f64 = 70.0;
const BAR: f64 = 12.0;
const ROW: f64 = 22.0;
const TOP: f64 = 58.0;
const RED: &str = "#d64545";

/// One bar.
struct Bar {
    title: String,
    ratio: f64,
    /// The middle half of the rounds.
    spread: [f64; 2],
    goal: [f64; 2],
}

/// `ratios.svg`: every row's ratio to its peer, on an axis where twice as good and half as good are
/// equally long. `None` while nothing was measured.
pub fn ratios(results: &Results) -> Option<String> {
    let bars: Vec<Bar> = results.rows.iter().flat_map(bars_of).collect();
    let values = bars.iter().flat_map(|bar| [bar.ratio, bar.goal[1], bar.spread[1]]);
    let high = values.fold(2.0, f64::max);
    let lowest = bars.iter().map(|bar| bar.ratio.min(bar.spread[0])).reduce(f64::min)?;
    let axis = LogAxis { values: [lowest.clamp(0.05, 0.5), high], pixels: [BARS_LEFT, WIDTH - BARS_RIGHT] };
    let height = TOP + bars.len() as f64 * ROW + 12.0;
    let mut svg = Svg::new(WIDTH, height, "Ratios of Waymeet to its peers");
    svg.text([0.0, 16.0], Anchor::Start, 15.0, "How many times better than nats-server (or the peer named)");
    legend(&mut svg);
    let bottom = TOP + bars.len() as f64 * ROW;
    for value in [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
        if value < axis.values[0] || value > axis.values[1] {
            continue;
        }
        let x = axis.at(value);
        let (stroke, width) = if value == 1.0 { (TEXT, 1.5) } else { (GRID, 1.0) };
        svg.line([x, TOP - 4.0], [x, bottom], stroke, width);
        svg.text([x, TOP - 8.0], Anchor::Middle, 11.0, &format!("{value}x"));
    }
    for (index, bar) in bars.iter().enumerate() {
        draw(&mut svg, &axis, bar, TOP + index as f64 * ROW + (ROW - BAR) / 2.0);
    }
    Some(svg.finish())
}

fn bars_of(measured: &super::results::Measured) -> Vec<Bar> {
    let Some((row, goal)) = measured.row().and_then(|row| Some((row, row.goal?))) else { return Vec::new() };
    let held = measured.held().into_iter().filter(|held| held.what != "CPU");
    held.map(|held| Bar {
        title: match row.latency {
            Some(latency) if latency.name() == held.what => format!("{}: {}", row.title, held.what),
            _ => row.title.to_owned(),
        },
        ratio: held.ratio.median,
        spread: [held.ratio.lower, held.ratio.upper],
        goal: [goal.floor, goal.aim],
    })
    .collect()
}

fn draw(svg: &mut Svg, axis: &LogAxis, bar: &Bar, y: f64) {
    let [floor, aim] = bar.goal;
    let (one, end) = (axis.at(1.0), axis.at(bar.ratio));
    let fill = if bar.ratio < floor { RED } else { SERIES[0] };
    svg.text([BARS_LEFT - 10.0, y + BAR - 2.0], Anchor::End, 12.0, &bar.title);
    svg.rectangle([one.min(end), y], [(end - one).abs().max(1.0), BAR], fill);
    let middle = y + BAR / 2.0;
    svg.line([axis.at(bar.spread[0]), middle], [axis.at(bar.spread[1]), middle], TEXT, 1.5);
    svg.line([axis.at(floor), y - 3.0], [axis.at(floor), y + BAR + 3.0], RED, 2.0);
    svg.line([axis.at(aim), y - 3.0], [axis.at(aim), y + BAR + 3.0], SERIES[2], 2.0);
    let furthest = [end, axis.at(bar.spread[1]), axis.at(aim)].into_iter().fold(one, f64::max);
    svg.text([furthest + 8.0, y + BAR - 2.0], Anchor::Start, 12.0, &times(bar.ratio));
}

/// A ratio, with no more digits than two rounds agree on.
fn times(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}x") } else { format!("{ratio:.1}x") }
}

fn legend(svg: &mut Svg) {
    let y = 30.0;
    for (x, color, text) in [
        (WIDTH - 330.0, RED, "floor"),
        (WIDTH - 270.0, SERIES[2], "aim"),
        (WIDTH - 220.0, TEXT, "middle half of the rounds"),
    ] {
        svg.line([x, y - 8.0], [x, y + 2.0], color, 2.0);
        svg.text([x + 7.0, y], Anchor::Start, 11.0, text);
    }
}

/// One chart of curves, both axes logarithmic.
pub fn curves(chart: &Chart) -> Option<String> {
    const HEIGHT: f64 = 340.0;
    const PLOT: [[f64; 2]; 2] = [[76.0, 640.0], [290.0, 44.0]];
    let points = || chart.series.iter().flat_map(|series| series.points.iter().copied());
    let largest = points().map(|[x, _]| x).reduce(f64::max)?;
    // Nothing at all has no place on such an axis; it stands at the left end.
    let smallest = points().map(|[x, _]| x).filter(|x| *x > 0.0).reduce(f64::min)?;
    let has_zero = points().any(|[x, _]| x == 0.0);
    let left = if has_zero { smallest / 4.0 } else { smallest };
    let xs = LogAxis { values: [left, largest.max(left * 10.0)], pixels: PLOT[0] };
    let (low, high) =
        (points().map(|[_, y]| y).reduce(f64::min)?, points().map(|[_, y]| y).reduce(f64::max)?);
    // Whole decades, so that a flat curve looks flat.
    let decades = [10_f64.powf(low.max(1e-3).log10().floor()), 10_f64.powf((high.log10() + 1e-9).ceil())];
    let ys = LogAxis { values: [decades[0], decades[1].max(decades[0] * 10.0)], pixels: PLOT[1] };
    let mut svg = Svg::new(WIDTH, HEIGHT, &format!("{}, {} over {}", chart.title, chart.what, chart.over));
    svg.text([0.0, 16.0], Anchor::Start, 15.0, &format!("{} ({})", chart.title, chart.what));
    for value in ys.decades() {
        let y = ys.at(value);
        svg.line([PLOT[0][0], y], [PLOT[0][1], y], GRID, 1.0);
        svg.text([PLOT[0][0] - 8.0, y + 4.0], Anchor::End, 11.0, &short(value));
    }
    let mut ticks: Vec<f64> = points().map(|[x, _]| x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for value in ticks {
        let x = xs.at(value);
        svg.line([x, PLOT[1][1]], [x, PLOT[1][0]], GRID, 1.0);
        let label = if chart.over == "bytes" { binary(value) } else { short(value) };
        svg.text([x, PLOT[1][0] + 16.0], Anchor::Middle, 11.0, &label);
    }
    svg.text([f64::midpoint(PLOT[0][0], PLOT[0][1]), PLOT[1][0] + 38.0], Anchor::Middle, 12.0, &chart.over);
    // Names that would stand on each other are moved apart.
    let mut below = f64::NEG_INFINITY;
    let mut order: Vec<usize> = (0..chart.series.len()).collect();
    let end = |index: &usize| chart.series[*index].points.last().map_or(ys.values[0], |[_, y]| *y);
    order.sort_by(|a, b| end(b).total_cmp(&end(a)));
    for index in order {
        let (series, color) = (&chart.series[index], SERIES[index % SERIES.len()]);
        let place: Vec<[f64; 2]> = series.points.iter().map(|[x, y]| [xs.at(*x), ys.at(*y)]).collect();
        svg.curve(&place, color);
        let y = ys.at(end(&index)).max(below + 15.0);
        below = y;
        let text = format!("{}: {}", series.name, significant(end(&index)));
        svg.rectangle([PLOT[0][1] + 10.0, y - 4.0], [8.0, 8.0], color);
        svg.text([PLOT[0][1] + 23.0, y + 4.0], Anchor::Start, 12.0, &text);
    }
    Some(svg.finish())
}

/// A round number, short.
pub fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

/// A number of bytes, in the powers of two that they were chosen by.
pub fn binary(bytes: f64) -> String {
    match bytes {
        bytes if bytes >= 1_048_576.0 => format!("{} MiB", bytes / 1_048_576.0),
        bytes if bytes >= 1_024.0 => format!("{} KiB", bytes / 1_024.0),
        bytes => format!("{bytes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::growth::Series;
    use crate::bench::results::{Measured, Round};
    use crate::bench::rows::Sample;

    #[test]
    fn a_row_has_a_bar_for_everything_that_it_is_held_to() {
        let sample = |value, p50| Sample { value, p50_us: Some(p50), ..Sample::default() };
        let round = Round::from([
            ("waymeet".to_owned(), sample(300.0, 10.0)),
            ("nats-server".to_owned(), sample(100.0, 5.0)),
        ]);
        let measured = |name: &str| Measured {
            name: name.to_owned(),
            seconds: 1.0,
            rounds: vec![round.clone()],
            free: Vec::new(),
        };
        let rows = vec![measured("1to1-128"), measured("request-1")];
        let svg = ratios(&Results { rows, ..Results::default() }).unwrap();
        assert_eq!(svg.matches("<rect").count(), 3, "{svg}");
        assert!(svg.contains(">3.00x<") && svg.contains(">0.50x<") && svg.contains(": p50<"), "{svg}");
        // Half as fast is below the floor of that row; three times as fast is not.
        assert_eq!(svg.matches(&format!("fill=\"{RED}\"")).count(), 1);
        assert!(ratios(&Results::default()).is_none());
    }

    #[test]
    fn curves_have_their_points_inside_of_the_plot() {
        let points = vec![[0.0, 3e6], [16.0, 2e6], [1_048_576.0, 900.0]];
        let series = vec![Series { name: "waymeet".to_owned(), points }];
        let [name, title, over, what] = ["payload", "1:1", "bytes", "messages/s"].map(str::to_owned);
        let svg = curves(&Chart { name, title, over, what, series }).unwrap();
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains(">1 MiB<") && svg.contains(">10M<") && svg.contains("waymeet: 900"), "{svg}");
        assert!(svg.contains("points=\"76.0,"), "{svg}");
    }

    #[test]
    fn numbers_of_axes_are_short() {
        assert_eq!([1.0, 1e3, 1e7].map(short), ["1", "1k", "10M"]);
        assert_eq!([16.0, 4_096.0, 1_048_576.0].map(binary), ["16", "4 KiB", "1 MiB"]);
    }
}
