//! The rules: functions of a path and a text that return findings.
//!
//! Owns what is tidy and why. It must not read a file, so that each rule can be shown to fail.

use std::fmt;
use std::path::Path;

use super::source::{code_only, words};

/// The longest a file may be, exclusive: what a reviewer keeps in mind at once.
pub const MAX_LINES: usize = 500;

/// A broken rule. `line` is 0 when it is about the whole file.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

pub fn finding(path: &str, line: usize, what: impl Into<String>) -> Finding {
    Finding { path: path.to_owned(), line, what: what.into() }
}

/// All rules that look at one Rust file.
pub fn check_file(path: &str, text: &str) -> Vec<Finding> {
    let code = code_only(text);
    let mut findings = Vec::new();
    findings.extend(length(path, text));
    findings.extend(opening(path, text));
    findings.extend(leftovers(path, &code));
    findings.extend(empty_names(path, &code));
    findings.extend(core_purity(path, &code));
    findings.extend(import_edges(path, &code));
    findings
}

fn length(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    (lines >= MAX_LINES).then(|| finding(path, 0, format!("{lines} lines; split it below {MAX_LINES}")))
}

fn opening(path: &str, text: &str) -> Option<Finding> {
    (!text.starts_with("//!"))
        .then(|| finding(path, 1, "does not open with `//!`: what it owns and must not do"))
}

/// Code that says of itself that it is not done, and tests that do not run.
fn leftovers(path: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for pattern in ["todo!", "unimplemented!", "#[ignore"] {
            if line.contains(pattern) {
                findings.push(finding(path, index + 1, format!("`{pattern}` is not finished work")));
            }
        }
    }
    findings
}

/// Names that say nothing of what the thing is (design, section 3).
fn empty_names(path: &str, code: &str) -> Vec<Finding> {
    const TYPES: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils", "Common"];
    const MODULES: &[&str] = &["manager", "helper", "helpers", "util", "utils", "common", "base"];
    let mut findings = Vec::new();
    let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
    if MODULES.contains(&&*stem) {
        findings.push(finding(path, 0, format!("`{stem}` does not say what the module is")));
    }
    let mut before = "";
    for (line, word) in words(code) {
        let names_type = ["struct", "enum", "trait", "type"].contains(&before);
        if names_type && TYPES.iter().any(|ending| word.ends_with(ending)) {
            findings.push(finding(path, line, format!("`{word}` does not say what the type is")));
        }
        if before == "mod" && MODULES.contains(&word) {
            findings.push(finding(path, line, format!("`{word}` does not say what the module is")));
        }
        before = word;
    }
    findings
}

/// core decides; it does no I/O, reads no clock and has no unsafe code (design, section 4).
fn core_purity(path: &str, code: &str) -> Vec<Finding> {
    const FORBIDDEN: &[&[&str]] = &[
        &["tokio"],
        &["unsafe"],
        &["SystemTime"],
        &["Instant", "now"],
        &["std", "fs"],
        &["std", "thread"],
        &["TcpStream"],
        &["TcpListener"],
        &["UdpSocket"],
        &["println"],
        &["eprintln"],
        &["print"],
        &["eprint"],
    ];
    if !path.starts_with("core/src/") {
        return Vec::new();
    }
    // Tests may make an `Instant` to pass in; they come last in a file.
    let code = code.split("#[cfg(test)]").next().unwrap_or(code);
    let words: Vec<(usize, &str)> = words(code).collect();
    let mut findings = Vec::new();
    for forbidden in FORBIDDEN {
        for window in words.windows(forbidden.len()) {
            if window.iter().map(|(_, word)| word).eq(forbidden.iter()) {
                findings.push(finding(
                    path,
                    window[0].0,
                    format!("`{}` has no place in core", forbidden.join("::")),
                ));
            }
        }
    }
    findings
}

/// Whether core's manifest names a crate that does I/O.
pub fn core_dependencies(manifest: &str) -> Vec<Finding> {
    const IO: &[&str] =
        &["tokio", "async-std", "smol", "mio", "socket2", "hyper", "axum", "quinn", "libp2p", "rand"];
    let mut section = "";
    let mut findings = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim();
        } else if section == "[dependencies]" {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if IO.contains(&name) {
                findings.push(finding(
                    "core/Cargo.toml",
                    index + 1,
                    format!("core may not depend on {name}"),
                ));
            }
        }
    }
    findings
}

