//! What is wrong with a configuration, said so that a person can put it right.

use std::fmt;

use super::layers::{Origin, VARIABLE_PREFIX};

/// One thing that is wrong: where it was written, which key it is about, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written; `None` for a default or a whole file.
    pub origin: Option<Origin>,
    /// The full path of the key, such as `listeners.nats.address`.
    pub key: Option<String>,
    /// What is wrong, to be read after the key.
    pub text: String,
}

impl Problem {
    /// A problem that is not about one key.
    pub(super) fn general(text: impl Into<String>) -> Self {
        Self { origin: None, key: None, text: text.into() }
    }

    /// A problem of the value of `key`.
    pub(super) fn of_key(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { origin: None, key: Some(key.into()), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        match &self.key {
            Some(key) => write!(f, "{key}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// A configuration that cannot be used, with everything that is wrong with it. Whoever wrote the
/// configuration is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{problem}")?;
        }
        Ok(())
    }
}

/// The sentence for a key that does not exist. `path` is the key's full path, `siblings` are the keys
/// that its table has, `all` every key of the program.
pub(super) fn unknown_key(path: &str, siblings: &[&str], all: &[String], origin: &Origin) -> String {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    let beside = nearest(name, siblings.iter().copied()).map(|near| match table {
        "" => near.to_owned(),
        table => format!("{table}.{near}"),
    });
    // The right name of a key or a table, in the wrong table.
    let displaced = || {
        all.iter().find_map(|key| {
            let end = key.split('.').position(|part| part == name)?;
            Some(key.split('.').take(end + 1).collect::<Vec<_>>().join("."))
        })
    };
    // A variable with one underscore where two belong.
    let flat = path.replace('.', "_");
    let glued = || all.iter().find(|key| key.replace('.', "_") == flat).cloned();
    let similar = || nearest(path, all.iter().map(String::as_str)).map(str::to_owned);
    let written = |key: &str| match origin {
        Origin::Variable(_) => format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_uppercase()),
        _ => key.to_owned(),
    };
    match beside.or_else(displaced).or_else(glued).or_else(similar) {
        Some(near) => format!("there is no such key; did you mean {}?", written(&near)),
        None if siblings.is_empty() => "there is no such key; this table has none yet".to_owned(),
        None => format!("there is no such key; the keys here are {}", siblings.join(", ")),
    }
}

/// The candidate that is the fewest typing errors away, when that is few enough to be one.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bound = 1 + name.len() / 4;
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
