//! Steps on their way to other nodes that asked for them.
//!
//! Owns the bounded queue between whoever tells a step, on whatever thread and under whatever lock, and the mesh's driver,
//! which sends them. It must not take the mesh's lock.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use waymeet_core::mesh::Tag;
use waymeet_core::mesh::limits::MAX_STEPS_BYTES;

use super::step::Step;
use super::{Asker, Audience};
use crate::metrics::DropReason;

/// The most bytes of steps that wait to be sent, for all nodes together.
const MAX_WAITING_BYTES: usize = 1 << 20;

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Abroad {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Parcel>,
    bytes: usize,
}

/// Steps for one node: JSON, one a line.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) asker: Tag,
    pub(crate) lines: Vec<u8>,
    /// Steps for that node for which there was no room.
    pub(crate) dropped: u64,
}

impl Abroad {
    /// The node of that tag, as one who is told.
    pub(super) fn audience(self: &Arc<Self>, asker: Tag) -> Arc<dyn Audience> {
        Arc::new(Correspondent { asker, abroad: Arc::downgrade(self) })
    }

    /// Completes when there may be something to send.
    pub(crate) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Says that there may be something to do although nothing waits here.
    pub(super) fn wake(&self) {
        self.ready.notify_one();
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().waiting.is_empty()
    }

    /// The next parcel to be sent.
    pub(crate) fn next(&self) -> Option<Parcel> {
        let mut state = self.state.lock();
        let parcel = state.waiting.pop_front()?;
        state.bytes -= parcel.lines.len();
        Some(parcel)
    }

    fn put(&self, asker: Tag, lines: &[u8], steps: u64) {
        let mut state = self.state.lock();
        let has_room = state.bytes + lines.len() <= MAX_WAITING_BYTES;
        let len = if has_room { lines.len() } else { 0 };
        let last = state.waiting.iter().rposition(|parcel| parcel.asker == asker);
        let last = last.and_then(|index| state.waiting.get_mut(index));
        // What happened together stays together.
        let is_full = last.as_ref().is_some_and(|parcel| parcel.lines.len() + len > MAX_STEPS_BYTES);
        match last {
            // The bound on bytes does not bound empty parcels; there is one a node at most.
            Some(parcel) if !has_room => parcel.dropped += steps,
            Some(parcel) if !is_full => parcel.lines.extend_from_slice(lines),
            _ => {
                let (lines, dropped) = if has_room { (lines.to_vec(), 0) } else { (Vec::new(), steps) };
                state.waiting.push_back(Parcel { asker, lines, dropped });
            }
        }
        state.bytes += len;
        drop(state);
        self.ready.notify_one();
    }
}

/// A node that asked.
struct Correspondent {
    asker: Tag,
    abroad: Weak<Abroad>,
}

impl Audience for Correspondent {
    fn take(&self, steps: &[Step]) {
        let Some(abroad) = self.abroad.upgrade() else { return };
        let mut lines = Vec::new();
        let mut count = 0;
        for step in steps {
            let json = step.to_json();
            if lines.len() + json.len() + 1 > MAX_STEPS_BYTES {
                abroad.put(self.asker, &lines, std::mem::take(&mut count));
                lines.clear();
            }
            lines.extend_from_slice(&json);
            lines.push(b'\n');
            count += 1;
        }
        if count > 0 {
            abroad.put(self.asker, &lines, count);
        }
    }

    fn skip(&self, _: u64, _: DropReason) {
        // Whoever asked is told of this node's bounds by what is missing.
    }

    fn asker(&self) -> Asker {
        Asker::There(self.asker)
    }
}
