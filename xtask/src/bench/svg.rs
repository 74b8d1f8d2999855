//! A small writer of SVG 1.1, for charts that a README shows.
//!
//! Owns the picture's frame, its colours and the few shapes that charts are made of. It must not know
//! what is drawn.

use std::fmt::Write as _;

/// Readable on a white and on a dark page: no background, and greys and hues of middle lightness.
pub const TEXT: &str = "#7d8590";
pub const GRID: &str = "#7d859055";
/// One for each series; told apart by people who do not see red and green too.
pub const SERIES: [&str; 5] = ["#3987e5", "#d97706", "#199e8f", "#a06ad6", "#d5558a"];

/// Where a text stands from its point.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture under way.
#[derive(Debug)]
pub struct Svg {
    body: String,
    width: f64,
    height: f64,
}

impl Svg {
    /// An empty picture of so many pixels, with what a screen reader says of it.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let mut body = String::new();
        let _ = writeln!(body, "<title>{}</title>", escaped(title));
        Self { body, width, height }
    }

    /// A filled rectangle.
    pub fn rectangle(&mut self, [x, y]: [f64; 2], [width, height]: [f64; 2], fill: &str) {
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"1.5\" fill=\"{fill}\"/>"
        ));
    }

    /// A straight line.
    pub fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], stroke: &str, width: f64) {
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\" stroke-width=\"{width}\"/>"
        ));
    }

    /// A line through points, with a dot on each.
    pub fn curve(&mut self, points: &[[f64; 2]], stroke: &str) {
        let text: Vec<String> = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        let text = text.join(" ");
        self.put(format_args!(
            "<polyline points=\"{text}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>"
        ));
        for [x, y] in points {
            self.put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{stroke}\"/>"));
        }
    }

    /// A text on its base line.
    pub fn text(&mut self, [x, y]: [f64; 2], anchor: Anchor, size: f64, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{text}</text>"
        ));
    }

    /// The whole file.
    pub fn finish(self) -> String {
        let Self { body, width, height } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" fill=\"{TEXT}\" \
             font-family=\"ui-sans-serif, system-ui, -apple-system, 'Segoe UI', sans-serif\">\n{body}</svg>\n"
        )
    }

    fn put(&mut self, shape: std::fmt::Arguments<'_>) {
        // Writing into memory cannot fail.
        let _ = writeln!(self.body, "{shape}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An axis on which equal ratios are equal lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogAxis {
    /// The values at the two ends.
    pub values: [f64; 2],
    /// Where these are, in pixels.
    pub pixels: [f64; 2],
}

impl LogAxis {
    /// Where a value stands; one beyond an end stands at the end.
    pub fn at(&self, value: f64) -> f64 {
        let [low, high] = self.values;
        let part = (value.clamp(low, high) / low).ln() / (high / low).ln();
        self.pixels[0] + part * (self.pixels[1] - self.pixels[0])
    }

    /// The powers of ten on it, both ends included when they are some.
    pub fn decades(&self) -> Vec<f64> {
        let [low, high] = self.values;
        let (first, last) = ((low.log10() - 1e-9).ceil() as i32, (high.log10() + 1e-9).floor() as i32);
        (first..=last).map(|power| 10_f64.powi(power)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_well_formed_and_texts_are_escaped() {
        let mut svg = Svg::new(10.0, 20.0, "a & b");
        svg.rectangle([1.0, 2.0], [3.0, 4.0], SERIES[0]);
        svg.curve(&[[1.0, 2.0], [3.0, 4.0]], SERIES[1]);
        svg.text([0.0, 0.0], Anchor::End, 12.0, "<1 \"x\">");
        let text = svg.finish();
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"), "{text}");
        assert!(text.contains("<title>a &amp; b</title>") && text.contains("&lt;1 &quot;x&quot;&gt;"));
        assert!(text.contains("points=\"1.0,2.0 3.0,4.0\"") && text.contains("viewBox=\"0 0 10 20\""));
        assert_eq!(text.matches("<circle").count(), 2);
    }

    #[test]
    fn equal_ratios_are_equal_lengths() {
        let axis = LogAxis { values: [1.0, 10_000.0], pixels: [0.0, 400.0] };
        for (value, pixel) in [(1.0, 0.0), (10.0, 100.0), (1_000.0, 300.0), (1e9, 400.0), (0.1, 0.0)] {
            assert!((axis.at(value) - pixel).abs() < 1e-9, "{value}");
        }
        assert_eq!(axis.decades(), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        let upward = LogAxis { values: [0.5, 20.0], pixels: [100.0, 0.0] };
        assert!(upward.at(20.0).abs() < 1e-9 && (upward.at(0.5) - 100.0).abs() < 1e-9);
        assert_eq!(upward.decades(), [1.0, 10.0]);
    }
}
