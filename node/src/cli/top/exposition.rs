//! The Prometheus text format, as far as it has to be read: samples with their labels.
//!
//! Owns reading it. It must not know a metric.

use std::collections::HashMap;

/// The samples of one look, by name.
#[derive(Debug, Default, Clone)]
pub struct Samples(HashMap<String, Vec<Sample>>);

#[derive(Debug, Clone)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    /// Reads what it can; lines that are none are passed over.
    pub fn parse(text: &str) -> Self {
        let mut samples: HashMap<String, Vec<Sample>> = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = sample(line) {
                samples.entry(name.to_owned()).or_default().push(sample);
            }
        }
        Self(samples)
    }

    /// The sum of a metric's samples that have all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            labels.iter().all(|(name, value)| sample.labels.iter().any(|(n, v)| n == name && v == value))
        };
        self.0.get(name).into_iter().flatten().filter(has).map(|sample| sample.value).sum()
    }

    /// The values that a label of a metric has, in their order.
    pub fn values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values = Vec::new();
        for sample in self.0.get(name).into_iter().flatten() {
            if let Some((_, value)) = sample.labels.iter().find(|(name, _)| name == label)
                && !values.contains(value)
            {
                values.push(value.clone());
            }
        }
        values
    }
}

fn sample(line: &str) -> Option<(&str, Sample)> {
    let (head, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = head.split_once('{') else {
        return Some((head, Sample { labels: Vec::new(), value }));
    };
    let mut rest = labels.strip_suffix('}')?;
    let mut labels = Vec::new();
    while let Some((name, behind)) = rest.split_once("=\"") {
        let (text, after) = quoted(behind)?;
        labels.push((name.trim_start_matches(',').to_owned(), text));
        rest = after;
    }
    Some((name, Sample { labels, value }))
}

/// A label's value up to its closing quotation mark, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let samples = Samples::parse(
            "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"p\\\"q,\"} 2\na{x=\"2\"} 3\nb 1.5\nnonsense\nc{x=\"1} 4\n",
        );
        assert_eq!(samples.sum("a", &[]), 5.0);
        assert_eq!(samples.sum("a", &[("x", "1")]), 2.0);
        assert_eq!(samples.sum("a", &[("y", "p\"q,")]), 2.0);
        assert_eq!(samples.sum("b", &[]), 1.5);
        assert_eq!(samples.sum("c", &[]), 0.0);
        assert_eq!(samples.values("a", "x"), ["1", "2"]);
    }
}
