//! `docs/limits.md` against the program: the limits that are counted, and what the configuration sets them to.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};
use waymeet_core::permissions::MAX_ALLOWED_RESPONSES;
use waymeet_core::{coap, mesh};

use super::Limit;
use crate::config::Config;
use crate::listener::http::connection::MAX_PENDING_RESETS;
use crate::listener::raw::datagrams;

const PAGE: &str = include_str!("../../../../docs/limits.md");

/// What the page says of one name.
struct Row {
    /// What stands behind the name.
    default: &'static str,
    /// Whether it is in a table of limits that are counted.
    is_counted: bool,
}

/// The rows of all tables that begin with a name in backquotes. The tables of what is counted have five columns.
fn rows() -> BTreeMap<&'static str, Row> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, default, ..] = cells[..] else { panic!("{line}") };
        assert!([3, 5].contains(&cells.len()), "{line}");
        let row = Row { default, is_counted: cells.len() == 5 };
        assert!(rows.insert(name.trim_matches('`'), row).is_none(), "{name} stands there twice");
    }
    rows
}

/// The configuration with one of each that a list may hold, as it is without another word.
fn config() -> Table {
    let text = "
        listeners.lines = [{ address = '127.0.0.1:1', subject = 'a', mode = 'publish' }]
        listeners.datagrams = [{ address = '127.0.0.1:1', subject = 'a', mode = 'publish' }]
        http.upstream = [{ subject = 'a', url = 'http://127.0.0.1:1/' }]
        coap.upstream = [{ subject = 'b', uri = 'coap://127.0.0.1:1/' }]
    ";
    let config = Config::from_toml(text, Path::new("test.toml")).expect("the configuration is valid");
    toml::from_str(&config.to_toml().expect("it can be written")).expect("and read")
}

/// The value of a key; of a list's first entry where there is a list on the way.
fn value(table: &Table, key: &str) -> Option<Value> {
    let first = |value: &Value| match value {
        Value::Array(values) => values.first().cloned(),
        value => Some(value.clone()),
    };
    match key.split_once('.') {
        None => table.get(key).cloned(),
        Some((head, rest)) => value(first(table.get(head)?)?.as_table()?, rest),
    }
}

/// Whether this is what users may be given and are not given by themselves.
fn is_key_of_users(name: &str) -> bool {
    let Some(key) = name.strip_prefix("auth.users.") else { return false };
    Config::from_toml(&format!("auth.defaults.{key} = 1"), Path::new("test.toml")).is_ok()
}

/// What no key sets.
fn fixed(limit: Limit) -> Option<u64> {
    let (coap, mesh) = (coap::Limits::default(), mesh::Limits::default());
    let number = match limit {
        Limit::AuthAllowedResponses => MAX_ALLOWED_RESPONSES,
        Limit::CoapAmplification => coap::session::AMPLIFICATION,
        Limit::CoapEndpoints => coap.endpoints,
        Limit::CoapExchangesPerEndpoint => coap.exchanges_per_endpoint,
        Limit::CoapBlockBytesPerEndpoint => coap.block_bytes_per_endpoint,
        Limit::CoapDedupBytes => coap.dedup_bytes,
        Limit::CoapNotifyBytes => coap.notify_queue_bytes_total,
        Limit::DatagramsAmplification => datagrams::MAX_AMPLIFICATION,
        Limit::HttpHttp2Floods => MAX_PENDING_RESETS,
        Limit::MeshBacklogBytes => mesh.backlog_bytes,
        Limit::MeshMaxConnections => mesh.max_connections,
        Limit::MeshMaxNodes => mesh.max_nodes,
        Limit::MeshInterestBytes => mesh.total_interest_bytes,
        Limit::MeshMaxHops => mesh::limits::MAX_HOPS as usize,
        _ => return None,
    };
    Some(number as u64)
}

fn keys(table: &Table, prefix: &str, keys: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) => self::keys(inner, &format!("{prefix}{key}."), keys),
            _ => keys.push(format!("{prefix}{key}")),
        }
    }
}

#[test]
fn the_page_has_every_limit_with_its_default() {
    let (mut rows, config) = (rows(), config());
    for limit in Limit::ALL {
        let name = limit.name();
        let row = rows.remove(name).unwrap_or_else(|| panic!("docs/limits.md does not have {name}"));
        assert!(row.is_counted, "{name} is counted");
        let default = match (fixed(*limit), value(&config, name)) {
            (Some(number), None) => format!("`{number}`"),
            (None, Some(value)) => format!("`{value}`"),
            (None, None) if is_key_of_users(name) => "none".to_owned(),
            (fixed, value) => panic!("{name}: {fixed:?}, {value:?}"),
        };
        assert_eq!(name.starts_with("fixed."), fixed(*limit).is_some(), "{name}");
        assert!(row.default.starts_with(&default), "{name} is {default}, not {}", row.default);
    }
    for (name, row) in rows {
        assert!(!row.is_counted, "{name} is on the page and is no limit");
        let value = value(&config, name).unwrap_or_else(|| panic!("{name} is no key"));
        assert!(row.default.starts_with(&format!("`{value}`")), "{name} is {value}, not {}", row.default);
    }
}

#[test]
fn every_key_of_the_section_is_on_the_page() {
    let limits = config()["limits"].as_table().expect("a section").clone();
    let (mut names, rows) = (Vec::new(), rows());
    keys(&limits, "limits.", &mut names);
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(rows.contains_key(name.as_str()), "docs/limits.md does not have {name}");
    }
}
