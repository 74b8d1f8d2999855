//! The client's side of CoAP against scripted datagrams: exchanges, block-wise bodies and observations.

mod coap_client_support;
mod coap_support;

use std::time::Duration;

use coap_client_support::{Script, TIMEOUT, answer, block, limits, request};
use coap_support::{Request as Datagram, body, empty};
use waymeet_core::coap::client::{Event, Failure, Lapse, Limits};
use waymeet_core::coap::option::number;
use waymeet_core::coap::session::EXCHANGE_LIFETIME;
use waymeet_core::coap::{Code, Type};

#[test]
fn a_response_on_the_acknowledgement_or_separately() {
    let mut script = Script::new(limits());
    let sent = script.ask(request(Code::GET, "a/b", b""));
    let segments: Vec<_> = sent.read().options.values(number::URI_PATH).collect();
    assert_eq!((sent.read().code, segments), (Code::GET, vec![&b"a"[..], b"b"]));
    script.piggyback(&sent, Code::CONTENT, &[(number::CONTENT_FORMAT, 50)], b"{}");
    assert_eq!(script.answered(), ("2.05".into(), b"{}".to_vec()));

    let sent = script.ask(request(Code::POST, "a", b"x"));
    script.receive(&empty(Type::Acknowledgement, sent.read().message_id));
    script.pass(Duration::from_secs(60));
    assert!(script.sent().is_empty(), "what is acknowledged is not retransmitted");
    let separate = Datagram { message_id: 77, ..answer(&sent, Type::Confirmable, Code::CHANGED, &[]) };
    script.receive(&separate.encode());
    assert_eq!(script.one().0, empty(Type::Acknowledgement, 77));
    assert_eq!(script.answered().0, "2.04");
    script.receive(&separate.encode());
    assert_eq!(script.one().0, empty(Type::Acknowledgement, 77), "its acknowledgement was lost");
    assert!(script.events().is_empty());
    assert!(script.client.is_idle() && script.client.next_timeout().is_none());
}

#[test]
fn a_response_may_overtake_its_acknowledgement() {
    let mut script = Script::new(limits());
    let sent = script.ask(request(Code::GET, "a", b""));
    let early = Datagram { message_id: 9, ..answer(&sent, Type::NonConfirmable, Code::CONTENT, &[]) };
    script.receive(&early.encode());
    assert_eq!(script.answered().0, "2.05");
    script.receive(&empty(Type::Acknowledgement, sent.read().message_id));
    script.pass(TIMEOUT);
    assert!(script.sent().is_empty() && script.events().is_empty());
}

#[test]
fn what_is_not_acknowledged_is_sent_five_times_and_then_given_up() {
    let mut script = Script::new(limits());
    let began = script.now;
    script.client.request(began, request(Code::GET, "a", b""), TIMEOUT).unwrap();
    let mut times = Vec::new();
    while let Some(at) = script.client.next_timeout() {
        times.extend(script.sent().iter().map(|_| script.now - began));
        script.now = at;
        script.client.handle_timeout(at);
    }
    assert_eq!(script.failed(), Failure::Unacknowledged);
    assert_eq!(times.len(), 5);
    let first = times[1];
    assert!((2_000..=3_000).contains(&first.as_millis()), "{first:?}");
    assert_eq!(times[1..], [first, first * 3, first * 7, first * 15]);
    assert_eq!(script.now - began, first * 31, "RFC 7252, section 4.8.2: at most MAX_TRANSMIT_WAIT");
}

#[test]
fn the_time_out_ends_an_exchange_in_whatever_state() {
    let mut script = Script::new(limits());
    let short = Duration::from_secs(1);
    for acknowledged in [false, true] {
        script.client.request(script.now, request(Code::GET, "a", b""), short).unwrap();
        let sent = script.one();
        if acknowledged {
            script.receive(&empty(Type::Acknowledgement, sent.read().message_id));
        }
        script.pass(short);
        assert_eq!(script.failed(), Failure::Timeout);
        assert!(script.client.is_idle());
    }
}

#[test]
fn one_message_at_a_time_waits_for_its_acknowledgement() {
    let mut script = Script::new(limits());
    let first = script.ask(request(Code::GET, "1", b""));
    for number in 2..=8 {
        script.client.request(script.now, request(Code::GET, &number.to_string(), b""), TIMEOUT).unwrap();
    }
    assert!(script.sent().is_empty());
    let more = script.client.request(script.now, request(Code::GET, "9", b""), TIMEOUT);
    assert_eq!(more.unwrap_err().to_string(), "8 are under way, which is the limit");
    script.receive(&empty(Type::Acknowledgement, first.read().message_id));
    let second = script.one();
    assert_eq!(second.read().options.values(number::URI_PATH).next(), Some(&b"2"[..]));
    script.receive(&empty(Type::Reset, second.read().message_id));
    assert_eq!(script.failed(), Failure::Reset);
    assert_eq!(script.one().read().options.values(number::URI_PATH).next(), Some(&b"3"[..]));
    script.client.unreachable(script.now);
    assert_eq!(script.events().len(), 7);
    assert!(script.client.is_idle());
}

