//! The rules of the house that no compiler checks.
//!
//! Owns which files are looked at and how findings are reported. The rules themselves are in `rules`,
//! as functions of a path and a text; nothing here decides what is tidy.

mod book;
mod rules;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::shell;
use rules::Finding;

/// Folders with Rust code of ours. Cargo's output and fetched packages are in none of them.
const FOLDERS: &[&str] = &["core", "node", "xtask", "fuzz", "interop"];
/// Folders inside of these that are not ours.
const FOREIGN: &[&str] = &["target", "node_modules", "corpus", "artifacts"];

/// Checks the whole workspace.
///
/// # Errors
/// Says how many findings there are, having printed each.
pub fn run() -> Result<()> {
    let root = shell::root();
    let mut files = Vec::new();
    for folder in FOLDERS.iter().map(|folder| root.join(folder)).filter(|folder| folder.is_dir()) {
        rust_files(&folder, &mut files)?;
    }
    files.sort();
    let (mut findings, mut paths, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    for file in &files {
        let path =
            file.strip_prefix(&root).context("the file is in the workspace")?.to_string_lossy().into_owned();
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {path}"))?;
        findings.extend(rules::check_file(&path, &text));
        paths.push(path);
        texts.push(text);
    }
    let sources = paths.iter().map(String::as_str).zip(texts.iter().map(String::as_str));
    let security = fs::read_to_string(root.join("SECURITY.md")).context("cannot read SECURITY.md")?;
    findings.extend(rules::unsafe_is_stated(&security, &rules::unsafe_counts(sources)));
    let manifest =
        fs::read_to_string(root.join("core").join("Cargo.toml")).context("cannot read core/Cargo.toml")?;
    findings.extend(rules::core_dependencies(&manifest));
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    findings.extend(rules::architecture_names(&map, &paths));
    findings.extend(book::check(&markdown(&root)?, &|path| root.join(path).exists()));
    report(&findings, files.len())
}

fn report(findings: &[Finding], files: usize) -> Result<()> {
    for finding in findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {files} files, no finding");
        return Ok(());
    }
    bail!("{} findings", findings.len())
}

/// The pages for people: those beside the workspace's manifest, and the book's.
fn markdown(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for folder in ["", "docs"] {
        let folder = root.join(folder);
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(root).context("the file is in the workspace")?;
                let text =
                    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                texts.insert(name.to_string_lossy().into_owned(), text);
            }
        }
    }
    Ok(texts)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !FOREIGN.contains(&name.as_str()) {
                rust_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
