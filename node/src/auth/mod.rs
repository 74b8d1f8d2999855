//! Who clients are, and what they may do (design, section 9).
//!
//! Owns the users, the proofs by which they log in, and how much work and memory a flood of logins may cause.
//! The decision about subjects is core's (`waymeet_core::permissions`); listeners bring the credentials that their
//! protocol carries. It must not know a protocol or a socket.

mod acting;
mod addresses;
mod browsers;
mod directory;
mod failures;
mod password;
mod policy;
mod user;
mod verdicts;
mod verifier;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use waymeet_core::credentials::UserKey;

pub(crate) use addresses::{Addresses, Place};
pub use directory::AuthError;
pub(crate) use directory::{is_template, is_template_name, rule};
pub(crate) use password::error as hash_error;
pub use password::hash as hash_secret;
pub(crate) use policy::{Bound, Policies, Policy, PolicyId};
pub(crate) use user::{Connected, User};

use crate::config::{AuthLimits, Config};
use crate::dtls::{Psk, PskLookup};
use crate::metrics::{Limit, Metrics};
use browsers::{Browsers, Found};
use directory::Directory;
use failures::Failures;
use verdicts::Verdicts;
use verifier::{Candidate, Job, Verifier};

/// The user that clients without credentials are, where they are let in.
pub(crate) const ANONYMOUS: &str = "anonymous";

/// Who a client is. `None` where nobody is asked: there are no users and no rules.
pub(crate) type Who = Option<Arc<User>>;

