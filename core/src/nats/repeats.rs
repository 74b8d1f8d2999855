//! Publications with the very line of the one before.
//!
//! Owns how they are found. It must not carry them out.

use super::parser::Operation;
use crate::message::Repeats;

/// Publications that differ from the one before in nothing but the payload's bytes.
pub(super) struct More<'a> {
    pub(super) subject: &'a [u8],
    pub(super) payloads: Repeats<'a>,
}

/// The publications that follow with the very line of the one just carried out, whose bytes are `done`. Publishers
/// mostly say the same line again and again, and comparing it costs less than reading it.
#[inline]
pub(super) fn repeats<'a>(operation: &Operation<'a>, done: &[u8], behind: &'a [u8]) -> Option<More<'a>> {
    let Operation::Publish { subject, reply: None, headers: None, payload } = *operation else { return None };
    let stride = done.len();
    let end = stride.checked_sub(2)?;
    let start = end.checked_sub(payload.len())?;
    let line = &done[..start];
    let is_same = |operation: &&[u8]| operation.starts_with(line) && operation.ends_with(b"\r\n");
    let count = behind.chunks_exact(stride).take_while(is_same).count();
    (count > 0)
        .then(|| More { subject, payloads: Repeats::new(&behind[..count * stride], stride, start, end) })
}