#[test]
fn message_ids_move_to_another_port_before_they_come_again() {
    let mut script = Script::new(limits());
    let mut used = std::collections::HashSet::new();
    for _ in 0..2 << 16 {
        script.client.request(script.now, request(Code::GET, "a", b""), TIMEOUT).unwrap();
        let (port, sent) = script.sent().remove(0);
        assert!(used.insert((port, sent.read().message_id)), "within EXCHANGE_LIFETIME");
        let answer = answer(&sent, Type::Acknowledgement, Code::CONTENT, &[]).encode();
        script.client.receive(script.now, port, &answer);
        script.events();
    }
    script.client.request(script.now, request(Code::GET, "a", b""), TIMEOUT).unwrap();
    assert!(script.sent().is_empty(), "it waits for an id");
    script.pass(EXCHANGE_LIFETIME);
    assert_eq!(script.sent().len(), 1, "and is sent when there is one");
}

#[test]
fn somebody_elses_answer_is_none() {
    let mut script = Script::new(limits());
    let sent = script.ask(request(Code::GET, "a", b""));
    let other = answer(&sent, Type::NonConfirmable, Code::CONTENT, &[]);
    script.receive(&other.clone().token(b"other").encode());
    assert_eq!(script.one().read().kind, Type::Reset);
    script.client.receive(script.now, 1, &other.encode());
    assert_eq!(script.one().read().kind, Type::Reset, "it came to another port");
    script.receive(&empty(Type::Confirmable, 5));
    assert_eq!(script.one().0, empty(Type::Reset, 5), "a ping");
    script.receive(&Datagram::get(6, "/a").encode());
    assert_eq!(script.one().0, empty(Type::Reset, 6), "this is no server");
    script.receive(b"\x44\x45\x00\x07tokn\xff");
    assert_eq!(script.one().0, empty(Type::Reset, 7), "a message format error");
    script.receive(b"nonsense");
    script.receive(&answer(&sent, Type::Acknowledgement, Code::CONTENT, &[]).token(b"other").encode());
    assert_eq!(script.failed(), Failure::Protocol("the acknowledgement has another token"));
}

#[test]
fn a_critical_option_that_is_not_known_makes_an_answer_none() {
    let mut script = Script::new(limits());
    let sent = script.ask(request(Code::GET, "a", b""));
    script.piggyback(&sent, Code::CONTENT, &[(9, 1)], b"");
    assert_eq!(script.failed(), Failure::Protocol("a critical option that is not known here"));
}

#[test]
fn a_large_body_goes_in_blocks_as_small_as_the_server_wants_them() {
    let mut script = Script::new(limits());
    let whole = body(2_500);
    let first = script.ask(request(Code::PUT, "a", &whole));
    assert_eq!(first.uint(number::BLOCK1), Some(block(0, true, 6)));
    assert_eq!(first.uint(number::SIZE1), Some(2_500));
    let tag = first.read().options.values(number::REQUEST_TAG).next().unwrap().to_vec();
    let mut taken = first.payload().to_vec();
    script.piggyback(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 5))], b"");
    for number in 2..5 {
        let sent = script.one();
        assert_eq!(sent.uint(number::BLOCK1), Some(block(number, number < 4, 5)));
        assert_eq!(sent.read().options.values(number::REQUEST_TAG).next(), Some(&tag[..]));
        taken.extend_from_slice(sent.payload());
        let code = if number < 4 { Code::CONTINUE } else { Code::CHANGED };
        script.piggyback(&sent, code, &[(number::BLOCK1, block(number, number < 4, 5))], b"");
    }
    assert_eq!(taken, whole);
    assert_eq!(script.answered().0, "2.04");
}

#[test]
fn a_body_that_is_too_large_in_one_piece_is_sent_again_in_smaller_ones() {
    let mut script = Script::new(limits());
    let first = script.ask(request(Code::PUT, "a", &body(600)));
    assert_eq!(first.uint(number::BLOCK1), None);
    script.piggyback(&first, Code::REQUEST_ENTITY_TOO_LARGE, &[(number::BLOCK1, block(0, false, 2))], b"");
    let sent = script.one();
    assert_eq!((sent.uint(number::BLOCK1), sent.payload().len()), (Some(block(0, true, 2)), 64));
    script.piggyback(&sent, Code::REQUEST_ENTITY_TOO_LARGE, &[(number::BLOCK1, block(0, true, 2))], b"no");
    assert_eq!(script.answered(), ("4.13".into(), b"no".to_vec()), "no smaller size was offered");
}

