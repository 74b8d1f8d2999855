//! The embedded API: a program's own way into the node that runs inside it.
//!
//! Owns the four verbs `publish`, `subscribe`, `request` and `serve` on plain texts and bytes. It must not
//! do anything that the handle does not; it only parses and wraps.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;
use waymeet_core::{Filter, Message, Subject, SubjectError};

use crate::delivery::Delivery;
use crate::handle::{Mailbox, NodeHandle, PublishError, Receipt, RequestError, SubscribeError};
use crate::metrics::Listener;
use crate::outbox::Item;

/// How many requests one [`Client::serve`] answers at once; further ones wait in its mailbox.
const MAX_SERVED_AT_ONCE: usize = 256;

/// Publishes, subscribes, requests and serves in process, without a socket. Cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use waymeet::Node;
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let node = Node::builder().without_listeners().start().await?;
///     let client = node.client();
///     let _service = client.serve("greet.*", |request| async move {
///         [b"Hello, ", request.payload()].concat()
///     })?;
///     let reply = client.request("greet.person", "Ada", Duration::from_secs(1)).await?;
///     assert_eq!(reply.payload(), b"Hello, Ada");
///     Ok(node.drain().await)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Client(NodeHandle);

/// Why a call of the embedded API failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The caller is at fault: the text is no subject or no filter.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The message was not accepted.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// There is no reply.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The subscription was not made.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
}

impl Client {
    pub(crate) fn new(handle: NodeHandle) -> Self {
        Self(handle)
    }

    /// The handle underneath, for messages with headers and for mailboxes of other sizes.
    #[must_use]
    pub fn handle(&self) -> &NodeHandle {
        &self.0
    }

    /// Publishes one message; returns once every subscriber's outbox has taken or refused it.
    ///
    /// # Errors
    /// When the subject is none, or the node does not accept the message.
    pub fn publish(&self, subject: &str, payload: impl AsRef<[u8]>) -> Result<Receipt, ClientError> {
        let message = Message::new(Subject::new(subject)?, payload.as_ref());
        Ok(self.0.publish(Listener::Embedded, &message)?)
    }

    /// Subscribes to a filter. The mailbox is as large as `limits.queue_messages` and
    /// `limits.queue_bytes` say; a reader that is slower loses the oldest messages and finds a gap.
    ///
    /// # Errors
    /// When the filter is none, or the node does not take the subscription.
    pub fn subscribe(&self, filter: &str) -> Result<Mailbox, ClientError> {
        self.mailbox(filter, None)
    }

    /// Subscribes as a member of a queue group: each message goes to one member.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub fn subscribe_queue(&self, filter: &str, queue: &str) -> Result<Mailbox, ClientError> {
        self.mailbox(filter, Some(queue))
    }

    /// Sends a request and waits for its first reply. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// At once when nobody could answer; otherwise when nobody did in time.
    pub async fn request(
        &self,
        subject: &str,
        payload: impl AsRef<[u8]>,
        timeout: Duration,
    ) -> Result<Arc<Delivery>, ClientError> {
        let message = Message::new(Subject::new(subject)?, payload.as_ref());
        Ok(self.0.request(Listener::Embedded, &message, timeout).await?)
    }

    /// Answers requests on a filter until the returned service is dropped. All services on one filter
    /// share the work: they are one queue group. Needs a tokio runtime.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub fn serve<F, R, P>(&self, filter: &str, handler: F) -> Result<Service, ClientError>
    where
        F: Fn(Arc<Delivery>) -> R + Send + Sync + 'static,
        R: Future<Output = P> + Send + 'static,
        P: AsRef<[u8]> + Send + 'static,
    {
        let mailbox = self.mailbox(filter, Some("serve"))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(answer(self.clone(), mailbox, handler));
        Ok(Service { _tasks: tasks })
    }

    fn mailbox(&self, filter: &str, queue: Option<&str>) -> Result<Mailbox, ClientError> {
        let mailbox = self.0.mailbox(Listener::Embedded, self.0.mailbox_limits());
        mailbox.subscribe(Filter::new(filter)?, queue, 0)?;
        Ok(mailbox)
    }
}

/// A running service; dropping it ends the subscription and every answer that is under way.
#[derive(Debug)]
pub struct Service {
    _tasks: JoinSet<()>,
}

async fn answer<F, R, P>(client: Client, mut mailbox: Mailbox, handler: F)
where
    F: Fn(Arc<Delivery>) -> R,
    R: Future<Output = P> + Send + 'static,
    P: AsRef<[u8]> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_SERVED_AT_ONCE));
    let mut answers = JoinSet::new();
    while let Some(item) = mailbox.recv().await {
        // So that a service that is asked without end lets others run too.
        consume_budget().await;
        // A gap is counted already; who asked will find its time-out.
        let Item::Message { delivery, .. } = item else { continue };
        let mut answer = Box::pin(AssertUnwindSafe(handler(delivery.clone())).catch_unwind());
        // Most answers are there at once, and then no task is made for them.
        if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
            reply(&client, &delivery, answer);
            continue;
        }
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while answers.try_join_next().is_some() {}
        let client = client.clone();
        answers.spawn(async move {
            reply(&client, &delivery, answer.await);
            drop(place);
        });
    }
    while answers.join_next().await.is_some() {}
}

