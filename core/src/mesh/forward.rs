//! What happens to a message that comes in over a link.
//!
//! Owns passing on and handing to clients. It must not choose who serves a queue group: the origin did.

use std::time::Instant;

use super::limits::{MAX_ASKERS, MAX_HOPS};
use super::local::SELF;
use super::set::{NodeSet, Slot};
use super::wire::{MessageFrame, is_reserved};
use super::{Delivery, Identity, LinkId, LinkRefusal, Mesh, Passing, Scope, Tag, Taken, TraceMark, Upstream};
use crate::message::Message;
use crate::router::{Generation, Generations};
use crate::subject::Subject;

/// What a message asks of this node.
struct Duty<'a> {
    /// Somebody here wants it, or was chosen.
    scope: Option<Scope<'a>>,
    /// Neighbours that it goes on to.
    links: Vec<LinkId>,
    /// It was meant for this node for sure, not perhaps.
    addressed: bool,
}

/// Where a message that came in goes on to, and whether clients here want it. Kept for the next one, because most
/// messages follow one of the same origin on the same subject.
#[derive(Default)]
pub(super) struct Way {
    tag: Tag,
    origin: Slot,
    subject: String,
    class: u8,
    /// Interest and graph as they were; `None` before the first message.
    generation: Option<Generation>,
    /// Neighbours below whom it is wanted.
    children: Vec<Slot>,
    /// Until when that holds, while nodes may see the mesh differently.
    until: Option<Instant>,
    plain: bool,
}

impl<I: Identity> Mesh<I> {
    pub(super) fn take_message(
        &mut self,
        now: Instant,
        from: LinkId,
        frame: &MessageFrame<'_>,
        upstream: &mut impl Upstream,
    ) {
        let Some(link) = self.links.get(&from) else { return };
        let tag = frame.origin.unwrap_or(link.tag);
        let Some(origin) = self.origin(tag).filter(|slot| *slot != SELF) else {
            self.counters.unknown_origin += 1;
            return;
        };
        if frame.message.size() > self.limits.max_payload_bytes {
            self.counters.rejected_too_large += 1;
            return;
        }
        let Some(node) = self.nodes.get_mut(origin) else { return };
        if !node.window.first_time(frame.sequence) {
            self.counters.duplicates += 1;
            return;
        }
        self.draw_if_unreached(now, origin);
        let own = self.own_tag();
        let mine: Vec<&str> = frame
            .assignments
            .iter()
            .filter(|assignment| assignment.node == own)
            .map(|assignment| assignment.queue)
            .collect();
        let mut duty = self.duty((now, from), origin, frame, &mine);
        let lost = self.lost_here(frame, &mut duty);
        let is_traced = frame.trace.is_some() || upstream.is_asked();
        let mark = if is_traced { self.passes((from, tag), frame, upstream) } else { None };
        let is_changed = is_traced && !duty.links.is_empty();
        let headers = if is_changed { upstream.onward_headers(&frame.message) } else { None };
        let mut message = frame.message;
        if let Some(headers) = &headers {
            message.headers = headers.as_headers();
        }
        let mut taken = self.pass_message_on(tag, (frame, &message), &duty.links, mark.as_ref());
        taken.extend(lost.map(|refusal| Taken { peer: None, result: Err(refusal) }));
        if is_traced {
            upstream.went_on(&taken);
        }
        let delivered = duty.scope.is_some_and(|scope| self.deliver(origin, &frame.message, scope, upstream));
        if is_traced {
            upstream.has_passed();
        }
        if !delivered && frame.asked > 0 && frame.message.reply.is_some() {
            // Either nobody is left whom this node was asked for, or the branch ends here without anybody.
            let subject = frame.message.subject;
            if duty.addressed || duty.links.is_empty() || self.local.is_believed_wanted(now, subject) {
                self.refuse(now, tag, frame);
            }
        }
    }

    /// Counts a message that cannot go on, and says why: it has come too far, or there is no way to its target.
    fn lost_here(&mut self, frame: &MessageFrame<'_>, duty: &mut Duty<'_>) -> Option<LinkRefusal> {
        let refusal = if duty.links.is_empty() {
            (frame.target.is_some() && !duty.addressed).then_some(LinkRefusal::Down)?
        } else {
            (frame.hops >= MAX_HOPS).then_some(LinkRefusal::Expired)?
        };
        duty.links.clear();
        let counters = &mut self.counters;
        match refusal {
            LinkRefusal::Expired => counters.too_many_hops += 1,
            _ => counters.dropped_down += 1,
        }
        counters.refused += 1;
        Some(refusal)
    }

    /// The node with that tag.
    fn origin(&self, tag: Tag) -> Option<Slot> {
        let is_last =
            tag == self.way.tag && self.nodes.get(self.way.origin).is_some_and(|node| node.tag == tag);
        if is_last { Some(self.way.origin) } else { self.nodes.by_tag(tag) }
    }

    /// Finds the way of a message for which no node is named.
    fn find_way(&mut self, now: Instant, origin: Slot, subject: Subject<'_>) {
        let way = &self.way;
        let is_same = self.timers.refresh.is_none()
            && way.until.is_none_or(|until| now < until)
            && way.origin == origin
            && way.subject == subject.as_str()
            && way.generation == Some(self.table.generations().of(way.class))
            && self.nodes.get(origin).is_some_and(|node| node.tag == way.tag);
        if is_same {
            return;
        }
        let receivers = self.receivers(subject);
        self.draw_if_any_unreached(now, &receivers.plain);
        let class = Generations::class(subject.as_str().as_bytes());
        let generation = self.table.generations().of(class);
        let (children, until) = self.children(now, origin, |below| below.intersects(&receivers.plain));
        let way = &mut self.way;
        (way.children, way.until) = (children, until);
        (way.origin, way.class, way.generation) = (origin, class, Some(generation));
        way.tag = self.nodes.get(origin).map_or(Tag(0), |node| node.tag);
        way.subject.clear();
        way.subject.push_str(subject.as_str());
        way.plain = receivers.plain.contains(SELF);
    }

