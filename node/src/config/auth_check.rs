//! What `[auth]` must obey beyond the types of its values.
//!
//! Owns saying which key is wrong and what to do about it, without ever repeating a secret.

use std::collections::HashMap;

use waymeet_core::credentials::UserKey;

use super::problem::Problem;
use super::{Auth, Config, Permissions, User, UserLimits};
use crate::auth;

/// The longest name of a user, in bytes; a PSK identity may not be longer either (RFC 4279, section 5.3).
const MAX_NAME_LEN: usize = 128;

pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let auth = &config.auth;
    let mut check =
        Check { anonymous: auth.anonymous, problems, names: HashMap::new(), taken: HashMap::new() };
    check.permissions("auth.defaults.publish", auth.defaults.publish.as_ref(), None);
    check.permissions("auth.defaults.subscribe", auth.defaults.subscribe.as_ref(), None);
    check.limits("auth.defaults", auth.defaults.limits.as_ref());
    for (index, user) in auth.users.iter().enumerate() {
        check.user(index, user, auth);
    }
    check_raw_users(config, check.problems);
}

struct Check<'a> {
    anonymous: bool,
    problems: &'a mut Vec<Problem>,
    names: HashMap<&'a str, usize>,
    /// NKeys and certificates, which must lead to one user each.
    taken: HashMap<(&'static str, &'a str), usize>,
}

impl<'a> Check<'a> {
    fn wrong(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.problems.push(Problem::of_key(key, text));
    }

    fn user(&mut self, index: usize, user: &'a User, auth: &Auth) {
        let key = |name: &str| format!("auth.users[{index}].{name}");
        if let Some(text) = name_error(&user.name) {
            self.wrong(key("name"), text);
        } else if let Some(other) = self.names.insert(&user.name, index) {
            self.wrong(
                key("name"),
                format!("auth.users[{other}] has this name already; each user has its own"),
            );
        }
        self.credentials(index, user);
        for (name, own, default) in [
            ("publish", &user.publish, &auth.defaults.publish),
            ("subscribe", &user.subscribe, &auth.defaults.subscribe),
        ] {
            self.permissions(&key(name), own.as_ref(), Some(&user.name));
            let uses_template =
                own.is_none() && default.iter().flat_map(filters).any(|(_, _, text)| auth::is_template(text));
            if uses_template && !auth::is_template_name(&user.name) {
                self.wrong(key("name"), TEMPLATE_NAME);
            }
        }
        if user.allow_responses.as_ref().is_some_and(|responses| responses.count == 0) {
            self.wrong(
                key("allow_responses.count"),
                "0 would allow no reply at all; leave allow_responses out for that",
            );
        }
        self.limits(&format!("auth.users[{index}]"), user.limits.as_ref());
    }

    fn credentials(&mut self, index: usize, user: &'a User) {
        let key = |name: &str| format!("auth.users[{index}].{name}");
        for (name, hash) in [("password_hash", &user.password_hash), ("token_hash", &user.token_hash)] {
            if let Some(error) = hash.as_ref().and_then(|hash| auth::hash_error(hash.reveal())) {
                self.wrong(key(name), error);
            }
        }
        if let Some(Err(error)) = user.nkey.as_deref().map(UserKey::parse) {
            self.wrong(key("nkey"), error.to_string());
        }
        if user.certificate.as_deref() == Some("") {
            self.wrong(
                key("certificate"),
                "expected the common name or an alternative name of a certificate",
            );
        }
        for (name, value) in [("nkey", &user.nkey), ("certificate", &user.certificate)] {
            let Some(value) = value else { continue };
            if let Some(other) = self.taken.insert((name, value), index) {
                self.wrong(
                    key(name),
                    format!("auth.users[{other}] has this {name} already, and it must say who it is"),
                );
            }
        }
        let has_any = user.password_hash.is_some()
            || user.token_hash.is_some()
            || user.nkey.is_some()
            || user.certificate.is_some()
            || user.psk_file.is_some();
        if user.name == auth::ANONYMOUS && !self.anonymous {
            self.wrong(
                key("name"),
                "the user anonymous stands for clients without credentials, which are not let in; set auth.anonymous = true",
            );
        }
        if user.name == auth::ANONYMOUS && has_any {
            self.wrong(key("name"), "the user anonymous stands for clients without credentials and can have none; choose another name");
        }
    }

