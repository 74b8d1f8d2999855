//! The node's handle in the hands of clients.
//!
//! Owns acting on behalf of a user, and the places that connections take. It must not route.

use std::net::IpAddr;

use super::{Place, Who};
use crate::handle::NodeHandle;
use crate::metrics::Limit;

impl NodeHandle {
    /// The same node on behalf of a user, whose permissions hold for all that is done with it.
    pub(crate) fn acting_as(&self, user: Who) -> Self {
        Self { user, ..self.clone() }
    }

    /// Takes a place for a client's connection; `None` when there are too many, or too many of its address.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Place> {
        if self.is_full() {
            self.metrics().limit_reached(Limit::MaxConnections);
            return None;
        }
        if self.shared.exchange.budget.is_exhausted() {
            self.metrics().limit_reached(Limit::BufferBytes);
            return None;
        }
        let place = self.shared.clients.admit(address, self.shared.config.limits.max_connections_per_address);
        if place.is_none() {
            self.metrics().limit_reached(Limit::MaxConnectionsPerAddress);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Node;
    use crate::config::{Address, Config};

    #[tokio::test]
    async fn an_address_too_often_is_refused_and_counted() {
        let mut config = Config::default();
        config.listeners.nats.address = Address::Off;
        config.listeners.coap.address = Address::Off;
        config.listeners.http.address = Address::Off;
        config.mesh.address = Address::Off;
        config.limits.max_connections_per_address = 1;
        let node = Node::builder().config(config).workers(1).start().await.unwrap();
        let handle = node.handle();
        let one = handle.admit("192.0.2.1".parse().unwrap()).unwrap();
        assert!(handle.admit("192.0.2.1".parse().unwrap()).is_none());
        assert!(handle.admit("192.0.2.2".parse().unwrap()).is_some());
        drop(one);
        assert!(handle.admit("192.0.2.1".parse().unwrap()).is_some());
        assert_eq!(handle.metrics().limits_reached(Limit::MaxConnectionsPerAddress), 1);
    }
}