/// Who may not import whom: listeners, mesh and streams meet in the handle only, and the router knows
/// subscribers, never protocols (design, section 4).
fn import_edges(path: &str, code: &str) -> Vec<Finding> {
    const EDGES: &[(&str, &[&[&str]])] = &[
        ("core/src/router", &[&["crate", "nats"], &["crate", "coap"], &["crate", "mesh"]]),
        ("core/src/nats", &[&["crate", "coap"], &["crate", "mesh"]]),
        ("core/src/coap", &[&["crate", "nats"], &["crate", "mesh"]]),
        ("node/src/listener/nats", &[&["listener", "coap"], &["listener", "http"]]),
        ("node/src/listener/coap", &[&["listener", "nats"], &["listener", "http"]]),
        ("node/src/listener/http", &[&["listener", "coap"]]),
        ("node/src/listener", &[&["crate", "mesh"]]),
        ("node/src/mesh", &[&["crate", "listener"]]),
    ];
    let words: Vec<(usize, &str)> = words(code).collect();
    let mut findings = Vec::new();
    let inside = |folder: &str| path == format!("{folder}.rs") || path.starts_with(&format!("{folder}/"));
    for (folder, edges) in EDGES.iter().filter(|(folder, _)| inside(folder)) {
        for edge in *edges {
            for window in words.windows(edge.len()) {
                if window.iter().map(|(_, word)| word).eq(edge.iter()) {
                    findings.push(finding(
                        path,
                        window[0].0,
                        format!("{folder} may not know {}", edge.join("::")),
                    ));
                }
            }
        }
    }
    findings.dedup();
    findings
}

/// How often `unsafe` stands in each file of what is shipped, for those that have any.
pub fn unsafe_counts<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, usize)> {
    let shipped = files.filter(|(path, _)| path.starts_with("core/src/") || path.starts_with("node/src/"));
    let counted = shipped.map(|(path, text)| {
        (path.to_owned(), words(&code_only(text)).filter(|(_, word)| *word == "unsafe").count())
    });
    counted.filter(|(_, count)| *count > 0).collect()
}

/// SECURITY.md says where `unsafe` is and how often: rows such as "| `node/src/a.rs` | 3 | what for |".
pub fn unsafe_is_stated(document: &str, counts: &[(String, usize)]) -> Vec<Finding> {
    let row = |line: &str| -> Option<(String, usize)> {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let path = cells.next()?.trim().strip_suffix('`')?;
        Some((path.strip_suffix(".rs").map(|_| path.to_owned())?, cells.next()?.trim().parse().ok()?))
    };
    let stated: Vec<_> = document.lines().filter_map(row).collect();
    let missing = counts.iter().filter(|count| !stated.contains(count)).map(|(path, count)| {
        finding("SECURITY.md", 0, format!("does not say that `unsafe` stands {count} times in {path}"))
    });
    let wrong = stated.iter().filter(|row| !counts.contains(row)).map(|(path, count)| {
        finding("SECURITY.md", 0, format!("says that `unsafe` stands {count} times in {path}"))
    });
    missing.chain(wrong).collect()
}