    fn permissions(&mut self, key: &str, permissions: Option<&Permissions>, user: Option<&str>) {
        for (list, at, text) in permissions.into_iter().flat_map(filters) {
            let key = format!("{key}.{list}[{at}]");
            // In the defaults the name is not known yet; any will do to see whether the rest is right.
            let name = user.unwrap_or("user");
            if auth::is_template(text) && !auth::is_template_name(name) {
                self.wrong(key, TEMPLATE_NAME);
            } else if let Err(error) = auth::rule(text, name) {
                self.wrong(key, error.to_string());
            }
        }
    }

    fn limits(&mut self, key: &str, limits: Option<&UserLimits>) {
        let Some(limits) = limits else { return };
        for (name, is_zero) in [
            ("messages_per_second", limits.messages_per_second == Some(0)),
            ("bytes_per_second", limits.bytes_per_second == Some(0)),
            ("max_connections", limits.max_connections == Some(0)),
        ] {
            if is_zero {
                self.wrong(
                    format!("{key}.limits.{name}"),
                    "0 would let nothing through; to lift the limit, leave it out",
                );
            }
        }
    }
}

/// What is wrong with a name that a template cannot use.
const TEMPLATE_NAME: &str = "a name that stands for {{user}} in a filter is one token: no dot and no wildcard, so that no user's subjects are inside another's";

/// The lists, their indexes and texts.
fn filters(permissions: &Permissions) -> impl Iterator<Item = (&'static str, usize, &String)> {
    let allow = permissions.allow.iter().flatten().enumerate().map(|(at, text)| ("allow", at, text));
    allow.chain(permissions.deny.iter().enumerate().map(|(at, text)| ("deny", at, text)))
}

/// Basic separates name and password by a colon (RFC 7617, section 2).
fn name_error(name: &str) -> Option<String> {
    let is_wrong = |c: char| c.is_whitespace() || c.is_control() || c == ':';
    (name.is_empty() || name.len() > MAX_NAME_LEN || name.contains(is_wrong)).then(|| {
        format!("expected 1 to {MAX_NAME_LEN} bytes without white space, control characters and colons")
    })
}

