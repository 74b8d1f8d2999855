//! The layers of configuration, merged: a tree in which every value knows where it was written.
//!
//! Owns reading the file, the environment and the flags into that tree. It must not know which keys
//! exist; the reader in `reader.rs` learns that from the types.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// What every environment variable of ours begins with.
pub(super) const VARIABLE_PREFIX: &str = "WAYMEET_";

/// Variables of ours that are not configuration keys: the client commands read them.
const CLIENT_VARIABLES: [&str; 4] = ["WAYMEET_SERVER", "WAYMEET_USER", "WAYMEET_PASSWORD", "WAYMEET_TOKEN"];

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file, counted from 1.
    File {
        /// The file, as it was named.
        path: Arc<Path>,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A command-line flag, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// The keys of a table.
pub(super) type Table = BTreeMap<String, Entry>;

/// A value and where it, or the key that opened it, was written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
    /// Where the key stands; differs from `origin` when the value begins on a later line.
    pub(super) key_origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Table(Table),
    Array(Vec<Entry>),
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    /// From the environment or the command line: whoever reads it decides what it means.
    Text(String),
}

impl Value {
    /// What a person would call the value in an error.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Table(_) => "a table".into(),
            Self::Array(_) => "a list".into(),
            Self::String(text) | Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => format!("the number {number}"),
            Self::Float(number) => format!("the number {number}"),
            Self::Boolean(value) => format!("{value}"),
            Self::Datetime => "a date".into(),
        }
    }
}

/// One setting that a command-line flag makes.
#[derive(Clone, Debug)]
pub struct FlagSetting {
    /// The flag as a person types it, such as `--nats`.
    pub flag: &'static str,
    /// The key that it sets, such as `listeners.nats.address`.
    pub key: &'static str,
    /// Its value; several for a flag that may be repeated and sets a list.
    pub value: FlagValue,
}

/// What a flag was given.
#[derive(Clone, Debug)]
pub enum FlagValue {
    /// One value, or a switch's `true`.
    One(String),
    /// Every value of a repeatable flag.
    Many(Vec<String>),
}

/// Where configuration comes from, weakest first: file, environment, flags.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The TOML file, when one is named.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `WAYMEET_` are passed over.
    pub variables: Vec<(String, String)>,
    /// Settings by flags.
    pub flags: Vec<FlagSetting>,
}

impl Layers {
    /// Only the process's environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
            .collect();
        Self { file: None, variables, flags: Vec::new() }
    }

    /// Reads and merges. Problems of single values are collected, so that one run names them all.
    pub(super) fn merge(&self, problems: &mut Vec<Problem>) -> Table {
        let mut root = Table::new();
        if let Some(path) = &self.file {
            match std::fs::read_to_string(path) {
                Ok(text) => root = read_toml(&text, path, problems),
                Err(error) => {
                    problems.push(Problem::general(format!("cannot read {}: {error}", path.display())));
                }
            }
        }
        let mut variables: Vec<_> = self.variables.iter().filter(|(name, _)| is_setting(name)).collect();
        variables.sort();
        for (name, value) in variables {
            let path = name[VARIABLE_PREFIX.len()..].to_ascii_lowercase();
            let path: Vec<&str> = path.split("__").collect();
            set(&mut root, &path, Value::Text(value.clone()), Origin::Variable(name.clone()), problems);
        }
        for setting in &self.flags {
            let origin = Origin::Flag(setting.flag);
            let value = match &setting.value {
                FlagValue::One(text) => Value::Text(text.clone()),
                FlagValue::Many(texts) => {
                    Value::Array(texts.iter().map(|text| text_entry(text, &origin)).collect())
                }
            };
            let path: Vec<&str> = setting.key.split('.').collect();
            set(&mut root, &path, value, origin, problems);
        }
        root
    }
}

/// Reads one TOML document. `path` is only for the origins.
pub(super) fn read_toml(text: &str, path: &Path, problems: &mut Vec<Problem>) -> Table {
    let lines = Lines { text, path: path.into() };
    match DeTable::parse(text) {
        Ok(table) => lines.table(table.get_ref()),
        Err(error) => {
            let origin = error.span().map(|span| lines.origin(span.start));
            problems.push(Problem { origin, key: None, text: error.message().to_owned() });
            Table::new()
        }
    }
}

/// Where the value of `key` was written: its own place, or that of the nearest table around it. `None` when
/// neither was written anywhere and the key has its default.
pub(super) fn origin_of(root: &Value, key: &str) -> Option<Origin> {
    let (mut value, mut origin) = (root, None);
    for part in key.split(['.', '[']) {
        let inner = match (value, part.strip_suffix(']')) {
            (Value::Table(table), None) => table.get(part),
            (Value::Array(entries), Some(index)) => index.parse().ok().and_then(|at: usize| entries.get(at)),
            _ => None,
        };
        let Some(entry) = inner else { break };
        (value, origin) = (&entry.value, Some(entry.origin.clone()));
    }
    origin
}

/// Whether some layer holds a value for `key`, which is in no list.
pub(super) fn is_written(root: &Value, key: &str) -> bool {
    let found = key.split('.').try_fold(root, |value, part| match value {
        Value::Table(table) => table.get(part).map(|entry| &entry.value),
        _ => None,
    });
    found.is_some()
}

