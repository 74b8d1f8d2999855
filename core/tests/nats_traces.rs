//! The golden NATS traces against core's session and router.
//!
//! Owns a node of a few lines: one session, a router and nothing else. Every trace is replayed whole and
//! byte by byte.

#[path = "../../traces/trace.rs"]
mod trace;

use std::collections::HashMap;
use std::path::Path;

use trace::Step;
use waymeet_core::message::RawMessage;
use waymeet_core::nats::{ConnectOptions, Limits, Published, Refusal, Session, Upstream, encode};
use waymeet_core::router::{Router, SubscriptionKey};
use waymeet_core::{Filter, Headers, Message, Subject};

/// A node with one client.
struct OneClient {
    router: Router<Vec<u8>>,
    subscriptions: HashMap<Vec<u8>, Known>,
    options: ConnectOptions,
    sent: Vec<u8>,
}

struct Known {
    key: SubscriptionKey,
    received: u64,
    max: Option<u64>,
}

impl OneClient {
    fn new() -> Self {
        Self {
            router: Router::default(),
            subscriptions: HashMap::new(),
            options: ConnectOptions::default(),
            sent: Vec::new(),
        }
    }

    fn deliver(&mut self, message: &Message<'_>) -> bool {
        let matches = self.router.matches(message.subject);
        let one_of_each = matches.groups.into_iter().filter_map(|group| group.into_iter().next());
        let sids: Vec<_> = matches.plain.into_iter().chain(one_of_each).collect();
        for sid in &sids {
            let mut prefix = Vec::new();
            encode::prefix(&mut prefix, message.subject.as_str(), sid);
            encode::message(&mut self.sent, &prefix, message, self.options.headers);
            let known = self.subscriptions.get_mut(sid).expect("the router's sids are known");
            known.received += 1;
            if known.max == Some(known.received) {
                self.forget(sid);
            }
        }
        !sids.is_empty()
    }

    fn forget(&mut self, sid: &[u8]) {
        if let Some(known) = self.subscriptions.remove(sid) {
            self.router.remove(known.key);
        }
    }
}

impl Upstream for OneClient {
    fn publish(&mut self, message: &RawMessage<'_>) -> Published {
        let Ok(subject) = Subject::from_bytes(message.subject) else {
            return Published::Refused(Refusal::Invalid);
        };
        let message = &message.with_subject(subject);
        if subject.tokens().next() == Some("$SYS") {
            return Published::Refused(Refusal::NoPermission);
        }
        if self.options.echo && self.deliver(message) { Published::Matched } else { Published::Unmatched }
    }

    fn no_responders(&mut self, request: &RawMessage<'_>) {
        let asked = Subject::from_bytes(request.subject).expect("it was routed");
        let block = encode::no_responders_headers(asked.as_str());
        let subject = request.reply.expect("a request has a reply subject");
        let headers = Headers::from_block(&block);
        self.deliver(&Message { subject, reply: None, headers, payload: &[] });
    }

    fn rejected(&mut self, _: Refusal) {}

    fn subscribe(&mut self, sid: &[u8], filter: Filter<'_>, queue: Option<&str>) -> Result<(), Refusal> {
        if !self.subscriptions.contains_key(sid) {
            let key = self.router.insert(filter, queue, sid.to_vec());
            self.subscriptions.insert(sid.to_vec(), Known { key, received: 0, max: None });
        }
        Ok(())
    }

    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>) {
        match (self.subscriptions.get_mut(sid), max) {
            (Some(known), Some(max)) if known.received < max => known.max = Some(max),
            _ => self.forget(sid),
        }
    }

    fn connected(&mut self, options: &ConnectOptions) {
        self.options = options.clone();
    }

    fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
    }
}

/// Feeds the client's bytes in pieces of at most `piece` bytes and compares every answer.
fn replay(name: &str, steps: &[Step], piece: usize) {
    let mut session = Session::new(Limits::default(), 2);
    let mut client = OneClient::new();
    let mut unread = Vec::new();
    let mut closed = false;
    for step in steps {
        match step {
            Step::Client(bytes) => {
                for piece in bytes.chunks(piece) {
                    unread.extend_from_slice(piece);
                    match session.receive(&unread, &mut client) {
                        Ok(progress) => drop(unread.drain(..progress.consumed)),
                        Err(_) => {
                            closed = true;
                            break;
                        }
                    }
                }
            }
            Step::Server(expected) => {
                let answer: Vec<u8> = client.sent.drain(..expected.len().min(client.sent.len())).collect();
                let (answer, expected) = (answer.escape_ascii(), expected.escape_ascii());
                assert_eq!(answer.to_string(), expected.to_string(), "{name}, pieces of {piece}");
            }
            Step::Closed => assert!(closed, "{name}: the session should have ended"),
        }
    }
    assert!(client.sent.is_empty(), "{name} sent more: {}", client.sent.escape_ascii());
}

#[test]
fn the_session_answers_as_the_traces_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/nats");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let steps = trace::parse(&std::fs::read_to_string(&path).unwrap());
        assert!(steps.len() > 1, "{} is empty", path.display());
        for piece in [usize::MAX, 1, 7] {
            replay(&path.display().to_string(), &steps, piece);
        }
        count += 1;
    }
    assert!(count > 20, "only {count} traces were found");
}
