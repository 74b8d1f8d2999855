//! The node's answer to who its peers are, for clients that speak NATS.
//!
//! Owns the subject. HTTP and CoAP have `/peers`; what is answered is the same.

use waymeet_core::{Filter, Message};

use crate::handle::NodeHandle;
use crate::metrics::Listener;
use crate::outbox::{Item, MailboxLimits};
use crate::publisher::{Origin, Reach};
use crate::subscription::NODES_OWN;

/// Where requests come in. As all of `$SYS` it stays on the node, and it is the one subject there that clients
/// may publish to.
pub(crate) const SUBJECT: &str = "$SYS.REQ.PEERS";
/// Requests that wait; the oldest give way.
const LIMITS: MailboxLimits = MailboxLimits { messages: 64, bytes: 256 << 10 };

/// Answers until the node drains.
pub(crate) async fn serve(node: NodeHandle) {
    let mut mailbox = node.mailbox(Listener::Embedded, LIMITS);
    let filter = Filter::new(SUBJECT).expect("it is a filter");
    if mailbox.subscribe(filter, None, NODES_OWN).is_err() {
        return;
    }
    while let Some(item) = mailbox.recv().await {
        let Item::Message { delivery, .. } = item else { continue };
        let Some(reply) = delivery.message().reply else { continue };
        let peers = node.peers().to_json();
        let answer = Message::new(reply, &peers);
        let origin = Origin { listener: Listener::Embedded, session: 0, trusted: false, policy: None };
        node.shared.batch(Listener::Embedded, |publisher| {
            publisher.publish_to(origin, &(&answer).into(), Reach::Here)
        });
    }
}
