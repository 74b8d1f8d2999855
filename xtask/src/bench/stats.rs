//! The arithmetic of repeated measurements.
//!
//! Owns how many numbers become one. It must not know what the numbers are of.

/// The middle of some numbers, and the middle half around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    /// A quarter of the numbers are at most this.
    pub lower: f64,
    /// A quarter of the numbers are at least this.
    pub upper: f64,
}

impl Summary {
    /// `None` without a number.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let at = |part: f64| quantile(&values, part);
        Some(Self { median: at(0.5)?, lower: at(0.25)?, upper: at(0.75)? })
    }
}

/// The value below which a part of the sorted numbers lies, between two of them by proportion.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = part * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// A number with commas between its thousands.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups = digits.as_bytes().rchunks(3).rev();
    groups.filter_map(|group| std::str::from_utf8(group).ok()).collect::<Vec<_>>().join(",")
}

/// A number with as many digits as say something: three at least, and no more behind the point than that.
pub fn significant(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => grouped(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_half_is_found() {
        let summary = Summary::of(vec![5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!(summary, Summary { median: 3.0, lower: 2.0, upper: 4.0 });
        let summary = Summary::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(summary, Summary { median: 2.5, lower: 1.75, upper: 3.25 });
        assert_eq!(Summary::of(vec![7.0]).unwrap(), Summary { median: 7.0, lower: 7.0, upper: 7.0 });
        assert_eq!(Summary::of(Vec::new()), None);
    }

    #[test]
    fn numbers_are_shown_with_the_digits_that_matter() {
        for (value, text) in [(1_234_567.4, "1,234,567"), (12.0, "12"), (999.6, "1,000")] {
            assert_eq!(grouped(value), text);
        }
        for (value, text) in [
            (12_345.6, "12,346"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.1234, "0.123"),
            (0.0123, "0.0123"),
            (0.0, "0.00"),
        ] {
            assert_eq!(significant(value), text);
        }
    }
}
