//! The curves of docs/scale.md, from the table that stands there.
//!
//! Owns which columns become which chart. It must not measure: the figures are the same on every machine, so the page is
//! where they are kept.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::bench::{Chart, Series, curves};
use crate::shell;

/// The numbers of one row, by column; a cell may hold several.
type Row = Vec<Vec<f64>>;

/// Draws every chart into docs/charts.
///
/// # Errors
/// When the page has no table, or a chart cannot be written.
pub fn draw() -> Result<()> {
    let docs = shell::root().join("docs");
    let page = fs::read_to_string(docs.join("scale.md")).context("cannot read docs/scale.md")?;
    for chart in charts(&rows(&page)?) {
        let svg = curves(&chart).with_context(|| format!("{} has no points", chart.name))?;
        let file = docs.join("charts").join(format!("{}.svg", chart.name));
        fs::write(&file, svg).with_context(|| format!("cannot write {}", file.display()))?;
        println!("sim: {}", file.display());
    }
    Ok(())
}

fn rows(page: &str) -> Result<Vec<Row>> {
    let table = page.lines().skip_while(|line| !line.starts_with("| nodes |")).skip(2);
    let rows: Vec<Row> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(numbers).collect())
        .collect::<Result<_>>()?;
    if rows.is_empty() || rows.iter().any(|row| row.len() < 9) {
        bail!("docs/scale.md has no table of nine columns that begins with `nodes`");
    }
    Ok(rows)
}

/// `1.87, 1.63` as numbers, `2.5 MiB` as bytes, `50 ms` as milliseconds.
fn numbers(cell: &str) -> Result<Vec<f64>> {
    let number = |text: &str| {
        let (value, unit) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let value: f64 = value.replace(',', "").parse().with_context(|| format!("`{text}` is no number"))?;
        Ok(value
            * match unit {
                "" | "ms" | "B" | "B/s" => 1.0,
                "kB" => 1e3,
                "KiB" => 1_024.0,
                "MiB" => 1_048_576.0,
                _ => bail!("`{unit}` is no unit of the table"),
            })
    };
    cell.split(", ").map(number).collect()
}

fn charts(rows: &[Row]) -> Vec<Chart> {
    let series = |name: &str, column: usize, place: usize| Series {
        name: name.to_owned(),
        points: rows
            .iter()
            .filter_map(|row| Some([*row[0].first()?, *row.get(column)?.get(place)?]))
            .collect(),
    };
    let chart = |name: &str, title: &str, what: &str, series: Vec<Series>| Chart {
        name: name.to_owned(),
        title: title.to_owned(),
        over: "nodes".to_owned(),
        what: what.to_owned(),
        series,
    };
    vec![
        chart(
            "mesh-bytes",
            "sent by one node",
            "bytes",
            vec![
                series("to come up", 3, 0),
                series("a second, idle", 4, 0),
                series("one subscription", 5, 0),
            ],
        ),
        chart(
            "mesh-convergence",
            "until every node knows",
            "ms",
            vec![series("a subscription", 6, 0), series("a crash", 7, 0)],
        ),
        chart(
            "mesh-copies",
            "messages on links for each delivery",
            "copies",
            vec![series("2% of nodes want it", 8, 0), series("10%", 8, 1), series("50%", 8, 2)],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "text\n\n| nodes | l | w | up | idle | one | known | crash | copies |\n|---|---|---|---|---|---|---|---|---|\n\
        | 100 | 15.4 | 3 | 2.5 MiB | 81 B/s | 5.3 kB | 50 ms | 95 ms | 1.87, 1.63, 1.15 |\n\
        | 1,000 | 16.0 | 3 | 7.5 MiB | 84 B/s | 5.9 kB | 50 ms | 105 ms | 2.16, 1.72, 1.17 |\n\nmore\n";

    #[test]
    fn the_table_becomes_curves() {
        let charts = charts(&rows(PAGE).unwrap());
        let up = &charts[0].series[0];
        assert_eq!(up.points, [[100.0, 2.5 * 1_048_576.0], [1_000.0, 7.5 * 1_048_576.0]]);
        assert_eq!(charts[1].series[1].points, [[100.0, 95.0], [1_000.0, 105.0]]);
        assert_eq!(charts[2].series[2].points, [[100.0, 1.15], [1_000.0, 1.17]]);
        assert!(charts.iter().all(|chart| curves(chart).is_some()));
    }

    #[test]
    fn a_page_without_the_table_and_a_cell_without_a_number_are_told() {
        assert!(rows("no table").is_err());
        assert!(rows(&PAGE.replace("81 B/s", "few")).is_err());
        assert!(rows(&PAGE.replace("50 ms", "50 years")).is_err());
    }

    #[test]
    fn the_page_has_its_table() {
        let page = fs::read_to_string(shell::root().join("docs/scale.md")).unwrap();
        assert!(rows(&page).unwrap().len() > 1);
    }
}
