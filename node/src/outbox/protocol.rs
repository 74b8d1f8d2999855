//! What the router's side knows of a protocol: functions.
//!
//! Owns their shapes. It must not hold any protocol's bytes; the listeners do.

use waymeet_core::Message;
use waymeet_core::message::Repeats;

/// What an outbox must know of a protocol.
#[derive(Debug)]
pub(crate) struct Protocol {
    /// Appends what begins every message on one subject to one sid.
    pub(crate) prefix: fn(out: &mut Vec<u8>, subject: &str, sid: &[u8]),
    /// Appends a message behind its prefix, with or without headers.
    pub(crate) encode: fn(out: &mut Vec<u8>, prefix: &[u8], message: &Message<'_>, headers: bool),
    /// The same without the payload; returns where that belongs.
    pub(crate) encode_around:
        fn(out: &mut Vec<u8>, prefix: &[u8], message: &Message<'_>, headers: bool) -> usize,
    /// Appends messages on one subject without reply subjects and headers.
    pub(crate) encode_repeats: fn(out: &mut Vec<u8>, prefix: &[u8], repeats: &Repeats<'_>),
    /// How many whole messages lie in the first bytes of an encoded block.
    pub(crate) count: fn(block: &[u8], written: usize) -> usize,
}
