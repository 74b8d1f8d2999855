//! What a traced message carries over a link, and what is told of it on its way back.
//!
//! Owns the marks and the carrying of steps toward the node that asked. It must not know what a step says.

use std::ops::Range;
use std::time::Instant;

use super::limits::MAX_HOPS;
use super::link::Link;
use super::wire::{Frame, Steps};
use super::{Event, Identity, LinkId, Mesh, PeerId, Tag, Upstream};
use crate::message::Message;
use crate::trace::{SpanId, TraceId};

/// Names a traced message beyond the node that it came from, and who asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceMark {
    /// The trace.
    pub trace: TraceId,
    /// The message within it.
    pub message: SpanId,
    /// The message that this one answers.
    pub request: Option<SpanId>,
    /// The nodes that are told; at most [`super::limits::MAX_ASKERS`].
    pub askers: Vec<Tag>,
    /// The message is not to be delivered: it goes only where that is known.
    pub only: bool,
}

/// A message that came over a link, before it goes on or to clients here.
#[derive(Debug, Clone, Copy)]
pub struct Passing<'a> {
    /// The node at the other end of the link.
    pub from: &'a PeerId,
    /// The node whose client has published it.
    pub origin: Tag,
    /// The message as it crossed: its reply subject has no way back yet.
    pub message: &'a Message<'a>,
    /// What it carries, if anybody asked about it.
    pub mark: Option<&'a TraceMark>,
    /// This node's tag, to be told from other askers.
    pub own: Tag,
}

/// Why a link did not take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRefusal {
    /// It is gone: `link_down`.
    Down,
    /// The message is longer than the peer takes: `payload_too_large`.
    TooLarge,
    /// Its backlog is full: `slow_subscriber`.
    Slow,
    /// It has come over as many links as a message may: `ttl_expired`.
    Expired,
    /// The message is not to be delivered, and the peer does not know that.
    Untraced,
}

/// What one link did with a traced message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The node at its other end; `None` when the link is gone.
    pub peer: Option<PeerId>,
    /// Whether the link took it.
    pub result: Result<(), LinkRefusal>,
}

impl<I: Identity> Mesh<I> {
    /// Has a link take a message that somebody may have asked about.
    pub(super) fn send_marked(
        &mut self,
        link: LinkId,
        range: Range<usize>,
        mark: Option<&TraceMark>,
    ) -> Result<(), LinkRefusal> {
        let tells_traces = || self.links.get(&link).is_some_and(|link| link.tells_traces);
        if mark.is_some_and(|mark| mark.only) && !tells_traces() {
            return Err(LinkRefusal::Untraced);
        }
        self.send_message(link, range)
    }

    /// This node's tag: how others know who asks.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.own_tag()
    }

    /// Sends steps to a node that asked for them. They are dropped when it cannot be reached: whether that is so, says
    /// the answer.
    pub fn send_steps(&mut self, now: Instant, asker: Tag, steps: &[u8], dropped: u64) -> bool {
        self.carry_steps(now, &Steps { target: asker, hops: 0, dropped, steps })
    }

    pub(super) fn take_steps(&mut self, now: Instant, steps: &Steps<'_>, upstream: &mut impl Upstream) {
        if steps.target == self.own_tag() {
            upstream.steps(steps.steps, steps.dropped);
        } else if steps.hops < MAX_HOPS {
            self.carry_steps(now, &Steps { hops: steps.hops + 1, ..*steps });
        }
    }

    /// Says which of the messages that wait on a link that ends somebody asked about.
    pub(super) fn tell_lost(&mut self, link: &Link) {
        for frame in link.credit.backlog() {
            let Ok(Some((body, _))) = super::wire::split(frame, usize::MAX) else { continue };
            if let Ok(Frame::Message(message)) = super::wire::decode(body)
                && let Some(mark) = message.trace
            {
                let subject = message.message.subject.into();
                self.push_event(Event::Lost { mark: *mark, subject, peer: link.peer.clone() });
            }
        }
    }

    fn carry_steps(&mut self, now: Instant, steps: &Steps<'_>) -> bool {
        self.send_toward(now, steps.target, &Frame::Steps(*steps))
    }
}
