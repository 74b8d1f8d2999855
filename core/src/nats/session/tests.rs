//! The session against its specification, with a recording upstream.
//!
//! Owns the property that no split of the input changes the output, and the cases that golden traces
//! cannot show because they depend on time.

use super::*;
use proptest::prelude::*;

/// Writes down everything that the session asks for.
#[derive(Default)]
struct Recorder {
    log: Vec<String>,
    sent: Vec<u8>,
    verdict: Option<Published>,
    takes_repeats: bool,
    repeats: usize,
}

impl Upstream for Recorder {
    fn publish(&mut self, message: &RawMessage<'_>) -> Published {
        if Subject::from_bytes(message.subject).is_err() {
            return Published::Refused(Refusal::Invalid);
        }
        self.log.push(format!("{message:?}"));
        self.verdict.unwrap_or(Published::Matched)
    }
    fn publish_repeats(&mut self, subject: &[u8], repeats: &Repeats<'_>) -> bool {
        if !self.takes_repeats || Subject::from_bytes(subject).is_err() {
            return false;
        }
        for payload in repeats.payloads() {
            self.repeats += 1;
            self.publish(&RawMessage { subject, reply: None, headers: Headers::EMPTY, payload });
        }
        true
    }
    fn no_responders(&mut self, request: &RawMessage<'_>) {
        self.log.push(format!("nobody for {}", request.subject.escape_ascii()));
    }
    fn rejected(&mut self, why: Refusal) {
        self.log.push(format!("rejected {why:?}"));
    }
    fn subscribe(&mut self, sid: &[u8], filter: Filter<'_>, queue: Option<&str>) -> Result<(), Refusal> {
        self.log.push(format!("sub {} {filter} {queue:?}", sid.escape_ascii()));
        if filter.as_str() == "secret" { Err(Refusal::NoPermission) } else { Ok(()) }
    }
    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>) {
        self.log.push(format!("unsub {} {max:?}", sid.escape_ascii()));
    }
    fn authenticate(&mut self, credentials: &Credentials) -> Login {
        match credentials.password.as_deref() {
            Some("right") => Login::Accepted,
            Some("slow") => Login::Pending,
            Some("many") => Login::Refused(LoginRefusal::TooMany),
            _ => Login::Refused(LoginRefusal::Violation),
        }
    }
    fn connected(&mut self, options: &ConnectOptions) {
        self.log.push(format!("{options:?}"));
    }
    fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
    }
}

const CONNECT: &str = "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n";

fn run(session: &mut Session, upstream: &mut Recorder, pieces: &[&[u8]]) -> Result<(), Closed> {
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while {
            let progress = session.receive(&buffer, upstream)?;
            assert!(progress.needed == 0 || progress.needed > buffer.len() - progress.consumed);
            buffer.drain(..progress.consumed);
            progress.is_spent
        } {}
    }
    Ok(())
}

fn session() -> Session {
    Session::new(Limits::default(), 2)
}

fn answer(input: &str) -> (String, Result<(), Closed>) {
    let mut upstream = Recorder::default();
    let end = run(&mut session(), &mut upstream, &[input.as_bytes()]);
    (String::from_utf8(upstream.sent).unwrap(), end)
}

#[test]
fn a_session_is_verbose_until_connect_says_otherwise() {
    assert_eq!(answer("SUB a 1\r\nPING\r\n").0, "+OK\r\nPONG\r\n");
    assert_eq!(answer("CONNECT {}\r\nUNSUB 1\r\n").0, "+OK\r\n+OK\r\n");
    assert_eq!(answer(&format!("{CONNECT}SUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\n")).0, "");
}