#[test]
fn bodies_to_one_resource_go_one_after_the_other() {
    let mut script = Script::new(Limits { nstart: 4, ..limits() });
    let first = script.ask(request(Code::PUT, "a", &body(1_500)));
    script.client.request(script.now, request(Code::PUT, "a", &body(1_600)), TIMEOUT).unwrap();
    assert!(script.sent().is_empty(), "the other body waits");
    let small = script.ask(request(Code::PUT, "a", b"small"));
    assert_eq!(small.payload(), b"small");
    script.piggyback(&first, Code::CONTINUE, &[(number::BLOCK1, block(0, true, 6))], b"");
    let last = script.one();
    script.piggyback(&last, Code::CHANGED, &[(number::BLOCK1, block(1, false, 6))], b"");
    assert_eq!(script.one().uint(number::SIZE1), Some(1_600));
}

#[test]
fn a_large_answer_comes_in_blocks_of_one_body() {
    let mut script = Script::new(limits());
    let whole = body(40);
    let mut sent = script.ask(request(Code::GET, "a", b""));
    for number in 0..3_u32 {
        let piece = &whole[number as usize * 16..whole.len().min(number as usize * 16 + 16)];
        script.piggyback(
            &sent,
            Code::CONTENT,
            &[(number::ETAG, 7), (number::BLOCK2, block(number, number < 2, 0))],
            piece,
        );
        if number < 2 {
            sent = script.one();
            assert_eq!(sent.uint(number::BLOCK2), Some(block(number + 1, false, 0)));
        }
    }
    assert_eq!(script.answered(), ("2.05".into(), whole));
}

#[test]
fn a_body_that_changes_on_the_way_is_fetched_anew() {
    let mut script = Script::new(limits());
    let mut sent = script.ask(request(Code::GET, "a", b""));
    let answers = [(1, 0, true), (2, 1, true), (2, 0, true), (2, 1, false)];
    for (etag, number, more) in answers {
        let expected = (number > 0).then_some(block(number, false, 0));
        assert_eq!(sent.uint(number::BLOCK2), expected, "{etag} {number}");
        let options = [(number::ETAG, etag), (number::BLOCK2, block(number, more, 0))];
        script.piggyback(&sent, Code::CONTENT, &options, &[etag as u8; 16]);
        if more {
            sent = script.one();
        }
    }
    assert_eq!(script.answered().1, [2; 32]);
}

#[test]
fn a_server_that_never_ends_is_cut_off() {
    let mut script = Script::new(Limits { max_payload_bytes: 100, ..limits() });
    let mut sent = script.ask(request(Code::GET, "a", b""));
    for number in 0..6 {
        script.piggyback(&sent, Code::CONTENT, &[(number::BLOCK2, block(number, true, 0))], &[0; 16]);
        sent = script.one();
    }
    script.piggyback(&sent, Code::CONTENT, &[(number::BLOCK2, block(6, true, 0))], &[0; 16]);
    assert_eq!(script.failed(), Failure::TooLarge { limit: 100 });
}

#[test]
fn an_echo_value_is_given_back_once() {
    const ECHO: u16 = 252;
    let unauthorized = Code::new(4, 1);
    let mut script = Script::new(limits());
    let sent = script.ask(request(Code::GET, "a", b""));
    script.piggyback(&sent, unauthorized, &[(ECHO, 0x1234)], b"");
    let again = script.one();
    assert_eq!(again.uint(ECHO), Some(0x1234));
    script.piggyback(&again, unauthorized, &[(ECHO, 0x5678)], b"");
    assert_eq!(script.answered().0, "4.01");

    let observation = script.client.observe(script.now, request(Code::GET, "a", b"")).unwrap();
    let sent = script.one();
    script.piggyback(&sent, unauthorized, &[(ECHO, 9)], b"");
    let again = script.one();
    assert_eq!((again.uint(ECHO), again.uint(number::OBSERVE)), (Some(9), Some(0)));
    assert_eq!(again.read().token, sent.read().token);
    script.piggyback(&again, Code::CONTENT, &[(number::OBSERVE, 1)], b"now");
    assert!(matches!(&script.events()[..], [Event::Notified(id, Some(1), _)] if *id == observation));
}

