//! Runs core's CoAP client for one server.
//!
//! Owns the order of work: requests in, datagrams out and in, outcomes back, and which resources are observed. It
//! must not know what a datagram says.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use waymeet_core::coap::client::{Client, Event, Failure, ObservationId, RequestId, Response};
use waymeet_core::{Message, Subject, SubjectFilter};

use super::call::{is_notification, notification_headers};
use super::ports::{Ports, is_unreachable};
use super::{Attached, Upstream};
use crate::delivery::Delivery;
use crate::handle::{Mailbox, NodeHandle};
use crate::interest::{Change, InterestWatch};
use crate::metrics::{Limit, Listener};
use crate::outbox::Item;
use crate::upstream::Reply;

/// A datagram is never longer.
const MAX_DATAGRAM: usize = 65_535;
/// How long a node that stops says goodbye to a server.
const FAREWELL: Duration = Duration::from_millis(500);
/// How far off the timer is set when nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

pub(super) struct Driver {
    upstream: Upstream,
    node: NodeHandle,
    mailbox: Mailbox,
    interest: Option<Arc<InterestWatch>>,
    client: Client,
    /// None until there is something to send, and again after the server was found to be away: its name may mean
    /// another address by then.
    ports: Option<Ports>,
    /// Requests that wait for their responses; the client bounds how many there are.
    calls: HashMap<RequestId, Arc<Delivery>>,
    observed: HashMap<SubjectFilter, ObservationId>,
    subjects: HashMap<ObservationId, SubjectFilter>,
    /// Something is wanted that there was no place for.
    is_full: bool,
}

/// What a wait has brought.
enum Woken {
    Item(Option<Item>),
    Datagram(io::Result<(u8, usize)>),
    Interest,
    Timeout,
}

impl Driver {
    pub(super) fn new(attached: Attached) -> Self {
        let Attached { upstream, node, mailbox, interest } = attached;
        let client = Client::new(upstream.limits.clone(), rand::random());
        Self {
            upstream,
            node,
            mailbox,
            interest,
            client,
            ports: None,
            calls: HashMap::new(),
            observed: HashMap::new(),
            subjects: HashMap::new(),
            is_full: false,
        }
    }

    /// Until the node stops.
    pub(super) async fn run(mut self) {
        // The conversation with the server is a session; a node that stops waits for it to end.
        let node = self.node.clone();
        let _counted = node.metrics().session(Listener::Coap);
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut timer = pin!(tokio::time::sleep(IDLE));
        for subject in self.upstream.always.clone() {
            self.observe(Instant::now(), subject);
        }
        self.flush().await;
        loop {
            let due = self.client.next_timeout().unwrap_or_else(|| Instant::now() + IDLE);
            timer.as_mut().reset(due.into());
            let woken = tokio::select! {
                item = self.mailbox.recv() => Woken::Item(item),
                received = receive(self.ports.as_ref(), &mut buffer) => Woken::Datagram(received),
                () = changed(self.interest.as_deref()) => Woken::Interest,
                () = timer.as_mut() => Woken::Timeout,
            };
            let now = Instant::now();
            match woken {
                Woken::Item(Some(item)) => self.take(now, item),
                Woken::Item(None) => return self.leave(&mut buffer).await,
                Woken::Datagram(Ok((port, length))) => self.client.receive(now, port, &buffer[..length]),
                Woken::Datagram(Err(error)) => self.network_error(now, &error),
                Woken::Interest => self.follow_interest(now),
                Woken::Timeout => self.client.handle_timeout(now),
            }
            self.flush().await;
        }
    }

    /// Begins the call that a message stands for.
    fn take(&mut self, now: Instant, item: Item) {
        let delivery = match item {
            Item::Message { delivery, .. } => delivery,
            Item::Gap { dropped, reason } => {
                let (filter, reason) = (&self.upstream.filter, reason.as_str());
                return tracing::warn!(%filter, dropped, reason, "requests for an upstream were dropped");
            }
        };
        let message = delivery.message();
        // What a mailbox of this label holds is counted by its reader.
        if is_notification(message.headers) {
            return;
        }
        let request = match self.upstream.base.request(&message) {
            Ok(request) => request,
            Err(reply) => return self.reply(&delivery, &reply),
        };
        match self.client.request(now, request, self.upstream.timeout) {
            Ok(id) => {
                self.calls.insert(id, delivery);
            }
            Err(full) => {
                self.node.metrics().limit_reached(Limit::CoapUpstreamMaxInFlight);
                self.reply(&delivery, &Reply::busy(full.limit));
            }
        }
    }

    /// Sends what the client wants sent, and carries out what has come of it.
    async fn flush(&mut self) {
        loop {
            if let Err(error) = self.send_all().await {
                self.network_error(Instant::now(), &error);
            }
            while let Some(event) = self.client.next_event() {
                self.carry_out(event);
            }
            if self.client.outgoing().is_empty() {
                return;
            }
        }
    }

