//! The users of the configuration, as they are looked up.
//!
//! Owns turning `[auth]` into users, and finding them by what a client shows. It must not verify secrets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use waymeet_core::credentials::UserKey;
use waymeet_core::permissions::{self, Responses, Rule, RuleError, Rules};
use waymeet_core::rate::TokenBucket;

use super::password::DECOY;
use super::policy::{Meter, Policies, Policy};
use super::user::User;
use super::verifier::Candidate;
use super::{ANONYMOUS, Who};
use crate::config::{self, Config, UserDefaults};
use crate::dtls::{Psk, PskError};

/// What stands for the user's name in a filter.
const TEMPLATE: &str = "{{user}}";

/// Why `[auth]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A filter is none. [`Config::validate`] says more of it.
    #[error("the permissions of the user {user:?} cannot be used: {error}")]
    Rule {
        /// The user.
        user: String,
        /// What is wrong.
        error: RuleError,
    },
    /// An NKey is none. [`Config::validate`] says more of it.
    #[error("the NKey of the user {0:?} cannot be used")]
    NKey(String),
    /// A pre-shared key cannot be used.
    #[error("the pre-shared key of the user {user:?} cannot be used: {error}")]
    Psk {
        /// The user.
        user: String,
        /// What is wrong with it.
        error: PskError,
    },
}

pub(super) struct Directory {
    users: HashMap<Box<str>, Entry>,
    by_nkey: HashMap<UserKey, Arc<User>>,
    by_certificate: HashMap<Box<str>, Arc<User>>,
    /// Everybody who has a token, in the order of the configuration.
    tokens: Vec<(Arc<str>, Arc<User>)>,
    /// Whose hash is compared for a user that does not exist: one as expensive as the others.
    decoy: Arc<str>,
    /// What a client without credentials is; `None` when it is not let in.
    nobody: Option<Who>,
}

struct Entry {
    user: Arc<User>,
    credentials: Fingerprint,
    password: Option<Arc<str>>,
    psk: Option<Psk>,
}

