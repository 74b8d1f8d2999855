//! The write to a socket.
//!
//! Owns writing many pieces with few system calls. It must not wait.

use std::io::{self, IoSlice};

use tokio::net::tcp::OwnedWriteHalf;

use super::super::segments::{Finished, MAX_GATHERED_SLICES, MAX_SLICES, Segments};

/// Writes until everything is written or the socket takes no more.
pub(super) fn write(socket: &OwnedWriteHalf, segments: &mut Segments) -> (io::Result<()>, Finished, usize) {
    let mut total = 0;
    let mut finished = Finished::default();
    while !segments.is_empty() {
        let outcome = if segments.is_gathered() {
            write_once::<MAX_GATHERED_SLICES>(socket, segments)
        } else {
            write_once::<MAX_SLICES>(socket, segments)
        };
        match outcome {
            Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), finished, total),
            Ok(written) => {
                total += written;
                let done = segments.advance(written);
                finished.messages += done.messages;
                finished.own_bytes += done.own_bytes;
                finished.buffer = done.buffer.or(finished.buffer);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (Err(error), finished, total),
        }
    }
    (Ok(()), finished, total)
}

/// One system call with at most `N` pieces.
fn write_once<const N: usize>(socket: &OwnedWriteHalf, segments: &Segments) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); N];
    match segments.slices(&mut slices) {
        1 => socket.try_write(&slices[0]),
        count => socket.try_write_vectored(&slices[..count]),
    }
}