    async fn send_all(&mut self) -> io::Result<()> {
        let Self { client, ports, upstream, .. } = self;
        let mut result = Ok(());
        for (port, datagram) in client.outgoing().iter() {
            if ports.is_none() {
                match Ports::find(&upstream.base.host, upstream.base.port).await {
                    Ok(found) => *ports = Some(found),
                    Err(error) => {
                        tracing::warn!(host = upstream.base.host, %error, "a CoAP server cannot be found");
                        result = Err(io::ErrorKind::HostUnreachable.into());
                        break;
                    }
                }
            }
            let Some(ports) = ports else { break };
            if let Err(error) = ports.send(port, datagram).await {
                result = Err(error);
            }
        }
        client.clear_outgoing();
        result
    }

    fn network_error(&mut self, now: Instant, error: &io::Error) {
        if !is_unreachable(error) {
            return tracing::debug!(%error, "a datagram to a CoAP server was lost");
        }
        self.client.unreachable(now);
        self.ports = None;
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Answered(id, response) => self.finish(id, &Reply::from_coap(response)),
            Event::Failed(id, failure) => {
                if let Failure::TooLarge { .. } = failure {
                    self.node.metrics().limit_reached(Limit::MaxPayloadBytes);
                }
                self.finish(id, &self.upstream.base.failure(failure));
            }
            Event::Notified(id, sequence, response) => self.publish(id, sequence, &response),
            Event::Unobserved(id, lapse) => {
                if let Some(subject) = self.subjects.get(&id) {
                    tracing::warn!(%subject, %lapse, "a resource is not observed; it is tried again");
                }
            }
        }
    }

    fn finish(&mut self, id: RequestId, reply: &Reply) {
        if let Some(delivery) = self.calls.remove(&id) {
            self.reply(&delivery, reply);
        }
    }

    fn reply(&self, request: &Delivery, reply: &Reply) {
        let too_large = |detail: String| self.upstream.base.bad_gateway(&detail);
        reply.send(&self.node, Listener::Coap, request, too_large);
    }

    fn publish(&self, id: ObservationId, sequence: Option<u32>, response: &Response) {
        let subject = self.subjects.get(&id).and_then(|subject| Subject::new(subject.as_str()).ok());
        let Some(subject) = subject else { return };
        let headers = notification_headers(sequence, response);
        let headers = headers.as_headers();
        let message = Message { subject, reply: None, headers, payload: &response.payload };
        if let Err(error) = self.node.publish(Listener::Coap, &message) {
            tracing::warn!(%subject, %error, "a notification was not taken");
        }
    }

    /// Observes what is wanted by somebody since the last time, and ends what nobody wants any more.
    fn follow_interest(&mut self, now: Instant) {
        let changes = self.interest.as_ref().map(|interest| interest.take_changes()).unwrap_or_default();
        let is_freed = changes.iter().any(|change| !change.is_wanted);
        for Change { subject, is_wanted } in changes {
            if is_wanted {
                self.observe(now, subject);
            } else if !self.upstream.always.contains(&subject)
                && let Some(id) = self.observed.remove(&subject)
            {
                self.subjects.remove(&id);
                self.client.cancel(now, id);
            }
        }
        if is_freed && std::mem::take(&mut self.is_full) {
            // Somebody may wait for a place.
            let wanted = self.interest.iter().flat_map(|interest| interest.subjects()).collect::<Vec<_>>();
            wanted.into_iter().for_each(|subject| self.observe(now, subject));
        }
    }

    fn observe(&mut self, now: Instant, subject: SubjectFilter) {
        let Entry::Vacant(place) = self.observed.entry(subject) else { return };
        let subject = place.key().clone();
        let resource = Subject::new(subject.as_str()).ok().and_then(|s| self.upstream.base.resource(s));
        let Some(resource) = resource else { return };
        match self.client.observe(now, resource) {
            Ok(id) => {
                self.subjects.insert(id, subject);
                place.insert(id);
            }
            Err(full) => {
                if !std::mem::replace(&mut self.is_full, true) {
                    self.node.metrics().limit_reached(Limit::CoapUpstreamMaxObservations);
                    tracing::warn!(%subject, limit = full.limit, "no more resources are observed");
                }
            }
        }
    }

    /// The node stops: the server is told that nobody observes any more. One that does not take it at once finds
    /// out by itself.
    async fn leave(mut self, buffer: &mut [u8]) {
        for id in self.subjects.keys().copied().collect::<Vec<_>>() {
            self.client.cancel(Instant::now(), id);
        }
        let farewell = async {
            self.flush().await;
            while !self.client.is_idle() {
                match receive(self.ports.as_ref(), buffer).await {
                    Ok((port, length)) => self.client.receive(Instant::now(), port, &buffer[..length]),
                    Err(error) => self.network_error(Instant::now(), &error),
                }
                self.flush().await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

async fn receive(ports: Option<&Ports>, buffer: &mut [u8]) -> io::Result<(u8, usize)> {
    match ports {
        Some(ports) => ports.receive(buffer).await,
        None => std::future::pending().await,
    }
}

async fn changed(interest: Option<&InterestWatch>) {
    match interest {
        Some(interest) => interest.changed().await,
        None => std::future::pending().await,
    }
}
