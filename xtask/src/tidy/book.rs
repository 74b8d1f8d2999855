//! The rules of the book: every page is in its list, and every link leads somewhere.
//!
//! Owns reading Markdown as far as that takes. It must not read a file but by what it is given, so that each rule can be
//! shown to fail.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::rules::{Finding, finding};

/// Where the book's pages are, and the list of them.
const PAGES: &str = "docs/";
const LIST: &str = "docs/SUMMARY.md";

/// Looks at all Markdown files, given with their paths; `exists` tells of other files.
pub fn check(texts: &BTreeMap<String, String>, exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in texts {
        for (line, target) in links(text) {
            findings.extend(dead(path, line, &target, texts, exists));
        }
    }
    let list = texts.get(LIST).map(String::as_str).unwrap_or_default();
    let listed: Vec<String> = links(list).into_iter().map(|(_, target)| format!("{PAGES}{target}")).collect();
    let pages = texts.keys().filter(|path| path.starts_with(PAGES) && *path != LIST);
    let unlisted = pages.filter(|path| !listed.contains(path));
    findings.extend(unlisted.map(|path| finding(LIST, 0, format!("does not list {path}"))));
    findings
}

/// Why a link leads nowhere, if it does. What is on another machine is not asked for.
fn dead(
    path: &str,
    line: usize,
    target: &str,
    texts: &BTreeMap<String, String>,
    exists: &dyn Fn(&Path) -> bool,
) -> Option<Finding> {
    if target.contains("://") || target.starts_with("mailto:") || target.starts_with('/') {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let named = if file.is_empty() { PathBuf::from(path) } else { normal(&folder.join(file)) };
    let Some(text) = texts.get(&*named.to_string_lossy()) else {
        let is_there = exists(&named);
        return (!is_there).then(|| finding(path, line, format!("the link to {target} leads nowhere")));
    };
    let has_anchor = anchor.is_empty() || anchors(text).any(|known| known == anchor);
    (!has_anchor).then(|| finding(path, line, format!("{} has no heading for #{anchor}", named.display())))
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// The targets of links and pictures, with their lines. What is fenced or in backquotes holds none.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        // Every second part stands between backquotes.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        let mut rest = plain.as_str();
        while let Some((_, behind)) = rest.split_once("](") {
            let Some((target, after)) = behind.split_once(')') else { break };
            links.push((number, target.to_owned()));
            rest = after;
        }
    }
    links
}

/// The anchors of the headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    headings.map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_' || *c == ' ');
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// The lines outside of fences, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((index + 1, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(pages: &[(&str, &str)]) -> Vec<String> {
        let texts = pages.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let exists = |path: &Path| path == Path::new("node/src/main.rs");
        check(&texts, &exists).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn links_lead_somewhere() {
        let good = "# A page\n[self](#a-page) [b](b.md#its-part) [code](../node/src/main.rs) [out](https://x.y)\n\
                    ```\n[no](link)\n```\n`[no](link)`\n";
        let summary = "[A](a.md) [B](b.md)";
        let pages = [("docs/SUMMARY.md", summary), ("docs/a.md", good), ("docs/b.md", "## Its part\n")];
        assert_eq!(findings(&pages), Vec::<String>::new());
        let bad = "[gone](gone.md)\n\n[part](b.md#other)";
        let pages = [("docs/SUMMARY.md", summary), ("docs/a.md", bad), ("docs/b.md", "")];
        assert_eq!(
            findings(&pages),
            [
                "docs/a.md:1: the link to gone.md leads nowhere",
                "docs/a.md:3: docs/b.md has no heading for #other"
            ]
        );
    }

    #[test]
    fn every_page_is_listed() {
        let pages =
            [("docs/SUMMARY.md", "[A](a.md)"), ("docs/a.md", ""), ("docs/b.md", ""), ("README.md", "")];
        assert_eq!(findings(&pages), ["docs/SUMMARY.md: does not list docs/b.md"]);
    }
}
