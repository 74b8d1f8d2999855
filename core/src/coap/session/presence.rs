//! Whether those who observe are still there.
//!
//! Owns the daily look at endpoints that have fallen silent. RFC 7641, section 4.5, wants a Confirmable notification
//! at least every 24 hours, so that nobody who went away stays in the list of observers. Where no message comes for
//! that long there is nothing to notify of, and a notification that was made up would be a message that nobody
//! has sent. A ping (RFC 7252, section 4.3: an Empty Confirmable message, which is answered with a Reset) asks the
//! same question. It must not end anything itself: silence does, as it does for every Confirmable message.

use std::hash::Hash;
use std::time::Instant;

use super::Session;
use super::endpoint::InFlight;
use super::limits::{CONFIRM_INTERVAL, PRESENCE_STEP};
use crate::coap::{Retransmission, Type, codec};

impl<A: Copy + Eq + Hash> Session<A> {
    /// Somebody observes: from now on there is somebody to look after.
    pub(super) fn watch_presence(&mut self, now: Instant) {
        self.presence_at.get_or_insert(now + PRESENCE_STEP);
    }

    /// Pings the endpoints that observe something and have said nothing for so long that another step would make it
    /// a day. All are walked through, once in [`PRESENCE_STEP`]: a timer for each would outlive those that
    /// come and go.
    pub(super) fn check_presence(&mut self, now: Instant) {
        if self.presence_at.is_none_or(|at| at > now) {
            return;
        }
        self.presence_at = (!self.observations.is_empty()).then(|| now + PRESENCE_STEP);
        let silent = self.endpoints.iter().filter(|(_, endpoint)| {
            // A notification that waits for its acknowledgement is the same question.
            let asked = endpoint.notifying.is_some();
            let heard = now.duration_since(endpoint.last_heard);
            !endpoint.observations.is_empty() && !asked && heard + PRESENCE_STEP >= CONFIRM_INTERVAL
        });
        let mut silent: Vec<_> = silent.map(|(&address, endpoint)| (endpoint.last_heard, address)).collect();
        silent.sort_unstable_by_key(|(heard, _)| *heard);
        for (_, address) in silent {
            self.ping(now, address);
        }
    }

    fn ping(&mut self, now: Instant, address: A) {
        let Some(endpoint) = self.endpoints.get_mut(&address) else { return };
        let message_id = endpoint.message_id(now);
        let retransmission = Retransmission::begin(now, self.random.next());
        let mut datagram = Vec::new();
        codec::encode_empty(&mut datagram, Type::Confirmable, message_id);
        self.out.push(address, |out| out.extend_from_slice(&datagram));
        endpoint.notifying = Some(InFlight { message_id, observation: None, datagram, retransmission });
        self.pump(now, address);
    }
}
