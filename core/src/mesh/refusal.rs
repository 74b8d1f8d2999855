//! How a client learns that nobody is left to answer its request.
//!
//! Owns refusals: saying one, carrying it to the origin of the request, and counting there. It must not hold
//! state for requests that nobody refused.

use std::collections::VecDeque;
use std::time::Instant;

use super::limits::{MAX_HOPS, PENDING_REFUSALS};
use super::wire::{Frame, MessageFrame, Refusal};
use super::{Event, Identity, Mesh, Tag};

/// Requests of this node that some of those that were asked have refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Sequence and how many refused; the oldest first.
    pending: VecDeque<(u64, u32)>,
}

impl Refusals {
    /// Counts a refusal; whether all of `asked` have refused now.
    fn is_last(&mut self, sequence: u64, asked: u32) -> bool {
        let place = self.pending.iter().position(|(pending, _)| *pending == sequence);
        let refused = place.map_or(0, |place| self.pending[place].1) + 1;
        match place {
            Some(place) if refused >= asked => {
                self.pending.remove(place);
            }
            Some(place) => self.pending[place].1 = refused,
            None if refused >= asked => {}
            None => {
                if self.pending.len() >= PENDING_REFUSALS {
                    self.pending.pop_front();
                }
                self.pending.push_back((sequence, refused));
            }
        }
        refused >= asked
    }
}

impl<I: Identity> Mesh<I> {
    /// Tells the origin of a request that nobody is here for it.
    pub(super) fn refuse(&mut self, now: Instant, origin: Tag, frame: &MessageFrame<'_>) {
        let Some(reply) = frame.message.reply else { return };
        let (sequence, asked) = (frame.sequence, frame.asked);
        self.carry(now, &Refusal { target: origin, sequence, reply, asked, hops: 0 });
    }

    pub(super) fn take_refusal(&mut self, now: Instant, refusal: &Refusal<'_>) {
        if refusal.target != self.own_tag() {
            if refusal.hops < MAX_HOPS {
                self.carry(now, &Refusal { hops: refusal.hops + 1, ..*refusal });
            }
        } else if self.refusals.is_last(refusal.sequence, refusal.asked) {
            self.push_event(Event::NoResponders { reply: refusal.reply.into() });
        }
    }

    /// Sends a refusal one link further toward the origin of its request.
    fn carry(&mut self, now: Instant, refusal: &Refusal<'_>) {
        self.send_toward(now, refusal.target, &Frame::Refusal(*refusal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_refusal_tells() {
        let mut refusals = Refusals::default();
        assert!(refusals.is_last(1, 1));
        assert!(!refusals.is_last(2, 3));
        assert!(!refusals.is_last(3, 2));
        assert!(!refusals.is_last(2, 3));
        assert!(refusals.is_last(2, 3));
        assert!(refusals.is_last(3, 2));
        assert!(refusals.pending.is_empty());
        (0..10_000).for_each(|sequence| assert!(!refusals.is_last(sequence, 2)));
        assert_eq!(refusals.pending.len(), PENDING_REFUSALS);
    }
}
