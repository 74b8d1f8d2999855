//! The configuration as a file.
//!
//! Owns what must hold of any text: it is refused with a reason, or taken, and then it says of itself what it took.

use std::path::Path;

use waymeet::config::Config;

/// Reads the bytes as a configuration, shows it, and reads what was shown.
///
/// # Panics
/// When a refusal says nothing, or a configuration shows a secret or differs from what it shows.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let config = match Config::from_toml(text, Path::new("fuzz.toml")) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().trim().is_empty());
            return;
        }
    };
    let shown = config.to_toml().expect("what was read can be written");
    for user in &config.auth.users {
        for hash in [&user.password_hash, &user.token_hash].into_iter().flatten() {
            let hash: &str = hash.reveal();
            assert!(hash.is_empty() || !shown.contains(hash), "a hash is shown");
        }
    }
    assert!(config.changed_keys(&config).is_empty());
}