/// What a user proves itself by. When it changes, whoever had logged in with the old one is somebody else.
#[derive(PartialEq, Eq)]
struct Fingerprint([Option<String>; 4], Option<Psk>);

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl Directory {
    /// Reads `[auth]`, keeping those users of `old` that still have the same credentials, and puts the policies in
    /// force.
    pub(super) fn new(config: &Config, old: Option<&Self>, policies: &Policies) -> Result<Self, AuthError> {
        let auth = &config.auth;
        let mut planned = Vec::new();
        for user in &auth.users {
            let psk = user.psk_file.as_deref().map(Psk::read).transpose();
            let psk = psk.map_err(|error| AuthError::Psk { user: user.name.clone(), error })?;
            let key = user.nkey.as_deref().map(UserKey::parse).transpose();
            let key = key.map_err(|_| AuthError::NKey(user.name.clone()))?;
            planned.push((user, psk, key, permissions(user, &auth.defaults)?));
        }
        // Only from here on anything changes.
        let mut directory = Self {
            users: HashMap::new(),
            by_nkey: HashMap::new(),
            by_certificate: HashMap::new(),
            tokens: Vec::new(),
            decoy: DECOY.into(),
            nobody: None,
        };
        for (config_user, psk, key, permissions) in planned {
            let limits = config_user.limits.as_ref().or(auth.defaults.limits.as_ref());
            let credentials = fingerprint(config_user, psk.clone());
            let known = old.and_then(|old| old.users.get(&*config_user.name));
            let kept = known.filter(|entry| entry.credentials == credentials).map(|entry| entry.user.clone());
            let policy = policy(&config_user.name, permissions, limits, config, kept.as_deref(), policies);
            let user = renew(kept, &config_user.name, policy);
            directory.enter(config_user, user, credentials, psk, key);
        }
        directory.nobody = directory.who_is_nobody(config, old, policies)?;
        let users =
            directory.users.values().map(|entry| &entry.user).chain(directory.nobody.iter().flatten());
        policies.replace(users.map(|user| user.policy()));
        Ok(directory)
    }

    fn enter(
        &mut self,
        config: &config::User,
        user: Arc<User>,
        credentials: Fingerprint,
        psk: Option<Psk>,
        key: Option<UserKey>,
    ) {
        let password = config.password_hash.as_ref().map(|hash| Arc::from(hash.reveal()));
        if let Some(hash) = &password
            && *self.decoy == *DECOY
        {
            self.decoy = Arc::clone(hash);
        }
        if let Some(hash) = &config.token_hash {
            self.tokens.push((hash.reveal().into(), user.clone()));
        }
        if let Some(key) = key {
            self.by_nkey.insert(key, user.clone());
        }
        if let Some(name) = &config.certificate {
            self.by_certificate.insert(name.as_str().into(), user.clone());
        }
        self.users.insert(config.name.as_str().into(), Entry { user, credentials, password, psk });
    }

    /// A client without credentials: nobody in particular where nobody is asked, otherwise the user `anonymous`.
    fn who_is_nobody(
        &self,
        config: &Config,
        old: Option<&Self>,
        policies: &Policies,
    ) -> Result<Option<Who>, AuthError> {
        let auth = &config.auth;
        if let Some(entry) = self.users.get(ANONYMOUS) {
            return Ok(auth.anonymous.then(|| Some(entry.user.clone())));
        }
        if auth.users.is_empty() && auth.defaults == UserDefaults::default() {
            return Ok(Some(None));
        }
        if !auth.users.is_empty() && !auth.anonymous {
            return Ok(None);
        }
        let permissions = permissions_of(ANONYMOUS, None, None, None, &auth.defaults)?;
        let kept = old.and_then(|old| old.nobody.clone()).flatten();
        let limits = auth.defaults.limits.as_ref();
        let policy = policy(ANONYMOUS, permissions, limits, config, kept.as_deref(), policies);
        Ok(Some(Some(renew(kept, ANONYMOUS, policy))))
    }

    /// Takes their rights from all who are not in `new`.
    pub(super) fn part_from(&self, new: &Self, policies: &Policies) {
        let stays = |user: &Arc<User>| {
            let entry = new.users.get(user.name());
            let nobody = new.nobody.iter().flatten();
            entry.map(|entry| &entry.user).into_iter().chain(nobody).any(|other| Arc::ptr_eq(user, other))
        };
        let users = self.users.values().map(|entry| &entry.user).chain(self.nobody.iter().flatten());
        users.filter(|user| !stays(user)).for_each(|user| user.leave(policies));
    }

    pub(super) fn is_asked(&self) -> bool {
        !self.users.is_empty()
    }

    pub(super) fn nobody(&self) -> Option<Who> {
        self.nobody.clone()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Arc<User>> {
        self.users.get(name).map(|entry| entry.user.clone())
    }

    pub(super) fn by_nkey(&self, key: &UserKey) -> Option<Arc<User>> {
        self.by_nkey.get(key).cloned()
    }

    pub(super) fn by_certificate(&self, name: &str) -> Option<Arc<User>> {
        self.by_certificate.get(name).cloned()
    }

    pub(super) fn psk(&self, name: &str) -> Option<(Arc<User>, Psk)> {
        let entry = self.users.get(name)?;
        Some((entry.user.clone(), entry.psk.clone()?))
    }

    /// The hash to compare a user's password with. Who does not exist, or has none, costs as much as who has.
    pub(super) fn password_candidates(&self, name: &str) -> Vec<Candidate> {
        let found =
            self.users.get(name).and_then(|entry| Some((entry.password.clone()?, entry.user.clone())));
        vec![match found {
            Some((hash, user)) => Candidate { hash, user: Some(user) },
            None => Candidate { hash: self.decoy.clone(), user: None },
        }]
    }

    /// The hashes to compare a token with: the user's own for one of the form `name:secret`, otherwise everybody's.
    pub(super) fn token_candidates(&self, token: &str) -> Vec<Candidate> {
        let candidate =
            |(hash, user): &(Arc<str>, Arc<User>)| Candidate { hash: hash.clone(), user: Some(user.clone()) };
        if let Some((name, _)) = token.split_once(':')
            && let Some(own) = self.tokens.iter().find(|(_, user)| user.name() == name)
        {
            return vec![candidate(own)];
        }
        if self.tokens.is_empty() {
            return vec![Candidate { hash: self.decoy.clone(), user: None }];
        }
        self.tokens.iter().map(candidate).collect()
    }
}

fn renew(kept: Option<Arc<User>>, name: &str, policy: Arc<Policy>) -> Arc<User> {
    match kept {
        Some(user) => {
            user.set_policy(policy);
            user
        }
        None => Arc::new(User::new(name, policy)),
    }
}

fn policy(
    user: &str,
    permissions: permissions::Permissions,
    limits: Option<&config::UserLimits>,
    config: &Config,
    kept: Option<&User>,
    policies: &Policies,
) -> Arc<Policy> {
    let now = Instant::now();
    let bucket = |per_second: Option<u64>| per_second.map(|per_second| TokenBucket::new(per_second, now));
    let messages = bucket(limits.and_then(|limits| limits.messages_per_second));
    let bytes = bucket(limits.and_then(|limits| limits.bytes_per_second));
    let is_metered = messages.is_some() || bytes.is_some();
    let old = kept.map(User::policy);
    let responses = permissions.allow_responses.map(|rule| {
        // What was asked before a reload may be answered after it.
        let same = old.as_ref().filter(|old| old.permissions.allow_responses == Some(rule));
        let kept = same.and_then(|old| old.responses.clone());
        kept.unwrap_or_else(|| Arc::new(Mutex::new(Responses::new(rule))))
    });
    Arc::new(Policy {
        id: policies.next(),
        user: user.into(),
        responses,
        meter: is_metered.then(|| Mutex::new(Meter { messages, bytes })),
        max_connections: limits
            .and_then(|limits| limits.max_connections)
            .unwrap_or(config.limits.max_connections),
        permissions,
    })
}

fn permissions(user: &config::User, defaults: &UserDefaults) -> Result<permissions::Permissions, AuthError> {
    let config::User { name, publish, subscribe, allow_responses, .. } = user;
    permissions_of(name, publish.as_ref(), subscribe.as_ref(), allow_responses.as_ref(), defaults)
}

fn permissions_of(
    name: &str,
    publish: Option<&config::Permissions>,
    subscribe: Option<&config::Permissions>,
    allow_responses: Option<&config::AllowResponses>,
    defaults: &UserDefaults,
) -> Result<permissions::Permissions, AuthError> {
    let allow_responses = allow_responses.or(defaults.allow_responses.as_ref());
    Ok(permissions::Permissions {
        publish: rules(name, publish.or(defaults.publish.as_ref()))?,
        subscribe: rules(name, subscribe.or(defaults.subscribe.as_ref()))?,
        allow_responses: allow_responses.map(|responses| permissions::AllowResponses {
            count: responses.count,
            expires: responses.expires,
        }),
    })
}

fn rules(name: &str, permissions: Option<&config::Permissions>) -> Result<Rules, AuthError> {
    let Some(permissions) = permissions else { return Ok(Rules::default()) };
    let rules = |texts: &[String]| texts.iter().map(|text| rule(text, name)).collect::<Result<Vec<_>, _>>();
    let allow = permissions.allow.as_deref().map(rules).transpose();
    allow
        .and_then(|allow| Ok(Rules { allow, deny: rules(&permissions.deny)? }))
        .map_err(|error| AuthError::Rule { user: name.to_owned(), error })
}

/// Reads one line of an allow or deny list for a user.
pub(crate) fn rule(text: &str, user: &str) -> Result<Rule, RuleError> {
    Rule::new(&text.replace(TEMPLATE, user))
}

/// Whether the user's name stands in it.
pub(crate) fn is_template(text: &str) -> bool {
    text.contains(TEMPLATE)
}

/// Whether a name can stand in a filter without reaching beyond its token: of `a` and `a.b` one would have the
/// other's subjects.
pub(crate) fn is_template_name(name: &str) -> bool {
    !name.contains('.') && waymeet_core::Subject::new(name).is_ok()
}

fn fingerprint(user: &config::User, psk: Option<Psk>) -> Fingerprint {
    let hash = |secret: &Option<config::Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    let texts =
        [hash(&user.password_hash), hash(&user.token_hash), user.nkey.clone(), user.certificate.clone()];
    Fingerprint(texts, psk)
}
