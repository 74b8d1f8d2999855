//! One NATS client's conversation.
//!
//! Owns what the protocol decides: the order of answers, `+OK` and `-ERR`, when the session ends and why.
//! It must not buffer, route or wait: the caller keeps bytes that are not a whole operation yet, and
//! everything that leaves the session goes through [`Upstream`].

use super::connect::{ConnectOptions, Credentials};
use super::encode;
use super::parser::{Limits, Operation, ParseError, Parsed, parse};
use super::repeats::repeats;
use super::turn::{self, Stop, Turn};
use super::words::{INVALID_PUBLISH_SUBJECT, refuse_publication, send_error, turn_away};
use crate::headers::Headers;
use crate::message::{RawMessage, Repeats};
use crate::subject::{Filter, Subject};

/// What a session needs from the node it belongs to.
pub trait Upstream {
    /// Routes a message, which borrows from the read buffer. Its subject is not parsed yet;
    /// [`Refusal::Invalid`] says that it is none.
    fn publish(&mut self, message: &RawMessage<'_>) -> Published;
    /// Routes more messages on the subject of the last one that was published, without reply subjects and headers. Says
    /// whether they are routed; when they are not, they are published one by one.
    fn publish_repeats(&mut self, subject: &[u8], repeats: &Repeats<'_>) -> bool {
        let _ = (subject, repeats);
        false
    }
    /// Tells the requester that nobody can answer, by a message on its reply subject. Called only for
    /// clients that asked for it in CONNECT.
    fn no_responders(&mut self, request: &RawMessage<'_>);
    /// Counts a message that the session itself refused.
    fn rejected(&mut self, why: Refusal);
    /// Makes a subscription under the client's name `sid`. A `sid` that is in use keeps its first
    /// subscription, as in nats-server.
    fn subscribe(&mut self, sid: &[u8], filter: Filter<'_>, queue: Option<&str>) -> Result<(), Refusal>;
    /// Ends the subscription `sid`, at once or once it has received `max` messages in all. An unknown
    /// `sid` is no error.
    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>);
    /// Finds out who the client is, at the first CONNECT of a session that wants to know. The answer to
    /// [`Login::Pending`] comes later through [`Session::logged_in`].
    fn authenticate(&mut self, credentials: &Credentials) -> Login {
        let _ = credentials;
        Login::Refused(LoginRefusal::Violation)
    }
    /// Takes the client's options, at each CONNECT.
    fn connected(&mut self, options: &ConnectOptions);
    /// PING was sent.
    fn pinged(&mut self) {}
    /// PONG has come.
    fn ponged(&mut self) {}
    /// Queues bytes for the client, behind everything queued before.
    fn send(&mut self, bytes: &[u8]);
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// At least one subscription matched.
    Matched,
    /// Nobody could take it.
    Unmatched,
    /// It was not accepted.
    Refused(Refusal),
}

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// The client is who it says.
    Accepted,
    /// It is not, or that cannot be found out.
    Refused(LoginRefusal),
    /// It takes a while. Until then nothing more of the client is carried out.
    Pending,
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginRefusal {
    /// It has not proved who it is.
    Violation,
    /// Too many logins wait already, or too many from its address have failed.
    TooMany,
    /// The user has as many sessions as it may have.
    TooManySessions,
}

/// Why the node refuses what a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Permissions forbid it.
    NoPermission,
    /// The subject is not a subject.
    Invalid,
    /// The body is larger than the limit.
    PayloadTooLarge,
    /// The session has as many subscriptions as it may have.
    TooManySubscriptions,
    /// The user publishes more than it may.
    RateLimited,
    /// The node is going away.
    Draining,
}

/// Why a session ends. `Display` is for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The bytes were no operation.
    #[error("protocol violation: {0}")]
    Protocol(#[from] ParseError),
    /// CONNECT was not an object with members of the right types.
    #[error("CONNECT was not readable")]
    Connect,
    /// CONNECT asked for a protocol level that does not exist.
    #[error("invalid client protocol")]
    ProtocolLevel,
    /// CONNECT asked for no_responders without headers.
    #[error("no responders requires headers support")]
    NoRespondersWithoutHeaders,
    /// HPUB without headers in CONNECT.
    #[error("message headers not supported")]
    HeadersNotEnabled,
    /// The client has not proved who it is, or said something else first.
    #[error("authorization violation")]
    Authorization,
    /// The client took too long to prove who it is.
    #[error("authentication timeout")]
    AuthenticationTimeout,
    /// There are too many logins.
    #[error("too many logins")]
    TooManyLogins,
    /// The user has as many sessions as it may have.
    #[error("maximum connections exceeded")]
    TooManySessions,
    /// The client did not answer PING.
    #[error("stale connection")]
    Stale,
}

/// How far [`Session::receive`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The bytes that were whole operations. The caller keeps the rest and hands it in again with more.
    pub consumed: usize,
    /// The least length that the rest must have for the next operation, counted from its start; 0 when
    /// nothing is left, or nobody has looked.
    pub needed: usize,
    /// The input has cost so much that it is the others' turn. The rest is to be handed in again behind theirs, whether
    /// more has come or not.
    pub is_spent: bool,
}

