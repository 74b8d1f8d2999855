//! The last fifteen minutes, at a coarse step.
//!
//! Owns the ring of points and its bound. It must not measure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

/// How long a point stands for.
pub(super) const STEP: Duration = Duration::from_secs(5);
/// Fifteen minutes.
const MAX_POINTS: usize = 180;

/// The values of one moment that are not zero, by name.
pub(super) type Point = BTreeMap<String, f64>;

#[derive(Debug, Default)]
pub(super) struct History {
    points: VecDeque<Point>,
    /// When the last point was made, in milliseconds since 1970.
    at_ms: u64,
}

/// The history as columns: what was zero all the time is left out.
#[derive(Debug, Serialize)]
struct Columns<'a> {
    step_ms: u64,
    at_ms: u64,
    points: usize,
    series: BTreeMap<&'a str, Vec<f64>>,
}

impl History {
    pub(super) fn add(&mut self, point: Point, at_ms: u64) {
        if self.points.len() == MAX_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
        self.at_ms = at_ms;
    }

    pub(super) fn to_json(&self) -> String {
        let mut series: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for name in self.points.iter().flat_map(BTreeMap::keys) {
            series.entry(name).or_insert_with(|| vec![0.0; self.points.len()]);
        }
        for (index, point) in self.points.iter().enumerate() {
            for (name, value) in point {
                if let Some(slot) = series.get_mut(name.as_str()).and_then(|values| values.get_mut(index)) {
                    *slot = *value;
                }
            }
        }
        let step_ms = STEP.as_millis() as u64;
        let columns = Columns { step_ms, at_ms: self.at_ms, points: self.points.len(), series };
        serde_json::to_string(&columns).expect("names and finite numbers are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_bounded_and_gaps_are_zero() {
        let mut history = History::default();
        for n in 0..MAX_POINTS as u64 + 2 {
            let name = if n % 2 == 0 { "a" } else { "b" };
            history.add(Point::from([(name.to_owned(), n as f64)]), n);
        }
        let json: serde_json::Value = serde_json::from_str(&history.to_json()).unwrap();
        assert_eq!((&json["points"], &json["at_ms"]), (&MAX_POINTS.into(), &(MAX_POINTS as u64 + 1).into()));
        let a = json["series"]["a"].as_array().unwrap();
        assert_eq!((a.len(), a[0].as_f64(), a[1].as_f64()), (MAX_POINTS, Some(2.0), Some(0.0)));
    }
}