#[test]
fn notifications_are_news_in_their_order() {
    let mut script = Script::new(limits());
    script.client.observe(script.now, request(Code::GET, "temp", b"")).unwrap();
    let sent = script.one();
    assert_eq!(sent.uint(number::OBSERVE), Some(0));
    script.piggyback(&sent, Code::CONTENT, &[(number::OBSERVE, 0xff_fffe)], b"a");
    let mut notify = |message_id, kind, sequence, payload: &[u8]| {
        let notification = answer(&sent, kind, Code::CONTENT, &[(number::OBSERVE, sequence)]);
        let payload = payload.to_vec();
        script.receive(&Datagram { message_id, payload, ..notification }.encode());
        script.sent()
    };
    assert!(notify(1, Type::NonConfirmable, 0xff_ffff, b"b").is_empty());
    let acknowledged = notify(2, Type::Confirmable, 0, b"c");
    assert_eq!(acknowledged[0].1.0, empty(Type::Acknowledgement, 2));
    notify(3, Type::NonConfirmable, 0xff_ffff, b"late");
    assert_eq!(notify(2, Type::Confirmable, 0, b"c").len(), 1, "a duplicate is acknowledged again");
    let payload = |event| match event {
        Event::Notified(_, _, response) => response.payload,
        other => panic!("{other:?}"),
    };
    let payloads: Vec<_> = script.events().into_iter().map(payload).collect();
    assert_eq!(payloads, [b"a", b"b", b"c"]);
}

#[test]
fn an_observation_is_registered_again_when_the_server_falls_silent_or_goes_away() {
    let mut script = Script::new(limits());
    let id = script.client.observe(script.now, request(Code::GET, "temp", b"")).unwrap();
    let first = script.one();
    let fresh = [(number::OBSERVE, 1), (number::MAX_AGE, 30)];
    script.piggyback(&first, Code::CONTENT, &fresh, b"a");
    script.pass(Duration::from_secs(34));
    assert!(script.sent().is_empty(), "Max-Age and five seconds are not over");
    script.pass(Duration::from_secs(11));
    let again = script.sent().remove(0).1;
    assert_eq!((again.read().token, again.uint(number::OBSERVE)), (first.read().token, Some(0)));
    assert_eq!(script.events().len(), 1);
    script.piggyback(&again, Code::CONTENT, &fresh, b"a");
    assert!(script.events().is_empty(), "the state is the same");
    script.pass(Duration::from_secs(45));
    let again = script.sent().remove(0).1;
    script.piggyback(&again, Code::CONTENT, &fresh, b"b");
    assert_eq!(script.events().len(), 1, "another state");
    script.pass(Duration::from_secs(45));
    script.sent();
    // Nobody listens any more: the pauses between the attempts grow.
    let mut pauses = Vec::new();
    for _ in 0..8 {
        script.client.unreachable(script.now);
        assert_eq!(script.events(), [Event::Unobserved(id, Lapse::Failed(Failure::Unreachable))]);
        let due = script.client.next_timeout().expect("another attempt");
        pauses.push((due - script.now).as_secs());
        script.now = due;
        script.client.handle_timeout(due);
        assert_eq!(script.sent().len(), 1);
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn what_cannot_be_observed_is_said_and_tried_again() {
    let mut script = Script::new(limits());
    let id = script.client.observe(script.now, request(Code::GET, "a", b"")).unwrap();
    let sent = script.one();
    script.piggyback(&sent, Code::NOT_FOUND, &[], b"");
    assert_eq!(script.events(), [Event::Unobserved(id, Lapse::Refused(Code::NOT_FOUND))]);
    script.pass(Duration::from_secs(5));
    let sent = script.one();
    script.piggyback(&sent, Code::CONTENT, &[], b"its state at least");
    let events = script.events();
    assert!(matches!(events[0], Event::Unobserved(_, Lapse::NotOffered)), "{events:?}");
    assert!(
        matches!(&events[1], Event::Notified(_, None, response) if response.payload == b"its state at least")
    );
}

#[test]
fn a_cancelled_observation_is_told_and_forgotten() {
    let mut script = Script::new(limits());
    let id = script.client.observe(script.now, request(Code::GET, "a", b"")).unwrap();
    let first = script.one();
    script.piggyback(&first, Code::CONTENT, &[(number::OBSERVE, 1)], b"a");
    script.events();
    script.client.cancel(script.now, id);
    let last = script.one();
    assert_eq!((last.read().token, last.uint(number::OBSERVE)), (first.read().token, Some(1)));
    script.piggyback(&last, Code::CONTENT, &[], b"a");
    assert!(script.events().is_empty() && script.client.is_idle());
    script.pass(TIMEOUT);
    assert!(script.sent().is_empty() && script.client.next_timeout().is_none());
}