/// How a client proves who it is.
#[derive(Clone, Copy)]
pub(crate) enum Credentials<'a> {
    /// A user's name and password.
    Password { user: &'a str, password: &'a str },
    /// A bearer token.
    Token(&'a str),
    /// A public NKey and the signature of our nonce, in base64.
    NKey { key: &'a str, signature: &'a str, nonce: &'a [u8] },
    /// The names of a client certificate that was verified: its common name and its alternative names.
    Certificate(&'a [String]),
}

/// Why a client is not let in. Never says whether the user or the secret was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginError {
    /// There are no credentials, and they are asked for.
    #[error("this node wants to know who you are")]
    Missing,
    /// The credentials prove nothing.
    #[error("these credentials are not those of a user")]
    Wrong,
    /// Too many logins of this address have failed.
    #[error("too many logins from this address have failed; wait a minute")]
    TooManyFailures,
    /// Too many logins wait for their verification.
    #[error("too many logins at once; try again in a second")]
    Busy,
}

/// A login: decided, or waiting for an expensive verification.
pub(crate) enum Attempt {
    Decided(Result<Arc<User>, LoginError>),
    Pending(oneshot::Receiver<Result<Arc<User>, LoginError>>),
}

impl Attempt {
    pub(crate) async fn outcome(self) -> Result<Arc<User>, LoginError> {
        match self {
            Self::Decided(outcome) => outcome,
            Self::Pending(waiting) => waiting.await.unwrap_or(Err(LoginError::Busy)),
        }
    }
}

/// What the verifier's threads share with the rest.
#[derive(Debug)]
struct Memory {
    verdicts: Mutex<Verdicts>,
    failures: Mutex<Failures>,
    metrics: Arc<Metrics>,
}

/// The users and all that belongs to them.
#[derive(Debug)]
pub(crate) struct Auth {
    directory: RwLock<Arc<Directory>>,
    verifier: Verifier,
    memory: Arc<Memory>,
    browsers: Mutex<Browsers>,
    limits: AuthLimits,
    unproved: AtomicUsize,
    /// Counts the reloads.
    changed: watch::Sender<u64>,
}

impl Auth {
    /// # Errors
    /// When a file that the configuration names cannot be read or used.
    pub(crate) fn new(
        config: &Config,
        policies: &Policies,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AuthError> {
        let limits = config.limits.auth.clone();
        let memory = Arc::new(Memory {
            verdicts: Mutex::new(Verdicts::new(limits.verdict_cache_entries, limits.verdict_cache_time)),
            failures: Mutex::new(Failures::new(limits.max_failures_per_minute)),
            metrics,
        });
        let directory = Directory::new(config, None, policies)?;
        Ok(Self {
            directory: RwLock::new(Arc::new(directory)),
            verifier: Verifier::new(limits.max_verifications, limits.max_waiting_verifications, &memory),
            memory,
            browsers: Mutex::new(Browsers::new(limits.max_browser_logins, limits.browser_login_time)),
            limits,
            unproved: AtomicUsize::new(0),
            changed: watch::Sender::new(0),
        })
    }

    /// Takes over users and rules. Whoever is in it no more, or with other credentials, is gone; others keep their
    /// sessions under the new rules. The caller makes plans stale and tells the sessions.
    ///
    /// # Errors
    /// When a file that the configuration names cannot be read or used; nothing changes then.
    pub(crate) fn reload(&self, config: &Config, policies: &Policies) -> Result<(), AuthError> {
        let old = self.directory.read().clone();
        let new = Arc::new(Directory::new(config, Some(&old), policies)?);
        *self.directory.write() = new.clone();
        old.part_from(&new, policies);
        self.browsers.lock().forget_gone();
        Ok(())
    }

    /// Wakes those who look at the users again after a reload.
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|reloads| *reloads += 1);
    }

    /// Completes with every reload.
    pub(crate) fn reloads(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether clients are asked who they are.
    pub(crate) fn is_asked(&self) -> bool {
        self.directory.read().is_asked()
    }

    /// Who every client is, where none is asked who it is.
    pub(crate) fn everybody(&self) -> Option<Who> {
        let directory = self.directory.read();
        if directory.is_asked() { None } else { directory.nobody() }
    }

    /// Who a client without credentials is.
    ///
    /// # Errors
    /// [`LoginError::Missing`] when such clients are not let in.
    pub(crate) fn nobody(&self) -> Result<Who, LoginError> {
        self.directory.read().nobody().ok_or(LoginError::Missing)
    }

    /// Who the programs on a raw listener are: the user that its configuration names, or without a name nobody.
    ///
    /// # Errors
    /// When there is no such user any more, or clients without credentials are not let in.
    pub(crate) fn speaker(&self, name: Option<&str>) -> Result<Who, LoginError> {
        match name {
            None => self.nobody(),
            Some(name) => self.directory.read().by_name(name).map(Some).ok_or(LoginError::Missing),
        }
    }

    /// The pre-shared key of the user with this name, for DTLS; and who that is.
    pub(crate) fn psk(&self, identity: &str) -> Option<(Arc<User>, Psk)> {
        self.directory.read().psk(identity)
    }

    /// Looks at credentials that came from an address.
    pub(crate) fn login(&self, credentials: Credentials<'_>, from: IpAddr) -> Attempt {
        let directory = self.directory.read().clone();
        let found = match credentials {
            Credentials::Password { user, password } => {
                return self.verify(directory.password_candidates(user), user, password, from);
            }
            Credentials::Token(token) => {
                return self.verify(directory.token_candidates(token), "", token, from);
            }
            _ if self.memory.failures.lock().are_too_many(from, Instant::now()) => {
                return Attempt::Decided(self.memory.conclude(Err(LoginError::TooManyFailures), from));
            }
            Credentials::NKey { key, signature, nonce } => UserKey::parse(key)
                .ok()
                .filter(|key| is_signed(key, signature, nonce))
                .and_then(|key| directory.by_nkey(&key)),
            Credentials::Certificate(names) => names.iter().find_map(|name| directory.by_certificate(name)),
        };
        Attempt::Decided(self.memory.conclude(found.ok_or(LoginError::Wrong), from))
    }

    /// Compares a secret with hashes: at once when the verdict is known, else on the verifier's threads.
    fn verify(&self, candidates: Vec<Candidate>, name: &str, secret: &str, from: IpAddr) -> Attempt {
        let now = Instant::now();
        let key = self.memory.verdicts.lock().key(name, secret, &candidates);
        let known = self.memory.verdicts.lock().get(&key, now);
        if let Some(Some(index)) = known {
            let user = candidates.get(index).and_then(|candidate| candidate.user.clone());
            return Attempt::Decided(self.memory.conclude(user.ok_or(LoginError::Wrong), from));
        }
        if self.memory.failures.lock().are_too_many(from, now) {
            return Attempt::Decided(self.memory.conclude(Err(LoginError::TooManyFailures), from));
        }
        if known.is_some() {
            return Attempt::Decided(self.memory.conclude(Err(LoginError::Wrong), from));
        }
        let (answer, waiting) = oneshot::channel();
        match self.verifier.ask(Job { candidates, secret: secret.to_owned(), key, from, answer }) {
            Ok(()) => Attempt::Pending(waiting),
            Err(_) => Attempt::Decided(self.memory.conclude(Err(LoginError::Busy), from)),
        }
    }

    /// Logs a web browser in; what comes back is the cookie's value.
    pub(crate) fn browser_login(&self, user: Arc<User>) -> String {
        let (cookie, displaced) = self.browsers.lock().login(user, Instant::now());
        if displaced {
            self.memory.metrics.limit_reached(Limit::AuthMaxBrowserLogins);
        }
        cookie
    }

    /// Who the browser with this cookie is.
    pub(crate) fn browser(&self, cookie: &str) -> Option<Arc<User>> {
        let found = self.browsers.lock().user(cookie, Instant::now());
        if let Found::TooOld = found {
            self.memory.metrics.limit_reached(Limit::AuthBrowserLoginTime);
        }
        found.user()
    }

    /// Ends a browser's login.
    pub(crate) fn browser_logout(&self, cookie: &str) {
        self.browsers.lock().logout(cookie);
    }

    /// Takes a place among those that have not proved yet who they are; `None` when there are too many.
    pub(crate) fn unproved(self: &Arc<Self>) -> Option<Unproved> {
        let before = self.unproved.fetch_add(1, Ordering::AcqRel);
        let place = Unproved(self.clone());
        (before < self.limits.max_unproved).then_some(place)
    }

    /// Counts a client that came when there were too many unproved ones.
    pub(crate) fn count_crowd(&self) {
        self.memory.metrics.limit_reached(Limit::AuthMaxUnproved);
    }

    pub(crate) fn limits(&self) -> &AuthLimits {
        &self.limits
    }
}

impl Memory {
    /// Counts what became of a login.
    fn conclude(
        &self,
        outcome: Result<Arc<User>, LoginError>,
        from: IpAddr,
    ) -> Result<Arc<User>, LoginError> {
        self.metrics.login(match outcome {
            Ok(_) => "accepted",
            Err(LoginError::Wrong | LoginError::Missing) => "refused",
            Err(LoginError::TooManyFailures | LoginError::Busy) => "too_many",
        });
        match outcome {
            Err(LoginError::TooManyFailures) => self.metrics.limit_reached(Limit::AuthMaxFailuresPerMinute),
            Err(LoginError::Busy) => self.metrics.limit_reached(Limit::AuthMaxWaitingVerifications),
            Ok(_) | Err(LoginError::Wrong | LoginError::Missing) => {}
        }
        if outcome.as_ref().err() == Some(&LoginError::Wrong) {
            self.failures.lock().add(from, Instant::now());
        }
        outcome
    }
}

impl PskLookup for Auth {
    fn key(&self, identity: &str) -> Option<Psk> {
        self.psk(identity).map(|(_, key)| key)
    }
}

/// A session that has not proved yet who its client is.
#[derive(Debug)]
pub(crate) struct Unproved(Arc<Auth>);

impl Drop for Unproved {
    fn drop(&mut self) {
        self.0.unproved.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether the signature, in either of the two forms of base64 that clients use, is that of the nonce.
fn is_signed(key: &UserKey, signature: &str, nonce: &[u8]) -> bool {
    let decoded = URL_SAFE_NO_PAD.decode(signature).or_else(|_| STANDARD.decode(signature));
    let Ok(Ok(signature)) = decoded.map(<[u8; 64]>::try_from) else { return false };
    let signature = ed25519_dalek::Signature::from_bytes(&signature);
    ed25519_dalek::VerifyingKey::from_bytes(key.as_bytes())
        .is_ok_and(|key| key.verify_strict(nonce, &signature).is_ok())
}

/// A nonce for a client with an NKey: as long as nats-server's, and of letters that JSON takes as they are.
pub(crate) fn nonce() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 11]>())
}

#[cfg(test)]
mod tests;
