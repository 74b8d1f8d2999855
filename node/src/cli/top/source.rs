//! What `waymeet top` asks a node: `/metrics`, `/sessions` and `/peers`.
//!
//! Owns what is asked at once, and what is left out for a user who may not see it. It must not know what the answers mean.

use std::time::Instant;

use serde_json::Value;

use super::TopArgs;
use super::exposition::Samples;
use super::model::Snapshot;
use crate::cli::http::{HttpError, HttpNode};

/// A node that is looked at.
pub struct Source {
    node: HttpNode,
}

impl Source {
    /// Finds the credentials that the flags name.
    pub fn new(args: &TopArgs) -> anyhow::Result<Self> {
        Ok(Self { node: HttpNode::new("waymeet top", &args.server, &args.identity, &args.tls)? })
    }

    /// Everything there is to see. What the user may not see is left out, as long as there is anything.
    pub async fn fetch(&self, sessions_query: &str) -> Result<Snapshot, HttpError> {
        let at = Instant::now();
        let sessions_path = format!("/sessions?{sessions_query}");
        let (metrics, sessions, peers) =
            tokio::join!(self.node.get("/metrics"), self.json(&sessions_path), self.json("/peers"));
        let metrics = match metrics {
            Ok(text) => Samples::parse(&String::from_utf8_lossy(&text)),
            Err(HttpError::Forbidden(_)) => Samples::default(),
            Err(error) => return Err(error),
        };
        let optional = |answer: Result<Value, HttpError>| match answer {
            Ok(value) => Ok(Some(value)),
            Err(HttpError::Forbidden(_)) => Ok(None),
            Err(error) => Err(error),
        };
        Ok(Snapshot { at, metrics, sessions: optional(sessions)?, peers: optional(peers)? })
    }

    /// Ends a session.
    pub async fn disconnect(&self, id: u64) -> Result<(), HttpError> {
        self.node.delete(&format!("/sessions/{id}")).await
    }

    async fn json(&self, path: &str) -> Result<Value, HttpError> {
        let answer = self.node.get(path).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| HttpError::Answer { path: path.to_owned(), reason: error.to_string() })
    }
}