/// What [`Session::keep_alive`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// PING was sent, or was not needed.
    Fine,
    /// The client left too many unanswered; the session has ended.
    Stale,
    /// The client has not proved who it is by now; the session has ended.
    NotLoggedIn,
}

/// The state of one conversation; a few words, so that idle sessions stay cheap.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    max_pings_out: u32,
    pings_out: u32,
    heard: bool,
    verbose: bool,
    headers: bool,
    no_responders: bool,
    entry: Entry,
    turn: Turn,
}

/// Whether the client was let in.
#[derive(Debug)]
enum Entry {
    /// Yes, or nobody wants to know who it is.
    Open,
    /// CONNECT has to come first.
    Awaited,
    /// CONNECT has come, and the node has not decided yet.
    Pending(Box<ConnectOptions>),
}

impl Session {
    /// A session that has not seen CONNECT. `max_pings_out` is how many PINGs may be unanswered.
    #[must_use]
    pub fn new(limits: Limits, max_pings_out: u32) -> Self {
        let defaults = ConnectOptions::default();
        Self {
            limits,
            max_pings_out,
            pings_out: 0,
            heard: false,
            verbose: defaults.verbose,
            headers: defaults.headers,
            no_responders: defaults.no_responders,
            entry: Entry::Open,
            turn: Turn::default(),
        }
    }

    /// Lets the client do nothing until [`Upstream::authenticate`] has accepted its CONNECT.
    #[must_use]
    pub fn guarded(mut self) -> Self {
        self.entry = Entry::Awaited;
        self
    }

