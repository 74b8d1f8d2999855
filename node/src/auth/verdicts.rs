//! Verdicts on secrets that were verified already.
//!
//! Owns the bounded table, its life time and its key: an HMAC under a key that only this process knows, so that
//! neither a copy of the table nor the time of a look-up says anything of a secret. A verdict hangs on the hashes
//! that it was reached with, so that another hash in the configuration makes it worthless at once.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::verifier::Candidate;

/// Under which a verdict is kept.
pub(super) type Key = [u8; 32];

/// How long a refusal is remembered at most: whoever corrects his configuration should not wait.
const REFUSAL_TIME: Duration = Duration::from_secs(10);

pub(super) struct Verdicts {
    secret: [u8; 32],
    known: HashMap<Key, (Option<usize>, Instant)>,
    /// In the order of arrival, so that the oldest makes room.
    order: VecDeque<Key>,
    max_entries: usize,
    life: Duration,
}

impl std::fmt::Debug for Verdicts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verdicts").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Verdicts {
    pub(super) fn new(max_entries: usize, life: Duration) -> Self {
        let (known, order) = (HashMap::new(), VecDeque::new());
        Self { secret: rand::random(), known, order, max_entries: max_entries.max(1), life }
    }

    pub(super) fn key(&self, name: &str, secret: &str, candidates: &[Candidate]) -> Key {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes a key of any length");
        let hashes = candidates.iter().map(|candidate| &*candidate.hash);
        for part in [name, secret].into_iter().chain(hashes) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }

    /// The index of the candidate whose secret it was, or that it was nobody's; `None` when that is not known.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Option<usize>> {
        self.known.get(key).filter(|(_, until)| *until > now).map(|(verdict, _)| *verdict)
    }

    pub(super) fn put(&mut self, key: Key, verdict: Option<usize>, now: Instant) {
        let life = if verdict.is_some() { self.life } else { self.life.min(REFUSAL_TIME) };
        if self.known.insert(key, (verdict, now + life)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.max_entries {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_end_and_are_bounded() {
        let mut verdicts = Verdicts::new(2, Duration::from_secs(60));
        let now = Instant::now();
        let key = |secret: &str| verdicts.key("ada", secret, &[]);
        let (a, b, c) = (key("a"), key("b"), key("c"));
        assert_ne!(verdicts.key("ad", "aa", &[]), a, "the parts cannot run into each other");
        verdicts.put(a, Some(0), now);
        verdicts.put(b, None, now);
        assert_eq!(verdicts.get(&a, now + Duration::from_secs(59)), Some(Some(0)));
        assert_eq!(verdicts.get(&a, now + Duration::from_secs(60)), None);
        assert_eq!(verdicts.get(&b, now + REFUSAL_TIME - Duration::from_secs(1)), Some(None));
        assert_eq!(verdicts.get(&b, now + REFUSAL_TIME), None, "a refusal is forgotten sooner");
        verdicts.put(c, Some(1), now);
        assert_eq!((verdicts.get(&a, now), verdicts.known.len()), (None, 2));
    }
}
