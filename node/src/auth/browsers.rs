//! Web browsers that have logged in.
//!
//! Owns the bounded table from cookie to user. What is kept is a hash of the cookie, so that neither a copy of the
//! table nor the time of a look-up gives one away.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::user::User;

type Digest = [u8; 32];

pub(super) struct Browsers {
    logins: HashMap<Digest, (Arc<User>, Instant)>,
    order: VecDeque<Digest>,
    max: usize,
    life: Duration,
}

/// Whose a cookie is.
#[derive(Debug)]
pub(super) enum Found {
    User(Arc<User>),
    /// Whoever it is has to log in again.
    TooOld,
    Nobody,
}

impl Found {
    pub(super) fn user(self) -> Option<Arc<User>> {
        match self {
            Self::User(user) => Some(user),
            Self::TooOld | Self::Nobody => None,
        }
    }
}

impl std::fmt::Debug for Browsers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Browsers").field("logins", &self.logins.len()).finish_non_exhaustive()
    }
}

impl Browsers {
    pub(super) fn new(max: usize, life: Duration) -> Self {
        Self { logins: HashMap::new(), order: VecDeque::new(), max: max.max(1), life }
    }

    /// The value of a new cookie, 256 random bits; and whether the oldest login has made room for it.
    pub(super) fn login(&mut self, user: Arc<User>, now: Instant) -> (String, bool) {
        let displaced = self.order.len() >= self.max;
        while self.order.len() >= self.max {
            if let Some(oldest) = self.order.pop_front() {
                self.logins.remove(&oldest);
            }
        }
        let cookie = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let digest = digest(&cookie);
        self.logins.insert(digest, (user, now + self.life));
        self.order.push_back(digest);
        (cookie, displaced)
    }

    pub(super) fn user(&self, cookie: &str, now: Instant) -> Found {
        match self.logins.get(&digest(cookie)) {
            Some((user, _)) if user.is_gone() => Found::Nobody,
            Some((_, until)) if *until <= now => Found::TooOld,
            Some((user, _)) => Found::User(user.clone()),
            None => Found::Nobody,
        }
    }

    pub(super) fn logout(&mut self, cookie: &str) {
        let digest = digest(cookie);
        if self.logins.remove(&digest).is_some() {
            self.order.retain(|known| *known != digest);
        }
    }

    pub(super) fn forget_gone(&mut self) {
        self.logins.retain(|_, (user, _)| !user.is_gone());
        self.order.retain(|known| self.logins.contains_key(known));
    }
}

fn digest(cookie: &str) -> Digest {
    Sha256::digest(cookie.as_bytes()).into()
}
