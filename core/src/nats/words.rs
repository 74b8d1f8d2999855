//! What a session tells a client that it refuses.
//!
//! Owns the words, which are nats-server's where it has any: clients choose by them what to do. It must not decide what
//! is refused.

use super::encode;
use super::session::{Closed, LoginRefusal, Refusal, Upstream};

/// nats-server's words for a publication to something that is no subject.
pub(super) const INVALID_PUBLISH_SUBJECT: &str = "Invalid Publish Subject";

#[cold]
pub(super) fn refuse_publication(subject: &[u8], refusal: Refusal, upstream: &mut impl Upstream) {
    match refusal {
        Refusal::Invalid => send_error(upstream, INVALID_PUBLISH_SUBJECT),
        Refusal::NoPermission => {
            let subject = String::from_utf8_lossy(subject);
            send_error(upstream, &format!("Permissions Violation for Publish to \"{subject}\""));
        }
        // The clients close a session at words that they do not know; these they report and go on.
        Refusal::RateLimited => {
            let subject = String::from_utf8_lossy(subject);
            send_error(
                upstream,
                &format!("Permissions Violation for Publish to \"{subject}\": rate_limited"),
            );
        }
        // A draining node tells its clients by INFO with `ldm`; there is no -ERR for it.
        Refusal::PayloadTooLarge | Refusal::TooManySubscriptions | Refusal::Draining => {}
    }
}

/// Says why the client is not let in, in nats-server's words where it has any.
#[cold]
pub(super) fn turn_away(refusal: LoginRefusal, upstream: &mut impl Upstream) -> Closed {
    let (words, closed) = match refusal {
        LoginRefusal::Violation => ("Authorization Violation", Closed::Authorization),
        LoginRefusal::TooMany => ("Too Many Logins", Closed::TooManyLogins),
        LoginRefusal::TooManySessions => ("maximum connections exceeded", Closed::TooManySessions),
    };
    send_error(upstream, words);
    closed
}

pub(super) fn send_error(upstream: &mut impl Upstream, reason: &str) {
    let mut line = Vec::with_capacity(reason.len() + 10);
    encode::error(&mut line, reason);
    upstream.send(&line);
}