#[test]
fn what_costs_much_is_taken_a_turn_at_a_time() {
    // What a turn takes of each, and that the rest comes in the next one, in order.
    for (operation, in_a_turn) in
        [("PING\r\n", 256), ("SUB a 1\r\n", 64), ("UNSUB 1\r\n", 64), ("CONNECT {}\r\n", 8)]
    {
        let input = operation.repeat(in_a_turn + 1);
        let (mut session, mut upstream) = (session(), Recorder::default());
        let progress = session.receive(input.as_bytes(), &mut upstream).unwrap();
        let expected = Progress { consumed: in_a_turn * operation.len(), needed: 0, is_spent: true };
        assert_eq!(progress, expected, "{operation}");
        let rest = &input.as_bytes()[progress.consumed..];
        let expected = Progress { consumed: rest.len(), needed: 0, is_spent: false };
        assert_eq!(session.receive(rest, &mut upstream), Ok(expected), "{operation}");
    }
    // What is refused costs, and what is delivered does not.
    let input = "PUB a 0\r\n\r\n".repeat(1_000);
    let mut upstream = Recorder::default();
    let progress = session().receive(input.as_bytes(), &mut upstream).unwrap();
    assert_eq!((progress.consumed, progress.is_spent), (input.len(), false));
    let mut upstream =
        Recorder { verdict: Some(Published::Refused(Refusal::NoPermission)), ..Recorder::default() };
    let progress = session().receive(input.as_bytes(), &mut upstream).unwrap();
    assert_eq!((progress.consumed, progress.is_spent), (256 * 11, true));
}

#[test]
fn errors_are_in_nats_servers_words() {
    let close = |text: &str, closed: Closed| (format!("-ERR '{text}'\r\n"), Err(closed));
    assert_eq!(
        answer("GET / HTTP/1.1\r\n"),
        close("Unknown Protocol Operation", ParseError::UnknownOperation.into())
    );
    assert_eq!(
        answer("PUB foo 1048577\r\n"),
        close("Maximum Payload Violation", ParseError::PayloadTooLarge.into())
    );
    assert_eq!(
        answer("CONNECT {\"no_responders\":true}\r\n"),
        close("no responders requires headers support", Closed::NoRespondersWithoutHeaders)
    );
    assert_eq!(
        answer("CONNECT {\"protocol\":5}\r\n"),
        close("invalid client protocol", Closed::ProtocolLevel)
    );
    assert_eq!(
        answer("HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n"),
        close("Message Headers Not Supported", Closed::HeadersNotEnabled)
    );
    assert_eq!(answer("CONNECT {bad\r\n"), close("Parser Error", Closed::Connect));
    let open = |text: &str| (format!("-ERR '{text}'\r\nPONG\r\n"), Ok(()));
    for (input, text) in [
        ("SUB foo.. 1\r\n", "Invalid Subject"),
        ("PUB foo..bar 1\r\na\r\n", "Invalid Publish Subject"),
        ("PUB foo re..ply 1\r\na\r\n", "Invalid Publish Subject"),
        ("SUB secret 1\r\n", "Permissions Violation for Subscription to \"secret\""),
        ("SUB secret q 1\r\n", "Permissions Violation for Subscription to \"secret\" using queue \"q\""),
    ] {
        assert_eq!(answer(&format!("{CONNECT}{input}PING\r\n")), open(text), "{input}");
    }
}

#[test]
fn only_requests_without_responders_are_answered_by_the_node() {
    let mut upstream = Recorder { verdict: Some(Published::Unmatched), ..Recorder::default() };
    let input = format!("{CONNECT}PUB a 0\r\n\r\nPUB b r 0\r\n\r\n");
    run(&mut session(), &mut upstream, &[input.as_bytes()]).unwrap();
    let told: Vec<_> = upstream.log.iter().filter(|line| line.starts_with("nobody")).collect();
    assert_eq!(told, ["nobody for b"]);
}