    /// Whether the client was let in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.entry, Entry::Open)
    }

    /// Whether the session waits for [`Session::logged_in`]; [`Session::receive`] takes nothing until then.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.entry, Entry::Pending(_))
    }

    /// Carries on with the CONNECT whose login was pending. What was read since is to be handed in again.
    ///
    /// # Errors
    /// When the client is not let in, or CONNECT asks for what does not exist: the session ends.
    pub fn logged_in(
        &mut self,
        outcome: Result<(), LoginRefusal>,
        upstream: &mut impl Upstream,
    ) -> Result<(), Closed> {
        let Entry::Pending(options) = std::mem::replace(&mut self.entry, Entry::Awaited) else {
            return Ok(());
        };
        outcome.map_err(|refusal| turn_away(refusal, upstream))?;
        self.entry = Entry::Open;
        self.begin(&options, upstream)
    }

    /// Tells the client, which had been let in, that it no longer is; the session ends.
    pub fn expel(&mut self, upstream: &mut impl Upstream) -> Closed {
        turn_away(LoginRefusal::Violation, upstream)
    }

    /// Tells the client that a subscription has ended because it is no longer permitted.
    pub fn revoke(&mut self, sid: &[u8], filter: Filter<'_>, upstream: &mut impl Upstream) {
        let sid = String::from_utf8_lossy(sid);
        send_error(
            upstream,
            &format!("Permissions Violation for Subscription to \"{filter}\" (sid \"{sid}\")"),
        );
    }

    /// Takes bytes from the client and carries out every whole operation in them, as far as one turn goes.
    ///
    /// # Errors
    /// When the session ends. Its last words are queued already; nothing behind the offending operation
    /// is looked at.
    pub fn receive(&mut self, input: &[u8], upstream: &mut impl Upstream) -> Result<Progress, Closed> {
        self.heard |= !input.is_empty();
        self.turn.begin();
        let mut consumed = 0;
        let mut takes_repeats = true;
        let progress = |consumed, needed| Ok(Progress { consumed, needed, is_spent: false });
        loop {
            let rest = &input[consumed..];
            if rest.is_empty() {
                return progress(consumed, 0);
            }
            match &self.entry {
                Entry::Open => {}
                // As in nats-server, already the first byte decides: no body is taken from a stranger.
                Entry::Awaited if !matches!(rest[0], b'C' | b'c') => {
                    return Err(turn_away(LoginRefusal::Violation, upstream));
                }
                Entry::Awaited => {}
                Entry::Pending(_) => return progress(consumed, rest.len() + 1),
            }
            match parse(rest, self.limits) {
                Ok(Parsed::Operation(operation, len)) => {
                    let carried_out = self.carry_out(operation, upstream);
                    consumed += len;
                    match carried_out {
                        Ok(()) if takes_repeats && !self.verbose => {
                            if let Some(repeats) = repeats(&operation, &rest[..len], &input[consumed..]) {
                                takes_repeats = upstream.publish_repeats(repeats.subject, &repeats.payloads);
                                consumed += if takes_repeats { len * repeats.payloads.count() } else { 0 };
                            }
                        }
                        Ok(()) => {}
                        Err(Stop::Spent) => return Ok(Progress { consumed, needed: 0, is_spent: true }),
                        Err(Stop::Closed(closed)) => return Err(closed),
                    }
                }
                Ok(Parsed::Incomplete(needed)) => return progress(consumed, needed),
                Err(error) => {
                    if error == ParseError::PayloadTooLarge {
                        upstream.rejected(Refusal::PayloadTooLarge);
                    }
                    if error != ParseError::ClientError {
                        send_error(upstream, &error.to_string());
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// To be called once in every ping interval: sends PING unless the client was heard of since the last
    /// call, and ends the session when too many are unanswered.
    pub fn keep_alive(&mut self, upstream: &mut impl Upstream) -> KeepAlive {
        if !self.is_open() {
            send_error(upstream, "Authentication Timeout");
            return KeepAlive::NotLoggedIn;
        }
        if std::mem::take(&mut self.heard) {
            self.pings_out = 0;
            return KeepAlive::Fine;
        }
        if self.pings_out >= self.max_pings_out {
            send_error(upstream, "Stale Connection");
            return KeepAlive::Stale;
        }
        self.pings_out += 1;
        upstream.send(encode::PING);
        upstream.pinged();
        KeepAlive::Fine
    }

    #[inline]
    fn carry_out(&mut self, operation: Operation<'_>, upstream: &mut impl Upstream) -> Result<(), Stop> {
        match operation {
            Operation::Publish { subject, reply, headers, payload } => {
                self.publish(subject, reply, headers, payload, upstream)
            }
            Operation::Subscribe { filter, queue, sid } => {
                self.subscribe(filter, queue, sid, upstream);
                self.turn.spend(turn::SUBSCRIPTION)
            }
            Operation::Unsubscribe { sid, max } => {
                upstream.unsubscribe(sid, max);
                self.acknowledge(upstream);
                self.turn.spend(turn::SUBSCRIPTION)
            }
            Operation::Ping => {
                upstream.send(encode::PONG);
                self.turn.spend(turn::ANSWER)
            }
            Operation::Connect(json) => {
                self.connect(json, upstream)?;
                self.turn.spend(turn::CONNECT)
            }
            Operation::Pong => {
                upstream.ponged();
                Ok(())
            }
            Operation::Ignored => Ok(()),
        }
    }

    #[inline]
    fn publish(
        &mut self,
        subject: &[u8],
        reply: Option<&[u8]>,
        headers: Option<&[u8]>,
        payload: &[u8],
        upstream: &mut impl Upstream,
    ) -> Result<(), Stop> {
        if headers.is_some() && !self.headers {
            send_error(upstream, "Message Headers Not Supported");
            return Err(Closed::HeadersNotEnabled.into());
        }
        let Ok(reply) = reply.map(Subject::from_bytes).transpose() else {
            upstream.rejected(Refusal::Invalid);
            send_error(upstream, INVALID_PUBLISH_SUBJECT);
            return self.turn.spend(turn::ANSWER);
        };
        // nats-server sends +OK before what the message causes.
        if self.verbose && Subject::from_bytes(subject).is_ok() {
            upstream.send(encode::OK);
        }
        let headers = headers.map_or(Headers::EMPTY, Headers::from_block);
        let message = RawMessage { subject, reply, headers, payload };
        match upstream.publish(&message) {
            Published::Matched => {}
            Published::Unmatched => {
                if self.no_responders && reply.is_some() {
                    upstream.no_responders(&message);
                }
            }
            Published::Refused(refusal) => {
                refuse_publication(subject, refusal, upstream);
                return self.turn.spend(turn::ANSWER);
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, filter: &[u8], queue: Option<&[u8]>, sid: &[u8], upstream: &mut impl Upstream) {
        let queue = queue.map(std::str::from_utf8).transpose();
        let (Ok(filter), Ok(queue)) = (Filter::from_bytes(filter), queue) else {
            return send_error(upstream, "Invalid Subject");
        };
        match upstream.subscribe(sid, filter, queue) {
            Ok(()) => self.acknowledge(upstream),
            // As in nats-server, the session goes on.
            Err(Refusal::TooManySubscriptions) => send_error(upstream, "maximum subscriptions exceeded"),
            Err(_) => {
                let using = queue.map(|queue| format!(" using queue \"{queue}\"")).unwrap_or_default();
                send_error(
                    upstream,
                    &format!("Permissions Violation for Subscription to \"{filter}\"{using}"),
                );
            }
        }
    }

    fn connect(&mut self, json: &[u8], upstream: &mut impl Upstream) -> Result<(), Closed> {
        let Ok(options) = serde_json::from_slice::<ConnectOptions>(json) else {
            send_error(upstream, &ParseError::Arguments.to_string());
            return Err(Closed::Connect);
        };
        if !self.is_open() {
            match upstream.authenticate(&options.credentials) {
                Login::Accepted => self.entry = Entry::Open,
                Login::Refused(refusal) => return Err(turn_away(refusal, upstream)),
                Login::Pending => {
                    self.entry = Entry::Pending(options.into());
                    return Ok(());
                }
            }
        }
        self.begin(&options, upstream)
    }

    /// Takes over what CONNECT asks for.
    fn begin(&mut self, options: &ConnectOptions, upstream: &mut impl Upstream) -> Result<(), Closed> {
        let objection = if !(0..=1).contains(&options.protocol) {
            Some(Closed::ProtocolLevel)
        } else if options.no_responders && !options.headers {
            Some(Closed::NoRespondersWithoutHeaders)
        } else {
            None
        };
        if let Some(closed) = objection {
            send_error(upstream, &closed.to_string());
            return Err(closed);
        }
        self.verbose = options.verbose;
        self.headers = options.headers;
        self.no_responders = options.no_responders;
        upstream.connected(options);
        self.acknowledge(upstream);
        Ok(())
    }

    #[inline]
    fn acknowledge(&self, upstream: &mut impl Upstream) {
        if self.verbose {
            upstream.send(encode::OK);
        }
    }
}

#[cfg(test)]
mod tests;