    fn duty<'a>(
        &mut self,
        (now, from): (Instant, LinkId),
        origin: Slot,
        frame: &MessageFrame<'_>,
        mine: &'a [&'a str],
    ) -> Duty<'a> {
        let own = self.own_tag();
        if frame.target == Some(own) {
            return Duty { scope: Some(Scope::Node), links: Vec::new(), addressed: true };
        }
        if frame.target.is_none() && frame.assignments.is_empty() {
            self.find_way(now, origin, frame.message.subject);
            let mut links = self.links_on(from, &self.way.children);
            let plain = self.way.plain;
            if links.is_empty() && !plain {
                links = self.links_at_dead_end((now, from), origin, frame.message.subject, &[]);
            }
            let scope = plain.then_some(Scope::Chosen { plain, groups: &[] });
            return Duty { scope, links, addressed: false };
        }
        if let Some(target) = frame.target {
            let link = self.way_on(now, origin, target).filter(|link| *link != from);
            return Duty { scope: None, links: link.into_iter().collect(), addressed: false };
        }
        let receivers = self.receivers(frame.message.subject);
        self.draw_if_any_unreached(now, &receivers.plain);
        let chosen: Vec<Slot> =
            frame.assignments.iter().filter_map(|assignment| self.nodes.by_tag(assignment.node)).collect();
        chosen.iter().for_each(|slot| self.draw_if_unreached(now, *slot));
        let is_wanted = |below: &NodeSet| {
            below.intersects(&receivers.plain) || chosen.iter().any(|slot| below.contains(*slot))
        };
        let (children, _) = self.children(now, origin, is_wanted);
        let mut links = self.links_on(from, &children);
        let plain = receivers.plain.contains(SELF);
        if links.is_empty() && !plain && mine.is_empty() {
            links = self.links_at_dead_end((now, from), origin, frame.message.subject, &chosen);
        }
        let scope = (plain || !mine.is_empty()).then_some(Scope::Chosen { plain, groups: mine });
        Duty { scope, links, addressed: !mine.is_empty() }
    }

    /// The links to neighbours, but for the one that a message came from.
    fn links_on(&self, from: LinkId, children: &[Slot]) -> Vec<LinkId> {
        let links = children.iter().filter_map(|child| self.link_to(*child));
        links.filter(|link| *link != from).collect()
    }

    /// The link on which a message for one node goes on: in its origin's tree, or where that does not lead to the target
    /// (the origin sees the mesh otherwise than this node), on this node's own way there.
    fn way_on(&mut self, now: Instant, origin: Slot, target: Tag) -> Option<LinkId> {
        let target = self.nodes.by_tag(target)?;
        let own_way = self.link_toward(now, target);
        let child = self.views.tree(origin).toward(target);
        child.and_then(|child| self.link_to(child)).or(own_way)
    }

    /// Lets this node's readers of traces see a message, before it goes on.
    #[cold]
    fn passes(
        &self,
        (from, origin): (LinkId, Tag),
        frame: &MessageFrame<'_>,
        upstream: &mut impl Upstream,
    ) -> Option<TraceMark> {
        let from = &self.links.get(&from)?.peer;
        let mut mark = upstream.passes(&Passing {
            from,
            origin,
            message: &frame.message,
            mark: frame.trace.as_deref(),
            own: self.own_tag(),
        })?;
        mark.askers.truncate(MAX_ASKERS);
        Some(mark)
    }

    /// What each link did with it is only said of a traced message.
    fn pass_message_on(
        &mut self,
        origin: Tag,
        (frame, message): (&MessageFrame<'_>, &Message<'_>),
        links: &[LinkId],
        trace: Option<&TraceMark>,
    ) -> Vec<Taken> {
        let mut taken = Vec::new();
        if links.is_empty() {
            return taken;
        }
        let head = frame.passed_on(origin, trace);
        let range = self.out.write(|out| head.encode(message, out));
        for &link in links {
            let result = self.send_marked(link, range.clone(), trace);
            if trace.is_some() {
                taken.push(Taken { peer: self.links.get(&link).map(|link| link.peer.clone()), result });
            }
        }
        self.out.take_back(&range);
        self.counters.passed_on += 1;
        taken
    }

    /// Hands a message to clients here; its reply subject gets the way back.
    fn deliver(
        &mut self,
        origin: Slot,
        message: &Message<'_>,
        scope: Scope<'_>,
        upstream: &mut impl Upstream,
    ) -> bool {
        let Some(node) = self.nodes.get(origin) else { return false };
        let mut message = *message;
        if let Some(reply) = message.reply.filter(|reply| !is_reserved(reply.as_str())) {
            self.scratch.clear();
            self.scratch.extend(["_PEER.", &node.token, ".", reply.as_str()]);
            match Subject::new(&self.scratch) {
                Ok(reply) => message.reply = Some(reply),
                Err(_) => {
                    // Too long to be answered from here.
                    self.counters.invalid += 1;
                    return false;
                }
            }
        }
        upstream.deliver(&Delivery { origin: &node.peer, message, scope })
    }
}
