//! A Confirmable message on its way.
//!
//! Owns what is sent again, and for which exchange. It must not know what the message says.

use std::time::Instant;

use super::Port;
use super::exchange::ExchangeId;
use crate::coap::Retransmission;

/// A message that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Transmission {
    pub(super) exchange: ExchangeId,
    pub(super) port: Port,
    pub(super) message_id: u16,
    pub(super) datagram: Vec<u8>,
    pub(super) retransmission: Retransmission,
}

impl Transmission {
    pub(super) fn deadline(&self) -> Instant {
        self.retransmission.deadline()
    }
}
