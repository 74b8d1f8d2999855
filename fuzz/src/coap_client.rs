//! CoAP outward: the client's side of whole conversations.
//!
//! Owns what must hold of it whatever a server sends. The input is a list of records: one byte says who does what,
//! one byte how long the record is.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use waymeet_core::coap::client::{Client, Event, Limits, Request};
use waymeet_core::coap::{Code, codec};
use waymeet_core::trace::TraceParent;

const TIMEOUT: Duration = Duration::from_secs(100);
/// The example of W3C Trace Context, section 3.2.
const CONTEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Drives a client with small limits through requests, observations, a server's datagrams and time. Datagrams are taken
/// as they are, or with the message id and the token of the last message, so that they reach what waits for them.
///
/// # Panics
/// When it sends what is no message, answers a request twice or never, or does not come to an end.
pub fn coap_client(data: &[u8]) {
    let mut now = Instant::now();
    let mut client = Client::new(limits(), 1);
    let mut asked = HashSet::new();
    let mut observed = Vec::new();
    let mut last = Vec::new();
    let mut rest = data;
    while let &[action, length, ref tail @ ..] = rest {
        let (record, behind) = tail.split_at(tail.len().min(usize::from(length)));
        rest = behind;
        match action % 8 {
            0 => asked.extend(client.request(now, request(record, action), TIMEOUT)),
            1 => observed.extend(client.observe(now, Request { payload: Vec::new(), ..request(record, 0) })),
            2 if !observed.is_empty() => client.cancel(now, observed.swap_remove(0)),
            3 => client.receive(now, action / 8 % 2, record),
            4 | 5 => client.receive(now, 0, &addressed(record, &last)),
            6 => client.unreachable(now),
            _ => {
                now += Duration::from_millis(u64::from(length) * u64::from(action));
                client.handle_timeout(now);
            }
        }
        for (_, datagram) in client.outgoing().iter() {
            assert!(codec::parse(datagram).is_ok(), "sent {datagram:02x?}");
            last = datagram.to_vec();
        }
        client.clear_outgoing();
        take_events(&mut client, &mut asked);
    }
    for id in observed {
        client.cancel(now, id);
    }
    for _ in 0..10_000 {
        let Some(at) = client.next_timeout() else { break };
        now = now.max(at);
        client.handle_timeout(now);
        client.clear_outgoing();
        take_events(&mut client, &mut asked);
    }
    assert_eq!(client.next_timeout(), None, "everything comes to an end");
    assert!(client.is_idle() && asked.is_empty(), "{asked:?} have no outcome");
}

fn take_events(client: &mut Client, asked: &mut HashSet<waymeet_core::coap::client::RequestId>) {
    while let Some(event) = client.next_event() {
        if let Event::Answered(id, _) | Event::Failed(id, _) = event {
            assert!(asked.remove(&id), "{id:?} has two outcomes");
        }
    }
}

fn request(record: &[u8], action: u8) -> Request {
    Request {
        method: if record.is_empty() { Code::GET } else { Code::PUT },
        host: None,
        path: vec!["a".to_owned(); record.len() % 3],
        content_format: record.first().map(|byte| u16::from(*byte)),
        // Some go in blocks.
        payload: record.repeat(usize::from(action)),
        observe: None,
        traceparent: TraceParent::parse(CONTEXT).filter(|_| action % 2 == 1),
    }
}

/// The record as an answer to the last message: its first byte says which type it has.
fn addressed(record: &[u8], last: &[u8]) -> Vec<u8> {
    let (&[first, code, ref rest @ ..], Ok(last)) = (record, codec::parse(last)) else {
        return record.to_vec();
    };
    let token = last.token.as_bytes();
    let [high, low] = last.message_id.to_be_bytes();
    // Acknowledgements are what the client waits for most.
    let kind = if first & 4 == 0 { 0x60 } else { (first & 3) << 4 };
    [&[0x40 | kind | token.len() as u8, code, high, low], token, rest].concat()
}

fn limits() -> Limits {
    Limits {
        requests: 3,
        nstart: 2,
        max_payload_bytes: 2_000,
        observations: 2,
        ports: 2,
        patience: Duration::from_secs(20),
    }
}
