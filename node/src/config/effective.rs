//! The effective configuration as text, with nothing in it that is secret.

use std::path::PathBuf;

use toml::{Table, Value};

use super::value::MASK;
use super::{AllowResponses, Config, Dtls, Permissions, Tls, UserDefaults, UserLimits};

/// A value under a key with one of these words is not shown, whatever its type is in the program. A
/// second net under [`super::Secret`], for keys that somebody adds without thinking of it.
const SECRET_WORDS: [&str; 4] = ["secret", "password", "token", "hash"];

impl Config {
    /// The configuration as TOML, defaults included. Secrets are three stars; a file that holds one is
    /// named, never read.
    ///
    /// # Errors
    /// When a path that the program itself has set is not UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let mut table = Table::try_from(self)?;
        mask_table(&mut table);
        toml::to_string(&table)
    }
}

impl Config {
    /// The full paths of the keys whose values differ in `new`; a list counts as one key.
    #[must_use]
    pub fn changed_keys(&self, new: &Self) -> Vec<String> {
        let tables = (Table::try_from(self), Table::try_from(new));
        let (Ok(old_table), Ok(new_table)) = tables else { return Vec::new() };
        let mut changed = Vec::new();
        collect_changes(&old_table, &new_table, "", &mut changed);
        // Secrets look alike once they are serialized.
        if self.auth.users != new.auth.users && !changed.iter().any(|key| key == "auth.users") {
            changed.push("auth.users".to_owned());
        }
        changed
    }

    /// Whether a running node takes over another value of the key; the others wait for the next start.
    #[must_use]
    pub fn is_reloadable(key: &str) -> bool {
        RELOADABLE_KEYS.contains(&key) || key.starts_with("auth.")
    }
}

/// What can change under sessions that exist already; a certificate is for those that come. Listeners, the data directory and the sizes of tables
/// are fixed at the start.
const RELOADABLE_KEYS: [&str; 8] = [
    "log.level",
    "listeners.http.allowed_origins",
    "listeners.nats.tls.certificate_file",
    "listeners.nats.tls.key_file",
    "listeners.nats.tls.client_ca_file",
    "listeners.http.tls.certificate_file",
    "listeners.http.tls.key_file",
    "listeners.http.tls.client_ca_file",
];

fn collect_changes(old: &Table, new: &Table, prefix: &str, changed: &mut Vec<String>) {
    // A key without a default is in one of the tables only.
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        match (old.get(key), new.get(key)) {
            (Some(Value::Table(old)), Some(Value::Table(new))) => {
                collect_changes(old, new, &format!("{prefix}{key}."), changed);
            }
            (old, new) if old != new => changed.push(format!("{prefix}{key}")),
            _ => {}
        }
    }
}

fn mask_table(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        let secret = SECRET_WORDS.iter().any(|word| key.contains(word)) && !key.ends_with("_file");
        if secret && !value.is_table() && !value.is_array() {
            *value = Value::String(MASK.to_owned());
        }
        mask_value(value, secret);
    }
}

fn mask_value(value: &mut Value, secret: bool) {
    match value {
        Value::String(text) if secret => *text = MASK.to_owned(),
        Value::String(text) => mask_credentials(text),
        Value::Array(values) => values.iter_mut().for_each(|value| mask_value(value, secret)),
        Value::Table(table) => mask_table(table),
        _ => {}
    }
}

/// Masks the user information of a URL (RFC 3986, section 3.2.1).
pub(super) fn mask_credentials(text: &mut String) {
    let Some(start) = text.find("://").map(|at| at + 3) else { return };
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    if let Some(at) = text[start..end].rfind('@') {
        text.replace_range(start..start + at, MASK);
    }
}

/// The full path of every key outside lists, for suggestions.
pub(super) fn known_keys() -> Vec<String> {
    let mut full = Config::default();
    // A key without a default is not written at all, so each gets a value here.
    full.node.name = Some(String::new());
    full.listeners.nats.tls = Some(all_tls_keys());
    full.listeners.http.tls = Some(all_tls_keys());
    full.listeners.coap.dtls = Some(Dtls {
        certificate_file: Some(PathBuf::new()),
        key_file: Some(PathBuf::new()),
        client_ca_file: Some(PathBuf::new()),
        ..Dtls::default()
    });
    full.auth.defaults = all_user_keys();
    full.mesh.secret_file = Some(PathBuf::new());
    full.telemetry.otlp_endpoint = Some(String::new());
    let table = Table::try_from(full).expect("the default configuration has only texts, numbers and tables");
    let mut keys = Vec::new();
    collect_keys(&table, "", &mut keys);
    keys
}

fn all_user_keys() -> UserDefaults {
    let permissions = || Some(Permissions { allow: Some(Vec::new()), deny: Vec::new() });
    UserDefaults {
        publish: permissions(),
        subscribe: permissions(),
        allow_responses: Some(AllowResponses::default()),
        limits: Some(UserLimits {
            messages_per_second: Some(1),
            bytes_per_second: Some(1),
            max_connections: Some(1),
        }),
    }
}

fn all_tls_keys() -> Tls {
    let file = || Some(PathBuf::new());
    Tls { certificate_file: file(), key_file: file(), client_ca_file: file(), ..Tls::default() }
}

fn collect_keys(table: &Table, prefix: &str, keys: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) => collect_keys(inner, &format!("{prefix}{key}."), keys),
            _ => keys.push(format!("{prefix}{key}")),
        }
    }
}
