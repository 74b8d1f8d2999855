//! A Confirmable message on its way (RFC 7252, section 4.2).
//!
//! Owns retransmission with back-off. It must not know what the message says.

use std::time::{Duration, Instant};

use super::Port;
use super::exchange::ExchangeId;
use crate::coap::session::{ACK_RANDOM_FACTOR, ACK_TIMEOUT, MAX_RETRANSMIT};

/// A message that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Transmission {
    pub(super) exchange: ExchangeId,
    pub(super) port: Port,
    pub(super) message_id: u16,
    datagram: Vec<u8>,
    /// How long the present attempt waits.
    timeout: Duration,
    deadline: Instant,
    retransmissions: u32,
}

impl Transmission {
    pub(super) fn new(
        now: Instant,
        exchange: ExchangeId,
        port: Port,
        message_id: u16,
        datagram: Vec<u8>,
        random: u64,
    ) -> Self {
        // Between ACK_TIMEOUT and ACK_TIMEOUT * ACK_RANDOM_FACTOR, which is in thousandths.
        let jitter = random % u64::from(ACK_RANDOM_FACTOR - 999);
        let timeout = ACK_TIMEOUT + ACK_TIMEOUT * u32::try_from(jitter).unwrap_or(0) / 1_000;
        Self { exchange, port, message_id, datagram, timeout, deadline: now + timeout, retransmissions: 0 }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn datagram(&self) -> &[u8] {
        &self.datagram
    }

    /// Counts a retransmission, with a pause twice as long behind it; `false` when there have been enough.
    pub(super) fn retransmit(&mut self, now: Instant) -> bool {
        if self.retransmissions == MAX_RETRANSMIT {
            return false;
        }
        self.retransmissions += 1;
        self.timeout *= 2;
        self.deadline = now + self.timeout;
        true
    }
}