/// Who speaks no protocol cannot say who he is, so that the configuration has to.
fn check_raw_users(config: &Config, problems: &mut Vec<Problem>) {
    let lines = config.listeners.lines.iter().map(|lines| &lines.user).collect::<Vec<_>>();
    let datagrams = config.listeners.datagrams.iter().map(|datagrams| &datagrams.user).collect();
    for (name, users) in [("lines", lines), ("datagrams", datagrams)] {
        for (index, user) in users.into_iter().enumerate() {
            let key = format!("listeners.{name}[{index}].user");
            let exists = |user: &str| config.auth.users.iter().any(|known| known.name == user);
            let text = match user {
                Some(user) if !exists(user) => {
                    format!("there is no user {user:?}; name one of auth.users")
                }
                None if !config.auth.users.is_empty() && !config.auth.anonymous => {
                    "is missing: there are users, and programs on this listener cannot say which they are; name the \
                     one whose permissions they have, or set auth.anonymous = true"
                        .to_owned()
                }
                _ => continue,
            };
            problems.push(Problem::of_key(key, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    #[test]
    fn what_is_wrong_is_named_with_its_key_and_its_remedy() {
        let user = "[[auth.users]]\nname = 'ada'\n";
        for (text, key, remedy) in [
            (format!("{user}password_hash = 's3cr3t'"), "auth.users[0].password_hash", "waymeet auth hash"),
            (format!("{user}token_hash = '$2b$s3cr3t'"), "auth.users[0].token_hash", "waymeet auth hash"),
            (format!("{user}nkey = '{}'", KEY.replace('X', "Y")), "auth.users[0].nkey", "checksum"),
            (format!("{user}nkey = 'SUs3cr3t'"), "auth.users[0].nkey", "base32"),
            (format!("{user}certificate = ''"), "auth.users[0].certificate", "common name"),
            (format!("{user}{user}"), "auth.users[1].name", "each user has its own"),
            ("[[auth.users]]\nname = 'a:b'".to_owned(), "auth.users[0].name", "colons"),
            (format!("{user}nkey = '{KEY}'\n[[auth.users]]\nname = 'b'\nnkey = '{KEY}'"), "auth.users[1].nkey", "who it is"),
            (format!("{user}publish = {{ allow = ['a..b'] }}"), "auth.users[0].publish.allow[0]", "empty token"),
            (format!("{user}subscribe = {{ deny = ['a', 'a q x'] }}"), "auth.users[0].subscribe.deny[1]", "queue group"),
            (format!("{user}allow_responses = {{ count = 0 }}"), "auth.users[0].allow_responses.count", "leave"),
            (format!("{user}limits = {{ messages_per_second = 0 }}"), "auth.users[0].limits.messages_per_second", "leave"),
            ("[[auth.users]]\nname = 'a.b'\npublish = { allow = ['{{user}}.x'] }".to_owned(), "auth.users[0].publish.allow[0]", "one token"),
            ("[auth.defaults]\npublish = { allow = ['{{user}}.x'] }\n[[auth.users]]\nname = 'a.b'".to_owned(), "auth.users[0].name", "one token"),
            ("[[auth.users]]\nname = 'anonymous'".to_owned(), "auth.users[0].name", "auth.anonymous = true"),
            (format!("auth.anonymous = true\n[[auth.users]]\nname = 'anonymous'\nnkey = '{KEY}'"), "auth.users[0].name", "another name"),
            (format!("[[listeners.lines]]\naddress = '127.0.0.1:0'\nsubject = 'a'\nmode = 'publish'\n{user}"), "listeners.lines[0].user", "auth.anonymous = true"),
            ("[[listeners.datagrams]]\naddress = '127.0.0.1:0'\nsubject = 'a'\nmode = 'publish'\nuser = 'x'".to_owned(), "listeners.datagrams[0].user", "auth.users"),
            (format!("{user}pasword_hash = 'x'"), "auth.users[0].pasword_hash", "password_hash"),
        ] {
            let error = Config::from_toml(&text, Path::new("waymeet.toml")).expect_err(&text).to_string();
            assert!(error.contains(&format!("{key}: ")) && error.contains(remedy), "{text}\n{error}");
            assert!(!error.contains("s3cr3t") && error.starts_with("waymeet.toml:"), "{text}\n{error}");
        }
    }

    #[test]
    fn what_the_design_shows_is_taken() {
        let around = tempfile::tempdir().unwrap();
        let psk_file = around.path().join("sensor-7.psk");
        std::fs::write(&psk_file, "00".repeat(16)).unwrap();
        let text = format!(
            "[listeners.nats]\naddress = '0.0.0.0:4222'\n[[auth.users]]\nname = 'sensor-7'\n\
             password_hash = '{}'\nnkey = '{KEY}'\ncertificate = 'sensor-7.example'\npsk_file = '{}'\n\
             publish = {{ allow = ['sensors.7.>'], deny = ['sensors.7.secret'] }}\n\
             subscribe = {{ allow = ['commands.7.>', 'jobs.> workers.*'] }}\n\
             allow_responses = {{ count = 1, expires = '1m' }}",
            "$argon2id$v=19$m=19456,t=2,p=1$d2F5bWVldC1kZWNveS1zYWx0$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            psk_file.display()
        );
        let config = Config::from_toml(&text, Path::new("waymeet.toml")).unwrap();
        let printed = config.to_toml().unwrap();
        assert!(!printed.contains("argon2id") && printed.contains("sensors.7.secret"), "{printed}");
    }
}