/// Publishes an answer where one is expected. A handler that panicked has none.
fn reply<P: AsRef<[u8]>>(client: &Client, request: &Delivery, answer: std::thread::Result<P>) {
    let subject = request.message().subject;
    let Ok(payload) = answer else {
        return tracing::error!(%subject, "a service panicked and answers nothing");
    };
    if let Some(reply) = request.message().reply {
        let message = Message::new(reply, payload.as_ref());
        if let Err(error) = client.0.publish_counting(Listener::Embedded, &message) {
            tracing::warn!(%error, %subject, "an answer was lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Node;

    #[tokio::test]
    async fn a_service_answers_at_once_or_later_and_outlives_a_panic() {
        let node = node().await;
        let client = node.client();
        let _service = client.serve("work.*", |request| async move {
            match request.payload() {
                b"panic" => panic!("the test asked for it"),
                b"later" => tokio::task::yield_now().await,
                _ => {}
            }
            request.payload().to_ascii_uppercase()
        });
        let wait = Duration::from_secs(60);
        let panicked = client.request("work.a", "panic", Duration::from_millis(20)).await;
        assert_eq!(panicked.unwrap_err(), RequestError::Timeout.into());
        for (asked, answer) in [("now", "NOW"), ("later", "LATER"), ("", "")] {
            let reply = client.request("work.a", asked, wait).await.unwrap();
            assert_eq!(reply.payload(), answer.as_bytes());
        }
    }

    async fn node() -> Node {
        Node::builder().without_listeners().workers(1).start().await.expect("nothing can be taken")
    }

    #[tokio::test]
    async fn messages_reach_subscribers_and_one_member_of_each_group() {
        let node = node().await;
        let client = node.client();
        let mut all = client.subscribe("a.>").unwrap();
        let mut members =
            [client.subscribe_queue("a.*", "q").unwrap(), client.subscribe_queue("a.b", "q").unwrap()];
        let receipt = client.publish("a.b", "x").unwrap();
        assert_eq!((receipt.delivered, receipt.forwarded, receipt.dropped), (2, 0, 0));
        assert!(matches!(all.recv().await, Some(Item::Message { .. })));
        let received = members.iter_mut().filter_map(Mailbox::try_recv).count();
        assert_eq!(received, 1);
        assert_eq!(client.publish("b", "x").unwrap().delivered, 0);
        node.drain().await;
        assert!(all.recv().await.is_none(), "a drained node ends its mailboxes");
    }

    #[tokio::test]
    async fn filters_of_one_tag_deliver_a_message_once() {
        let node = node().await;
        let handle = node.handle();
        let mut mailbox = handle.mailbox(Listener::Embedded, handle.mailbox_limits());
        mailbox.subscribe(Filter::new("a.*").unwrap(), None, 7).unwrap();
        mailbox.subscribe(Filter::new("a.b").unwrap(), None, 7).unwrap();
        mailbox.subscribe(Filter::new(">").unwrap(), None, 8).unwrap();
        assert_eq!(node.client().publish("a.b", "x").unwrap().delivered, 2);
        let mut tags = Vec::new();
        while let Some(Item::Message { tag, .. }) = mailbox.try_recv() {
            tags.push(tag);
        }
        tags.sort_unstable();
        assert_eq!(tags, [7, 8]);
    }

    #[tokio::test]
    async fn requests_fail_visibly() {
        let node = node().await;
        let client = node.client();
        let wait = Duration::from_millis(20);
        let nobody = client.request("nobody", "", Duration::from_secs(60)).await;
        assert_eq!(nobody.unwrap_err(), RequestError::NoResponders.into());
        let silent = client.subscribe("silent").unwrap();
        assert_eq!(client.request("silent", "", wait).await.unwrap_err(), RequestError::Timeout.into());
        drop(silent);
        let large = vec![0; node.handle().config().limits.max_payload_bytes + 1];
        let refused = client.publish("a", &large).unwrap_err();
        assert!(matches!(refused, ClientError::Publish(PublishError::PayloadTooLarge { .. })), "{refused}");
        assert!(matches!(
            client.publish("$SYS.a", ""),
            Err(ClientError::Publish(PublishError::NoPermission))
        ));
        assert!(matches!(client.publish("a..b", ""), Err(ClientError::Subject(SubjectError::EmptyToken))));
        assert_eq!(node.handle().metrics().drops(crate::DropReason::PayloadTooLarge), 1);
    }
}