#[test]
fn a_forbidden_publication_is_answered() {
    let mut upstream =
        Recorder { verdict: Some(Published::Refused(Refusal::NoPermission)), ..Recorder::default() };
    run(&mut session(), &mut upstream, &[CONNECT.as_bytes(), b"PUB $SYS.x 0\r\n\r\n"]).unwrap();
    assert_eq!(upstream.sent, b"-ERR 'Permissions Violation for Publish to \"$SYS.x\"'\r\n");
}

#[test]
fn a_silent_client_is_pinged_and_then_stale() {
    let (mut session, mut upstream) = (session(), Recorder::default());
    assert_eq!(session.keep_alive(&mut upstream), KeepAlive::Fine);
    run(&mut session, &mut upstream, &[b"PONG\r\n"]).unwrap();
    for _ in 0..3 {
        assert_eq!(session.keep_alive(&mut upstream), KeepAlive::Fine);
    }
    assert_eq!(session.keep_alive(&mut upstream), KeepAlive::Stale);
    assert_eq!(upstream.sent, b"PING\r\nPING\r\nPING\r\n-ERR 'Stale Connection'\r\n");
}

/// Operations, good and bad, as a client might string them together.
fn operation() -> impl Strategy<Value = Vec<u8>> {
    let text = |text: &'static str| Just(text.as_bytes().to_vec());
    prop_oneof![
        text("PING\r\n"),
        text("CONNECT {\"verbose\":true,\"headers\":true}\r\n"),
        text(CONNECT),
        text("SUB a.> q 1\r\n"),
        text("SUB a..b 2\n"),
        text("UNSUB 1 3\r\n"),
        text("HPUB a.b r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"),
        text("PUB a.b 3\r\nabcd\r\n"),
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|body| { [format!("PUB a.b {}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat() }),
        prop::collection::vec(any::<u8>(), 1..6),
    ]
}

proptest! {
    #[test]
    fn no_split_of_the_input_changes_the_output(
        operations in prop::collection::vec(operation(), 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let input = operations.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &input[w[0]..w[1]]).collect();

        let (mut whole, mut split) = (Recorder::default(), Recorder::default());
        let whole_end = run(&mut session(), &mut whole, &[&input]);
        let split_end = run(&mut session(), &mut split, &pieces);
        prop_assert_eq!(whole_end, split_end);
        prop_assert_eq!(whole.sent, split.sent);
        prop_assert_eq!(whole.log, split.log);
    }
}

#[test]
fn a_stranger_may_do_nothing_but_connect() {
    for (input, words, closed) in [
        ("PING\r\n", "Authorization Violation", Closed::Authorization),
        ("PUB a 1000000\r\n", "Authorization Violation", Closed::Authorization),
        ("P", "Authorization Violation", Closed::Authorization),
        ("CONNECT {}\r\n", "Authorization Violation", Closed::Authorization),
        (
            "CONNECT {\"pass\":\"wrong\"}\r\nPUB a 1\r\nx\r\n",
            "Authorization Violation",
            Closed::Authorization,
        ),
        ("CONNECT {\"pass\":\"many\"}\r\n", "Too Many Logins", Closed::TooManyLogins),
    ] {
        let mut upstream = Recorder::default();
        let end = run(&mut session().guarded(), &mut upstream, &[input.as_bytes()]);
        assert_eq!(end, Err(closed), "{input}");
        assert_eq!(upstream.sent, format!("-ERR '{words}'\r\n").into_bytes(), "{input}");
        assert!(upstream.log.is_empty(), "{input}: {:?}", upstream.log);
    }
    let mut upstream = Recorder::default();
    let mut session = session().guarded();
    assert_eq!(session.keep_alive(&mut upstream), KeepAlive::NotLoggedIn);
    assert_eq!(upstream.sent, b"-ERR 'Authentication Timeout'\r\n");
}

#[test]
fn nothing_is_carried_out_until_the_login_is_decided() {
    let connect = b"CONNECT {\"pass\":\"slow\",\"verbose\":false}\r\n".as_slice();
    let input = [connect, b"PUB a 1\r\nx\r\nPING\r\n"].concat();
    for split in 0..=input.len() {
        let mut upstream = Recorder::default();
        let mut session = session().guarded();
        let mut buffer = input[..split].to_vec();
        let progress = session.receive(&buffer, &mut upstream).unwrap();
        buffer.drain(..progress.consumed);
        buffer.extend_from_slice(&input[split..]);
        let progress = session.receive(&buffer, &mut upstream).unwrap();
        buffer.drain(..progress.consumed);
        assert!(
            session.is_pending() && upstream.log.is_empty() && upstream.sent.is_empty(),
            "split at {split}"
        );
        session.logged_in(Ok(()), &mut upstream).unwrap();
        session.receive(&buffer, &mut upstream).unwrap();
        assert_eq!(upstream.log.len(), 2, "{:?}", upstream.log);
        assert_eq!(upstream.sent, b"PONG\r\n");
        // Who is in stays in: later credentials are not asked about.
        session
            .receive(b"CONNECT {\"pass\":\"wrong\",\"verbose\":false}\r\nPING\r\n", &mut upstream)
            .unwrap();
        assert_eq!(upstream.sent, b"PONG\r\nPONG\r\n");
    }
    let mut upstream = Recorder::default();
    let mut session = session().guarded();
    session.receive(connect, &mut upstream).unwrap();
    let end = session.logged_in(Err(LoginRefusal::Violation), &mut upstream);
    assert_eq!(end, Err(Closed::Authorization));
    assert!(upstream.log.is_empty());
}

#[test]
fn publications_with_one_line_are_repeats_until_something_differs() {
    let same = "PUB a 2\r\nxy\r\nPUB a 2\r\n\r\n\r\nPUB a 2\r\nPU\r\n";
    for (input, repeats) in [
        (same.to_owned(), 2),
        (format!("{same}PUB a 1\r\nx\r\n"), 2),
        (format!("{same}PUB b 2\r\nxy\r\n{same}"), 4),
        (format!("{same}PUB a 2\r\nx"), 2),
        (format!("{same}PUB a 2\r\nxyz\r\n"), 2),
        (format!("PUB a r 2\r\nxy\r\n{}", "PUB a r 2\r\nxy\r\n"), 0),
        (format!("CONNECT {{\"verbose\":true}}\r\n{same}"), 0),
        ("PUB .. 1\r\nx\r\nPUB .. 1\r\nx\r\n".to_owned(), 0),
    ] {
        let mut upstream = Recorder { takes_repeats: true, ..Recorder::default() };
        let _ = run(&mut session(), &mut upstream, &[CONNECT.as_bytes(), input.as_bytes()]);
        assert_eq!(upstream.repeats, repeats, "{input}");
    }
}

proptest! {
    #[test]
    fn repeats_are_what_they_are_one_by_one(
        operations in proptest::collection::vec((0_usize..8, 1_usize..5), 0..12),
        cut in 0_usize..400,
    ) {
        const OPERATIONS: [&str; 8] = [
            "PUB a 2\r\nxy\r\n",
            "PUB a 2\r\nPU\r\n",
            "PUB a 2\nxy\r\n",
            "PUB b 3\r\nxyz\r\n",
            "PUB a r 2\r\nxy\r\n",
            "HPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
            "PING\r\n",
            "PUB a 2\r\nxyz\r\n",
        ];
        let mut input = CONNECT.to_owned();
        operations.iter().for_each(|&(which, times)| input += &OPERATIONS[which].repeat(times));
        let pieces = input.as_bytes().split_at(cut.min(input.len()));
        let outcome = |takes_repeats| {
            let mut upstream = Recorder { takes_repeats, ..Recorder::default() };
            let end = run(&mut session(), &mut upstream, &[pieces.0, pieces.1]);
            (upstream.log, upstream.sent, end)
        };
        prop_assert_eq!(outcome(true), outcome(false));
    }
}
