//! How a message of a client here enters the mesh.
//!
//! Owns the sending side: all interested nodes, or one node by its id. It must not deliver to clients of this
//! node; the engine does, before or after.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::local::SELF;
use super::route::Route;
use super::tree::UNREACHED;
use super::wire::{Head, is_reserved};
use super::{Block, Identity, LinkId, Mesh, Taken, TraceMark};
use crate::message::Message;
use crate::router::Generations;
use crate::subject::Subject;

/// What became of a message on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Links that took it.
    pub links: u32,
    /// Links that did not, for want of room or because they are gone. Counted on the link.
    pub dropped: u32,
    /// Nodes that are asked for a reply, this one counted when it has interest; zero without a reply subject.
    pub asked: u32,
}

/// Why a message for one node cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No reachable node has that id.
    #[error("no node with that id can be reached")]
    Unknown,
    /// It is this node: the message is for its own clients, under the inner subject.
    #[error("that is this node")]
    Here,
}

/// Splits `_PEER.<id>.<subject>` into what names the node and the subject that is delivered there. `None` for other
/// subjects.
#[must_use]
pub fn split_peer_subject<'a>(subject: Subject<'a>) -> Option<(&'a str, Subject<'a>)> {
    let (id, rest) = subject.as_str().strip_prefix("_PEER.")?.split_once('.')?;
    Some((id, Subject::from_checked(rest)))
}

impl<I: Identity> Mesh<I> {
    /// What publishing on `subject` means now. Keep it while [`Route::is_current`].
    pub fn route(&mut self, subject: Subject<'_>) -> Arc<Route> {
        if let Some(route) = self.remembered(subject).and_then(|cached| cached.route.as_ref()) {
            return route.clone();
        }
        let class = Generations::class(subject.as_str().as_bytes());
        let generations = self.table.generations().clone();
        let sequence = self.sequence.clone();
        let cached = self.cached(subject);
        let (generation, mut receivers) = (cached.generation, cached.receivers.clone());
        if is_reserved(subject.as_str()) {
            receivers = Arc::default();
        }
        let from = (&self.nodes, &self.own_tree);
        let route = Route::new((class, generation), (generations, sequence), &receivers, from, |slot| {
            self.link_to(slot)
        });
        let route = Arc::new(route);
        self.cached(subject).route = Some(route.clone());
        route
    }

    /// Sends a message to every node that is interested. Subjects in `$SYS` and `_PEER` do not cross.
    pub fn publish(&mut self, message: &Message<'_>) -> Published {
        self.publish_marked(message, None, &mut Vec::new())
    }

    /// As [`Mesh::publish`], for a message that somebody asked about. What each link did with it is put into `taken`.
    pub fn publish_marked(
        &mut self,
        message: &Message<'_>,
        trace: Option<&TraceMark>,
        taken: &mut Vec<Taken>,
    ) -> Published {
        let route = self.route(message.subject);
        if route.is_empty() {
            return Published::default();
        }
        let sequence = self.sequence.next();
        let choice = route.choose(sequence);
        let asked = if message.reply.is_some() { choice.asked } else { 0 };
        let assignments = &choice.assignments;
        let head = Head { sequence, origin: None, hops: 0, target: None, asked, assignments, trace };
        let range = self.out.write(|out| head.encode(message, out));
        let links = route.links.iter().chain(&choice.more_links).copied();
        self.send_to(links, range, asked, trace.map(|mark| (mark, taken)))
    }

    /// Sends a message to the clients of one node under the subject that it has. `id` is the node's peer id as text or, as
    /// in the reply subjects of messages that crossed, its tag.
    ///
    /// # Errors
    /// When there is no such node, or when it is this one.
    pub fn publish_to(
        &mut self,
        now: Instant,
        id: &str,
        message: &Message<'_>,
    ) -> Result<Published, Unreachable> {
        self.publish_marked_to(now, id, message, None, &mut Vec::new())
    }

    /// As [`Mesh::publish_to`], for a message that somebody asked about.
    ///
    /// # Errors
    /// As [`Mesh::publish_to`].
    pub fn publish_marked_to(
        &mut self,
        now: Instant,
        id: &str,
        message: &Message<'_>,
        trace: Option<&TraceMark>,
        taken: &mut Vec<Taken>,
    ) -> Result<Published, Unreachable> {
        let slot = self.nodes.by_token(id).ok_or(Unreachable::Unknown)?;
        if slot == SELF {
            return Err(Unreachable::Here);
        }
        let link = self.link_toward(now, slot);
        let (Some(node), Some(link)) = (self.nodes.get(slot), link) else {
            return Err(Unreachable::Unknown);
        };
        debug_assert_ne!(self.own_tree.distance(slot), UNREACHED);
        let target = Some(node.tag);
        let asked = u32::from(message.reply.is_some());
        let sequence = self.sequence.next();
        let head = Head { sequence, origin: None, hops: 0, target, asked, assignments: &[], trace };
        let range = self.out.write(|out| head.encode(message, out));
        Ok(self.send_to(std::iter::once(link), range, asked, trace.map(|mark| (mark, taken))))
    }

    /// Sends a run of messages that [`Route::encode`] wrote into `block`, one after the other, and gives a buffer for
    /// the next one.
    pub fn send_block(&mut self, route: &Route, block: Block) -> (Published, Vec<u8>) {
        let (mut published, messages) = (Published::default(), block.messages());
        let mut bytes = block.into_buffer();
        if route.links.is_empty() || messages == 0 {
            bytes.clear();
            return (published, bytes);
        }
        let range = self.out.take_over(&mut bytes);
        let first = self.sequence.take(u64::from(messages));
        super::wire::number(self.out.bytes_mut(range.clone()), first);
        for &id in &route.links {
            let covered =
                self.links.get_mut(&id).filter(|link| link.is_up() && range.len() <= link.peer_max_frame);
            if let Some(link) = covered
                && link.credit.admit_block(range.len())
            {
                link.counters.messages_out += u64::from(messages);
                self.counters.taken += u64::from(messages);
                self.out.send(id, range.clone());
                published.links += messages;
            } else {
                self.send_one_by_one(id, range.clone(), &mut published);
            }
        }
        self.out.take_back(&range);
        (published, bytes)
    }

    /// A block that a link does not take as a whole.
    fn send_one_by_one(&mut self, id: LinkId, block: Range<usize>, published: &mut Published) {
        let mut at = block.start;
        while at < block.end {
            let rest = self.out.bytes(at..block.end);
            let Ok(Some((_, len))) = super::wire::split(rest, usize::MAX) else { return };
            match self.send_message(id, at..at + len) {
                Ok(()) => published.links += 1,
                Err(_) => published.dropped += 1,
            }
            at += len;
        }
    }

    fn send_to(
        &mut self,
        links: impl Iterator<Item = LinkId>,
        range: Range<usize>,
        asked: u32,
        mut traced: Option<(&TraceMark, &mut Vec<Taken>)>,
    ) -> Published {
        let mut published = Published { asked, ..Published::default() };
        for link in links {
            let result = self.send_marked(link, range.clone(), traced.as_ref().map(|(mark, _)| *mark));
            match result {
                Ok(()) => published.links += 1,
                Err(_) => published.dropped += 1,
            }
            if let Some((_, taken)) = &mut traced {
                let peer = self.links.get(&link).map(|link| link.peer.clone());
                taken.push(Taken { peer, result });
            }
        }
        self.out.take_back(&range);
        published
    }
}
