//! What the session knows about one endpoint: the Confirmable message in flight and what waits behind it.
//!
//! Owns one endpoint's part of the message layer (RFC 7252, sections 4.2, 4.4 and 4.7). It must not decide
//! what a lost message means; the session does.

use std::collections::VecDeque;
use std::time::Instant;

use super::dedup::Memory;
use super::upstream::ObservationId;
use crate::coap::{Code, Retransmission};

/// A message that waits until it may be sent. Its message id is written over the placeholder then.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) confirmable: bool,
    /// The observation, when this is a notification.
    pub(super) observation: Option<ObservationId>,
    pub(super) datagram: Vec<u8>,
    /// The whole body, when the datagram holds only its first block.
    pub(super) body: Option<Body>,
}

/// A body whose later blocks the client will fetch.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) code: Code,
    pub(super) content_format: Option<u16>,
    pub(super) bytes: Vec<u8>,
}

impl Outbound {
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.datagram.len() + self.body.as_ref().map_or(0, |body| body.bytes.len())
    }
}

/// A Confirmable message that waits for its acknowledgement.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) message_id: u16,
    pub(super) observation: Option<ObservationId>,
    pub(super) datagram: Vec<u8>,
    pub(super) retransmission: Retransmission,
}

/// How far into the queue a notification is looked for that may go before those in front of it, so that a
/// long queue costs no more than a short one.
pub(super) const LOOKAHEAD: usize = 64;

/// How many Non-confirmable notifications a Reset can be matched to.
const RECENT: usize = 16;

/// The state of one endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    next_message_id: u16,
    /// When the last message came or went.
    pub(super) last_message: Instant,
    /// When the last message came.
    pub(super) last_heard: Instant,
    /// Whether it is known to be where it says it is (RFC 9175, section 2.3): nothing that is larger than three
    /// times what it has sent goes to it before.
    pub(super) proved: bool,
    /// What it has sent lately.
    pub(super) memory: Memory,
    /// The separate response that waits for its acknowledgement. NSTART (section 4.7) counts what a side begins;
    /// a response belongs to what its client began, and the client's own NSTART holds it back. So it does not
    /// wait behind a notification, which may be retransmitted for MAX_TRANSMIT_WAIT.
    pub(super) responding: Option<InFlight>,
    /// The notification that does, or a ping: at most NSTART, which is 1, at a time (RFC 7641, section 4.5.1).
    pub(super) notifying: Option<InFlight>,
    /// Separate responses; they go before notifications, because somebody waits for each of them.
    pub(super) responses: VecDeque<Outbound>,
    pub(super) notifications: VecDeque<Outbound>,
    pub(super) notification_bytes: usize,
    pub(super) observations: Vec<ObservationId>,
    pub(super) exchanges: usize,
    /// Non-confirmable notifications sent last, oldest first.
    recent: VecDeque<(u16, ObservationId)>,
    /// The timer that is set for this endpoint.
    pub(super) timer: Option<Instant>,
    /// Since when nothing is going on here.
    pub(super) idle_since: Option<Instant>,
}

impl Endpoint {
    pub(super) fn new(now: Instant, first_message_id: u16) -> Self {
        Self {
            next_message_id: first_message_id,
            last_message: now,
            last_heard: now,
            proved: false,
            memory: Memory::default(),
            responding: None,
            notifying: None,
            responses: VecDeque::new(),
            notifications: VecDeque::new(),
            notification_bytes: 0,
            observations: Vec::new(),
            exchanges: 0,
            recent: VecDeque::new(),
            timer: None,
            idle_since: None,
        }
    }

    /// The next message id toward this endpoint. Counting keeps one from coming again within
    /// EXCHANGE_LIFETIME for as long as the endpoint gets fewer than 65,536 messages in it (section 4.4).
    pub(super) fn message_id(&mut self, now: Instant) -> u16 {
        self.last_message = now;
        let id = self.next_message_id;
        self.next_message_id = id.wrapping_add(1);
        id
    }

    pub(super) fn is_idle(&self) -> bool {
        self.responding.is_none()
            && self.notifying.is_none()
            && self.responses.is_empty()
            && self.notifications.is_empty()
            && self.observations.is_empty()
            && self.exchanges == 0
    }

    /// Remembers which observation a Non-confirmable notification was for.
    pub(super) fn sent(&mut self, message_id: u16, observation: ObservationId) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((message_id, observation));
    }

    /// The observation whose Non-confirmable notification had this message id.
    pub(super) fn observation_of(&self, message_id: u16) -> Option<ObservationId> {
        self.recent.iter().rev().find(|(id, _)| *id == message_id).map(|(_, observation)| *observation)
    }

    /// The messages that wait for their acknowledgements.
    pub(super) fn in_flight(&mut self) -> impl Iterator<Item = &mut InFlight> {
        self.responding.iter_mut().chain(&mut self.notifying)
    }

    /// Takes the first message that may be sent now: anything Confirmable waits for the one of its kind that is in
    /// flight, and a notification waits while its observation is `held`.
    pub(super) fn take_sendable(&mut self, held: impl Fn(ObservationId) -> bool) -> Option<Outbound> {
        if self.responding.is_none()
            && let Some(response) = self.responses.pop_front()
        {
            return Some(response);
        }
        let free = self.notifying.is_none();
        let position = self.notifications.iter().take(LOOKAHEAD).position(|notification| {
            (free || !notification.confirmable) && !notification.observation.is_some_and(&held)
        })?;
        let notification = self.notifications.remove(position)?;
        self.notification_bytes -= notification.memory();
        Some(notification)
    }

    /// Takes the oldest notification to make room.
    pub(super) fn drop_oldest(&mut self) -> Option<Outbound> {
        let oldest = self.notifications.pop_front()?;
        self.notification_bytes -= oldest.memory();
        Some(oldest)
    }

    /// Takes all notifications of an observation that has ended out of the queue. Returns how many
    /// there were, and their bytes.
    pub(super) fn drop_notifications(&mut self, of: ObservationId) -> (u64, usize) {
        let (before, bytes) = (self.notifications.len(), self.notification_bytes);
        let mut left = 0;
        self.notifications.retain(|notification| {
            let keep = notification.observation != Some(of);
            left += if keep { notification.memory() } else { 0 };
            keep
        });
        self.notification_bytes = left;
        ((before - self.notifications.len()) as u64, bytes - left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_observation_does_not_hold_the_others() {
        let now = Instant::now();
        let mut endpoint = Endpoint::new(now, 65_535);
        for id in [1, 2, 1] {
            let message = Outbound {
                confirmable: true,
                observation: Some(ObservationId(id)),
                datagram: Vec::new(),
                body: None,
            };
            endpoint.notification_bytes += message.memory();
            endpoint.notifications.push_back(message);
        }
        let held = |id| id == ObservationId(1);
        assert_eq!(endpoint.take_sendable(held).and_then(|m| m.observation), Some(ObservationId(2)));
        assert!(endpoint.take_sendable(held).is_none());
        let (messages, bytes) = endpoint.drop_notifications(ObservationId(1));
        assert_eq!((messages, endpoint.notification_bytes), (2, 0));
        assert!(bytes > 0 && endpoint.is_idle());
        assert_eq!([endpoint.message_id(now), endpoint.message_id(now)], [65_535, 0]);
    }
}
