//! Credentials: the `Authorization` header, NKeys, CONNECT of a session that wants to know who is there, and rules.
//!
//! Owns what must hold of them for any bytes: no panic, one text for each key, no secret shown, nothing carried out
//! for a stranger, and a decision on rules that is the same by subject and by filter.

use waymeet_core::credentials::{Authorization, UserKey, UserSeed};
use waymeet_core::message::RawMessage;
use waymeet_core::nats::{
    ConnectOptions, Credentials, Limits, Login, LoginRefusal, Published, Refusal, Session, Upstream,
};
use waymeet_core::permissions::{Access, Rule, Rules};
use waymeet_core::{Filter, Subject};

/// Small, so that the fuzzer reaches them.
const LIMITS: Limits = Limits { max_control_line_bytes: 512, max_payload_bytes: 128 };

/// Reads the bytes as each kind of credential.
///
/// # Panics
/// When a key has two texts, a secret is shown, or a stranger gets anything done.
pub fn credentials(data: &[u8]) {
    if let Ok(Authorization::Basic { user, password }) = Authorization::parse(data) {
        assert!(!user.contains(':'));
        let shown = format!("{:?}", Authorization::Basic { user, password: password.clone() });
        assert!(password.len() < 8 || !shown.contains(&password));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(key) = UserKey::parse(text) {
            assert_eq!(key.to_string(), text);
        }
        if let Ok(seed) = UserSeed::parse(text) {
            assert_eq!(seed.to_text(), text);
            assert!(!format!("{seed:?}").contains(&text[2..]));
        }
        rules(text);
    }
    stranger(data);
}

/// Lines of a text: the first is an allowed rule, the second a denied one, the third a subject.
fn rules(text: &str) {
    let mut lines = text.lines();
    let (Some(allow), Some(deny), Some(subject)) = (lines.next(), lines.next(), lines.next()) else { return };
    let (Ok(allow), Ok(deny), Ok(subject)) = (Rule::new(allow), Rule::new(deny), Subject::new(subject))
    else {
        return;
    };
    let rules = Rules { allow: Some(vec![allow]), deny: vec![deny] };
    for queue in [None, lines.next()] {
        let permitted = rules.permits(subject, queue);
        match rules.access(subject.into(), queue) {
            Access::All => assert!(permitted),
            Access::None => assert!(!permitted),
            Access::Some => {}
        }
    }
}

/// A session that nobody ever gets into.
fn stranger(data: &[u8]) {
    let mut session = Session::new(LIMITS, 2).guarded();
    let mut nothing = Nothing(data.len().is_multiple_of(2));
    if session.receive(data, &mut nothing).is_ok() && session.is_pending() {
        let end = session.logged_in(Err(LoginRefusal::Violation), &mut nothing);
        assert!(end.is_err() && !session.is_open());
    }
}

/// Lets nobody in, at once or later, and is asked for nothing.
struct Nothing(bool);

impl Upstream for Nothing {
    fn publish(&mut self, message: &RawMessage<'_>) -> Published {
        panic!("a stranger published {message:?}");
    }

    fn no_responders(&mut self, _: &RawMessage<'_>) {
        panic!("a stranger asked");
    }

    fn rejected(&mut self, _: Refusal) {}

    fn subscribe(&mut self, _: &[u8], filter: Filter<'_>, _: Option<&str>) -> Result<(), Refusal> {
        panic!("a stranger subscribed to {filter}");
    }

    fn unsubscribe(&mut self, _: &[u8], _: Option<u64>) {
        panic!("a stranger unsubscribed");
    }

    fn authenticate(&mut self, credentials: &Credentials) -> Login {
        let shown = format!("{credentials:?}");
        for secret in
            [&credentials.password, &credentials.token, &credentials.signature].into_iter().flatten()
        {
            assert!(secret.len() < 12 || !shown.contains(secret.as_str()));
        }
        if self.0 { Login::Pending } else { Login::Refused(LoginRefusal::Violation) }
    }

    fn connected(&mut self, _: &ConnectOptions) {
        panic!("a stranger was let in");
    }

    fn send(&mut self, bytes: &[u8]) {
        assert!(bytes.starts_with(b"-ERR '"), "a stranger was told {}", bytes.escape_ascii());
    }
}
