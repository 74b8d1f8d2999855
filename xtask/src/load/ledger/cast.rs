//! Who plays.
//!
//! Owns the list. Those who listen are connected before their threads begin; those who speak connect by themselves.

use std::sync::atomic::Ordering;
use std::thread::Scope;

use anyhow::Result;
use waymeet_core::coap::Type;

use super::books::{Book, Player, Subscription};
use super::nats::{Nats, Transport};
use super::stage::{Guest, OPEN_FILTER, Stage};
use super::web::Events;
use super::{coap, late, publishers, raw, readers, requesters, responders, vanishing};

/// How a player begins its thread. One that fails ends the play.
fn play<'scope>(
    stage: &'scope Stage,
    scope: &'scope Scope<'scope, '_>,
    name: &'static str,
    play: impl FnOnce() -> Result<Book> + Send + 'scope,
) -> Player<'scope> {
    let thread = scope.spawn(move || {
        let book = play();
        if let Err(error) = &book
            && !stage.failed.swap(true, Ordering::Relaxed)
        {
            // The others fail then as well, for want of this one.
            println!("  FAILED {name}: {error:#}");
        }
        book
    });
    (name, thread)
}

/// Readers, responders and guests, connected.
pub fn listeners<'scope>(
    stage: &'scope Stage,
    scope: &'scope Scope<'scope, '_>,
) -> Result<Vec<Player<'scope>>> {
    use Transport::{Tcp, WebSocket};
    let open = |transport, operations: &str| Nats::open(stage.nats, stage.http, transport, operations);
    let everything = format!("SUB {OPEN_FILTER} 1\r\n");
    let mut players = Vec::new();
    let mut add = |name, run: Box<dyn FnOnce() -> Result<Book> + Send + 'scope>| {
        players.push(play(stage, scope, name, run));
    };
    for (name, transport) in [("NATS reader", Tcp), ("WebSocket reader", WebSocket)] {
        let client = open(transport, &everything)?;
        add(name, Box::new(move || readers::nats(stage, client, name, transport)));
    }
    let events = [
        ("SSE reader", false, None),
        ("NDJSON reader", true, None),
        ("slow SSE reader", false, Some(101)),
        ("slow NDJSON reader", true, Some(102)),
    ];
    for (name, is_ndjson, slow) in events {
        let client = Events::open(stage.http, &format!("/sub/{OPEN_FILTER}"), is_ndjson)?;
        add(name, Box::new(move || readers::events(stage, client, name, slow)));
    }
    let observers = [
        ("CoAP observer", Type::Confirmable, 0, None),
        ("slow CoAP observer", Type::Confirmable, 1, Some(103)),
        ("Non-confirmable CoAP observer", Type::NonConfirmable, 2, None),
    ];
    for (name, kind, subject, slow) in observers {
        let client = coap::open_observer(stage, kind, subject, 110 + subject as u64)?;
        let is_lossy = kind == Type::NonConfirmable;
        let subscription = Subscription { name, subjects: vec![subject], is_lossy };
        add(name, Box::new(move || coap::observer(stage, &client, subscription, slow)));
    }
    for (group, transport) in [(0, Tcp), (0, WebSocket), (1, WebSocket)] {
        let client = open(transport, &readers::join(group))?;
        add("member of a queue group", Box::new(move || readers::member(stage, client, group, transport)));
    }
    let client = Events::open(stage.http, &format!("/sub/{OPEN_FILTER}?queue=steady"), false)?;
    add("member by events", Box::new(move || readers::member_by_events(stage, client, 0)));
    for transport in [Tcp, WebSocket] {
        let client = open(transport, responders::ECHO)?;
        add("responder", Box::new(move || responders::nats(stage, client, transport)));
    }
    let client = Events::open(stage.http, responders::ECHO_EVENTS, false)?;
    add("responder by events", Box::new(move || responders::events(stage, client)));
    let client = open(Tcp, "SUB svc.silent.> 1\r\n")?;
    add("silent responder", Box::new(move || responders::silent(stage, client)));
    let client = open(Tcp, "SUB svc.late.> 1\r\n")?;
    add("late responder", Box::new(move || late::run(stage, client)));
    for (guest, transport) in [(Guest::SlowNats, Tcp), (Guest::SlowWebSocket, WebSocket)] {
        add("slow guest", Box::new(move || vanishing::slow_nats(stage, guest, transport)));
    }
    Ok(players)
}

/// Publishers and requesters; and those who come and go, which nobody has to wait for.
pub fn speakers<'scope>(stage: &'scope Stage, scope: &'scope Scope<'scope, '_>) -> Vec<Player<'scope>> {
    use Transport::{Tcp, WebSocket};
    let mut players = Vec::new();
    let mut add = |name, run: Box<dyn FnOnce() -> Result<Book> + Send + 'scope>| {
        players.push(play(stage, scope, name, run));
    };
    for (transport, player) in [(Tcp, 0), (Tcp, 1), (WebSocket, 2)] {
        add("NATS publisher", Box::new(move || publishers::nats(stage, transport, player)));
    }
    for player in [10, 11] {
        add("HTTP publisher", Box::new(move || publishers::http(stage, player)));
    }
    add("hasty publisher", Box::new(|| publishers::hasty(stage, 12)));
    for (kind, player) in [(Type::Confirmable, 20), (Type::NonConfirmable, 21)] {
        add("CoAP publisher", Box::new(move || coap::publisher(stage, kind, player)));
    }
    add("publisher of lines", Box::new(|| raw::lines(stage, 30)));
    add("publisher of datagrams", Box::new(|| raw::datagrams(stage, 31)));
    add("requester of lines", Box::new(|| raw::line_requests(stage, 32)));
    add("requester of datagrams", Box::new(|| raw::datagram_requests(stage, 33)));
    add("HTTP requester", Box::new(|| requesters::http(stage, 40)));
    for (transport, player) in [(Tcp, 41), (WebSocket, 42)] {
        add("NATS requester", Box::new(move || requesters::nats(stage, transport, player)));
    }
    add("CoAP requester", Box::new(|| coap::requester(stage, 43)));
    for (guest, transport, player) in [(Guest::GoneNats, Tcp, 50), (Guest::GoneWebSocket, WebSocket, 51)] {
        add("guest that vanishes", Box::new(move || vanishing::gone_nats(stage, guest, transport, player)));
    }
    add("reader of events that vanishes", Box::new(|| vanishing::gone_events(stage, 52)));
    add("observer that vanishes", Box::new(|| coap::gone(stage, 53)));
    add("forbidden reader", Box::new(|| vanishing::forbidden(stage, 54)));
    add("changing members", Box::new(|| readers::changing_members(stage, 1, 60)));
    add("changing members", Box::new(|| readers::changing_members(stage, 1, 61)));
    players
}
