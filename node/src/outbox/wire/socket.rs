//! The write to a socket.
//!
//! Owns writing many pieces with few system calls. It must not wait.

use std::io::{self, IoSlice};

use tokio::net::tcp::OwnedWriteHalf;

use super::super::segments::{Finished, MAX_SLICES, Segments};

/// Writes until everything is written or the socket takes no more.
pub(super) fn write(socket: &OwnedWriteHalf, segments: &mut Segments) -> (io::Result<()>, Finished, usize) {
    let mut total = 0;
    let mut finished = Finished::default();
    while !segments.is_empty() {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = segments.slices(&mut slices);
        let outcome = if count == 1 {
            socket.try_write(&slices[0])
        } else {
            socket.try_write_vectored(&slices[..count])
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
