//! What the console is told while it is open: the overview as events, and the tree of subjects.
//!
//! Owns turning these into responses. It must not compute them; `console` does.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response};

use super::Service;
use super::body::Body;
use super::pages::response;
use super::problem::Problem;
use crate::auth::Connected;
use crate::console::{self, Question};
use crate::handle::NodeHandle;
use crate::metrics::SessionGuard;

/// A stream of the node's own texts, which counts as one of its streams and of its user's sessions.
pub(super) struct Texts {
    texts: Pin<Box<dyn Stream<Item = String> + Send>>,
    _counted: (SessionGuard, Option<Connected>),
}

impl Texts {
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.texts.as_mut().poll_next(cx).map(|text| text.map(Bytes::from))
    }
}

impl Service {
    /// Server-sent events until the reader leaves or the node drains.
    pub(super) fn overview(&self, node: &NodeHandle, head: &Parts) -> Result<Response<Body>, Problem> {
        let body = if head.method == Method::HEAD {
            Body::Empty
        } else {
            let counted = self.count_reader(node)?;
            let texts = Box::pin(console::events(node.clone()));
            Body::Texts(Box::new(Texts { texts, _counted: counted }))
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    /// The levels and the subjects that are asked for.
    pub(super) async fn subjects(
        &self,
        node: &NodeHandle,
        question: &Question,
    ) -> Result<Response<Body>, Problem> {
        let (node, question) = (node.clone(), question.clone());
        // A tree of very many subjects takes milliseconds, for which connections beside this one must not wait.
        let answer = tokio::task::spawn_blocking(move || {
            let shared = &node.shared;
            let policy = node.user.as_ref().map(|user| user.policy());
            let permissions = policy.as_ref().map(|policy| &policy.permissions);
            let answer =
                shared.console.subjects.ask(&shared.exchange, &question, permissions, Instant::now());
            serde_json::to_vec(&answer).expect("texts and finite numbers are always JSON")
        });
        let answer = answer.await.map_err(|_| Problem::overloaded("the node is shutting down"))?;
        Ok(response("application/json", Body::full(answer)))
    }
}
