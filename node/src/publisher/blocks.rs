//! The blocks of a run: what it is encoded into, and how that reaches the outboxes when it ends.
//!
//! Owns which payloads stay in the read buffer until then. It must not choose who receives.

use std::sync::Arc;

use waymeet_core::Message;
use waymeet_core::message::Repeats;

use super::Run;
use super::batch::Batch;
use super::plan::Class;
use crate::budget::{Held, UNCOUNTED_BYTES};
use crate::buffers::{self, ReadBuffer};
use crate::outbox::{Block, Encoded, Offered, Outbox, SharedBytes, WireOutbox};
use crate::subscription::Subscription;

/// A payload of so many bytes is written from where it was read, if one subscriber alone receives it. A shorter one is
/// copied in less time than the kernel takes for one more piece of a write.
const LEND_BYTES: usize = 1_024;

impl Batch {
    /// Lets large payloads stay where they were read, until the batch is over.
    pub(super) fn lend(&mut self, source: Arc<ReadBuffer>) {
        self.source = Some(source);
    }

    /// Has everybody write what is still in the read buffer; the outboxes copy what they cannot write.
    pub(super) fn give_source_back(&mut self) {
        if self.source.take().is_some() {
            self.borrowers.drain(..).for_each(|outbox| outbox.flush());
        }
    }

    /// Encodes a message into the blocks of a plan's classes.
    pub(super) fn encode_classes(&mut self, classes: &[Class], message: &Message<'_>) {
        self.prepare_blocks(classes.len());
        let place = if self.may_stay(message.payload.len()) {
            self.source.as_ref().and_then(|source| source.place_of(message.payload))
        } else {
            None
        };
        for (class, block) in classes.iter().zip(&mut self.blocks) {
            let sid = &class.members[0].sid;
            let prefix = class.prefix.of(class.protocol, message.subject, sid, &mut self.scratch);
            match &place {
                // Many share one copy.
                Some(place) if class.members.len() == 1 => block.push_around(place.clone(), |bytes| {
                    (class.protocol.encode_around)(bytes, prefix, message, class.headers)
                }),
                _ => (class.protocol.encode)(&mut block.bytes, prefix, message, class.headers),
            }
        }
    }

    /// As [`Batch::encode_classes`] for each of the payloads, on the message's subject.
    pub(super) fn encode_repeats(&mut self, classes: &[Class], message: &Message<'_>, repeats: &Repeats<'_>) {
        if self.may_stay(repeats.payload_bytes()) && classes.iter().any(|class| class.members.len() == 1) {
            for payload in repeats.payloads() {
                self.encode_classes(classes, &Message { payload, ..*message });
            }
            return;
        }
        self.prepare_blocks(classes.len());
        for (class, block) in classes.iter().zip(&mut self.blocks) {
            let sid = &class.members[0].sid;
            let prefix = class.prefix.of(class.protocol, message.subject, sid, &mut self.scratch);
            (class.protocol.encode_repeats)(&mut block.bytes, prefix, repeats);
        }
    }

    #[inline]
    fn prepare_blocks(&mut self, count: usize) {
        if self.blocks.len() < count {
            self.blocks.resize_with(count, Encoded::default);
        }
        for block in &mut self.blocks[..count] {
            if block.bytes.capacity() == 0 {
                block.bytes = buffers::take();
            }
        }
    }

    /// Whether a payload of such a length may stay where it was read.
    #[inline]
    pub(super) fn may_stay(&self, payload_bytes: usize) -> bool {
        payload_bytes >= LEND_BYTES && self.source.is_some()
    }

    pub(super) fn end_run(&mut self, run: &Run) {
        self.end_crossing(&run.cached.plan);
        if run.counts.encoded == 0 {
            return;
        }
        for (index, class) in run.cached.plan.classes.iter().enumerate() {
            let block = std::mem::take(&mut self.blocks[index]);
            if let [member] = &*class.members {
                self.end_run_of_one(run, member, block);
                continue;
            }
            let bytes = block.bytes;
            // A shorter one is copied into each outbox and is gone when this is over.
            let held =
                if bytes.len() > UNCOUNTED_BYTES { self.tally.hold(bytes.len()) } else { Held::NOTHING };
            let shared = Arc::new(SharedBytes { bytes, _held: held });
            let block = Block { shared, messages: run.counts.encoded };
            for member in &class.members {
                let wanted = || member.admit_block(run.counts.encoded);
                self.offer_block(run, member, |wire| wire.offer_block(wanted, &block));
            }
            if let Ok(shared) = Arc::try_unwrap(block.shared) {
                buffers::give_back(shared.bytes);
            }
        }
    }

    fn end_run_of_one(&mut self, run: &Run, member: &Subscription, block: Encoded) {
        let messages = run.counts.encoded;
        let wanted = || member.admit_block(messages);
        match &self.source {
            Some(source) if !block.is_whole() => {
                let gathered = block.gathered(source.clone());
                self.offer_block(run, member, |wire| wire.offer_gathered(wanted, gathered, messages));
                if let Outbox::Wire(wire) = &member.outbox {
                    self.borrowers.push(wire.clone());
                }
            }
            _ => self.offer_block(run, member, |wire| wire.offer_own(wanted, block.bytes, messages)),
        }
    }

    fn offer_block(
        &mut self,
        run: &Run,
        member: &Subscription,
        offer: impl FnOnce(&WireOutbox) -> Option<Offered>,
    ) {
        let Outbox::Wire(wire) = &member.outbox else { return };
        if wire.is_own_echo(run.origin.session) {
            return;
        }
        self.counts.deliveries += run.counts.encoded;
        match offer(wire) {
            Some(offered) => self.note(wire, offered, run.counts.encoded),
            // The subscription ended after the run began; the messages came too late for it.
            None => self.lost(member, run.counts.encoded),
        }
    }
}