/// A value from the environment or the command line as an entry of its own.
pub(super) fn text_entry(text: &str, origin: &Origin) -> Entry {
    Entry { value: Value::Text(text.to_owned()), origin: origin.clone(), key_origin: origin.clone() }
}

/// Reads a list that stands in one variable: TOML's form (`["a", "b"]`, which tables need) or, for plain
/// texts, parts between commas. Empty means no elements.
pub(super) fn list_from_text(text: &str, origin: &Origin) -> Result<Vec<Entry>, String> {
    if !text.trim_start().starts_with('[') {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        return Ok(parts.map(|part| text_entry(part, origin)).collect());
    }
    let parsed = DeValue::parse(text.trim()).map_err(|error| error.message().to_owned())?;
    match convert(parsed.get_ref(), &|_| origin.clone()) {
        Value::Array(entries) => Ok(entries),
        other => Err(format!("expected a list, found {}", other.describe())),
    }
}

/// Byte offsets to lines of one file.
struct Lines<'t> {
    text: &'t str,
    path: Arc<Path>,
}

impl Lines<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(offset);
        Origin::File { path: self.path.clone(), line: 1 + before.filter(|&&b| b == b'\n').count() }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        convert_table(table, &|offset| self.origin(offset))
    }
}

fn convert_table(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Table {
    let entry = |key: &Spanned<_>, value: &Spanned<DeValue<'_>>| Entry {
        value: convert(value.get_ref(), origin),
        origin: origin(value.span().start),
        key_origin: origin(key.span().start),
    };
    table.iter().map(|(key, value)| (key.get_ref().to_string(), entry(key, value))).collect()
}

fn convert(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            // Beyond 64 bits; no key takes such a number, whoever reads it says what fits.
            Err(_) => Value::Float(number.as_str().parse().unwrap_or(f64::INFINITY)),
        },
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(elements) => {
            let element = |element: &Spanned<DeValue<'_>>| {
                let at = origin(element.span().start);
                Entry { value: convert(element.get_ref(), origin), origin: at.clone(), key_origin: at }
            };
            Value::Array(elements.iter().map(element).collect())
        }
        DeValue::Table(table) => Value::Table(convert_table(table, origin)),
    }
}

/// Sets one value of a stronger layer over what is there.
fn set(root: &mut Table, path: &[&str], value: Value, origin: Origin, problems: &mut Vec<Problem>) {
    let Some((last, sections)) = path.split_last() else { return };
    let mut table = root;
    for (depth, section) in sections.iter().enumerate() {
        let empty = || Entry {
            value: Value::Table(Table::new()),
            origin: origin.clone(),
            key_origin: origin.clone(),
        };
        match &mut table.entry((*section).to_owned()).or_insert_with(empty).value {
            Value::Table(inner) => table = inner,
            other => {
                let key = sections[..=depth].join(".");
                let text = format!("cannot be set inside {key}, which is {}", other.describe());
                problems.push(Problem { origin: Some(origin), key: Some(path.join(".")), text });
                return;
            }
        }
    }
    table.insert((*last).to_owned(), Entry { value, key_origin: origin.clone(), origin });
}

/// Whether a variable is meant as a configuration key. Kubernetes sets variables for every service of
/// the namespace (`WAYMEET_SERVICE_HOST`, `WAYMEET_PORT_4222_TCP_ADDR`); a service that is called
/// `waymeet` must not keep the node in its own pod from starting.
fn is_setting(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { return false };
    if CLIENT_VARIABLES.contains(&name) {
        return false;
    }
    let service_link = |part: &str| {
        part == "PORT"
            || part.ends_with("_PORT")
            || part.contains("SERVICE_HOST")
            || part.contains("SERVICE_PORT")
            || part.contains("PORT_") && (part.contains("_TCP") || part.contains("_UDP"))
    };
    rest.contains("__") || !service_link(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_a_kubernetes_service_are_not_settings() {
        for name in [
            "WAYMEET_SERVICE_HOST",
            "WAYMEET_SERVICE_PORT_NATS",
            "WAYMEET_PORT",
            "WAYMEET_PORT_4222_TCP_ADDR",
            "WAYMEET_EDGE_PORT",
            "WAYMEET_EDGE_PORT_5683_UDP",
            "WAYMEET_SERVER",
            "PATH",
        ] {
            assert!(!is_setting(name), "{name}");
        }
        for name in ["WAYMEET_LISTENERS__NATS__ADDRESS", "WAYMEET_LISTENERS_NATS_ADDRESS", "WAYMEET_NAME"] {
            assert!(is_setting(name), "{name}");
        }
    }

    #[test]
    fn lists_in_one_variable_have_two_forms() {
        let origin = Origin::Variable("X".into());
        let texts = |text| -> Vec<String> {
            let entries = list_from_text(text, &origin).unwrap();
            entries.iter().map(|entry| entry.value.describe()).collect()
        };
        assert_eq!(texts("a, b"), [r#""a""#, r#""b""#]);
        assert_eq!(texts(r#"["a,b", "c"]"#), [r#""a,b""#, r#""c""#]);
        assert!(texts("").is_empty());
        assert!(list_from_text("[1", &origin).is_err());
    }
}