/// The code map names every module: the file, or a folder that it is in. For the two crates that people
/// read first, `src` as a whole does not count.
pub fn architecture_names(map: &str, paths: &[String]) -> Vec<Finding> {
    let is_named = |path: &str| {
        let folders = Path::new(path).ancestors().skip(1).map(|folder| format!("{}/", folder.display()));
        let mut telling = folders
            .filter(|folder| folder.contains("/src/") && !["core/src/", "node/src/"].contains(&&**folder));
        map.contains(path) || telling.any(|folder| map.contains(&folder))
    };
    paths
        .iter()
        .filter(|path| path.contains("/src/") && !is_named(path))
        .map(|path| finding("ARCHITECTURE.md", 0, format!("does not name {path}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENING: &str = "//! Owns this.\n";

    fn whats(path: &str, code: &str) -> Vec<String> {
        check_file(path, &format!("{OPENING}{code}")).into_iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn a_tidy_file_has_no_finding() {
        let code = "use crate::router::Router;\n/// No todo!, no tokio.\npub struct Session;\n";
        assert!(whats("core/src/session.rs", code).is_empty());
    }

    #[test]
    fn long_files_and_files_without_an_opening_are_found() {
        assert_eq!(whats("node/src/a.rs", &"\n".repeat(MAX_LINES - 2)), [""; 0]);
        assert_eq!(whats("node/src/a.rs", &"\n".repeat(MAX_LINES - 1)).len(), 1);
        assert_eq!(check_file("node/src/a.rs", "fn main() {}\n").len(), 1);
    }

    #[test]
    fn unfinished_work_is_found_in_code_only() {
        assert_eq!(whats("node/src/a.rs", "fn f() { todo!() }").len(), 1);
        assert_eq!(whats("node/src/a.rs", "fn f() { unimplemented!() }").len(), 1);
        assert_eq!(whats("node/src/a.rs", "#[test]\n#[ignore]\nfn f() {}").len(), 1);
        assert!(whats("node/src/a.rs", "fn f() -> &'static str { \"todo!()\" } // #[ignore]").is_empty());
    }

    #[test]
    fn empty_names_are_found() {
        assert_eq!(whats("node/src/a.rs", "struct LinkManager;").len(), 1);
        assert_eq!(whats("node/src/a.rs", "mod util;").len(), 1);
        assert_eq!(whats("node/src/common.rs", "").len(), 1);
        assert!(whats("node/src/a.rs", "fn f(manager: u8) { base(manager) }").is_empty());
    }

    #[test]
    fn core_may_not_do_io_or_read_a_clock() {
        for code in
            ["use tokio::net;", "fn f() { Instant::now(); }", "unsafe fn f() {}", "use std::net::UdpSocket;"]
        {
            assert_eq!(whats("core/src/nats/parser.rs", code).len(), 1, "{code}");
            assert!(whats("node/src/listener/nats.rs", code).is_empty(), "{code}");
        }
        assert!(whats("core/src/lib.rs", "#![forbid(unsafe_code)]").is_empty());
        assert!(whats("core/src/a.rs", "#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }").is_empty());
    }

    #[test]
    fn cores_manifest_may_not_name_io() {
        assert_eq!(core_dependencies("[dependencies]\ntokio.workspace = true\n").len(), 1);
        assert!(
            core_dependencies("[dependencies]\nmemchr = \"2\"\n[dev-dependencies]\ntokio = \"1\"\n")
                .is_empty()
        );
    }

    #[test]
    fn forbidden_imports_are_found() {
        assert_eq!(whats("core/src/router/trie.rs", "use crate::nats::Session;").len(), 1);
        assert_eq!(whats("node/src/mesh/link.rs", "use crate::listener::Accept;").len(), 1);
        assert_eq!(whats("node/src/listener/coap.rs", "use crate::listener::nats::Connection;").len(), 1);
        assert_eq!(whats("node/src/listener/http/sse.rs", "use crate::mesh::Link;").len(), 1);
        assert!(whats("node/src/listener/http/websocket.rs", "use crate::listener::nats;").is_empty());
    }

    #[test]
    fn the_count_of_unsafe_is_kept_true() {
        let files = [
            ("node/src/a.rs", "// unsafe\n#![allow(unsafe_code)]\nunsafe fn f() { unsafe { g() } }"),
            ("node/src/b.rs", "fn f() -> &'static str { \"unsafe\" }"),
            ("core/tests/c.rs", "unsafe {}"),
        ];
        let counts = unsafe_counts(files.into_iter());
        assert_eq!(counts, [("node/src/a.rs".to_owned(), 2)]);
        assert_eq!(unsafe_is_stated("| `node/src/a.rs` | 2 | what for |", &counts), []);
        assert_eq!(unsafe_is_stated("", &counts).len(), 1);
        // A row that is not true any more is found as well.
        assert_eq!(unsafe_is_stated("| `node/src/a.rs` | 3 | x |", &counts).len(), 2);
        assert_eq!(
            unsafe_is_stated("| `node/src/a.rs` | 2 | x |\n| `node/src/b.rs` | 1 | x |", &counts).len(),
            1
        );
    }

    #[test]
    fn the_map_names_files_or_their_folders() {
        let paths = ["core/src/lib.rs", "core/src/router/trie.rs"].map(str::to_owned);
        assert_eq!(architecture_names("core/src/lib.rs, core/src/router/", &paths), []);
        assert_eq!(architecture_names("core/src/router/", &paths).len(), 1);
        assert_eq!(architecture_names("core/src/", &paths).len(), 2);
        assert_eq!(architecture_names("xtask/src/", &["xtask/src/main.rs".to_owned()]), []);
    }
}
