//! Results in the project's own pages: `docs/performance.md` and `docs/charts/`.
//!
//! Owns which part of a page is written by a program: what lies between its markers. It must not touch
//! anything else there.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::results::Results;
use super::{charts, tables};
use crate::shell;

/// Writes everything that the results have something for.
pub fn write(results: &Results) -> Result<()> {
    let docs = shell::root().join("docs");
    let page = docs.join("performance.md");
    let folder = docs.join("charts");
    fs::create_dir_all(&folder)?;
    let mut text = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    if let Some(ratios) = charts::ratios(results) {
        put(&folder.join("ratios.svg"), &ratios)?;
        text = between_markers(&text, "rows", &tables::markdown(results))?;
    }
    if let Some(growth) = &results.growth {
        for chart in &growth.charts {
            if let Some(curves) = charts::curves(chart) {
                put(&folder.join(format!("{}.svg", chart.name)), &curves)?;
            }
        }
        text = between_markers(&text, "growth", &tables::growth(growth))?;
    }
    put(&page, &text)
}

fn put(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}

/// `page` with `text` between the markers of that name.
fn between_markers(page: &str, name: &str, text: &str) -> Result<String> {
    let marker = |end: &str| format!("<!-- cargo xtask bench: {name}{end} -->");
    let missing = || format!("docs/performance.md lacks the markers of `{name}`");
    let (before, rest) = page.split_once(&marker("")).with_context(missing)?;
    let (_, after) = rest.split_once(&marker(", end")).with_context(missing)?;
    Ok(format!("{before}{}\n{}\n{}{after}", marker(""), text.trim_end(), marker(", end")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_the_markers_is_replaced() {
        let page = "a\n<!-- cargo xtask bench: rows -->\nold\n<!-- cargo xtask bench: rows, end -->\nb\n";
        let once = between_markers(page, "rows", "new\n\n").unwrap();
        assert_eq!(once, page.replace("old", "new"));
        assert_eq!(between_markers(&once, "rows", "new").unwrap(), once);
        assert!(between_markers(page, "growth", "x").is_err());
    }

    #[test]
    fn the_page_has_all_markers() {
        let page = fs::read_to_string(shell::root().join("docs").join("performance.md")).unwrap();
        for name in ["rows", "growth"] {
            between_markers(&page, name, "").unwrap();
        }
    }
}
