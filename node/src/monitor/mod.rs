//! What nats-server's monitoring port answers, for the tools that are written for it: nats-top, its Prometheus exporter.
//!
//! Owns `/varz`, `/connz`, `/subsz` and `/routez` in the shapes of nats-server 2.15. A member that this node has no figure
//! for is left out; none is made up. It must not decide who may ask: whoever may see all sessions.

mod connz;
mod server;
mod subsz;
mod text;

use serde_json::Value;

use crate::handle::NodeHandle;

pub(crate) use connz::ConnzQuery;
pub(crate) use subsz::SubszQuery;

/// As many as nats-server shows when nobody says how many.
const DEFAULT_LIMIT: usize = 1_024;
/// The most connections or subscriptions in one answer.
const MAX_LIMIT: usize = 65_536;
/// The one account that there is, under nats-server's name for it.
const ACCOUNT: &str = "$G";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// `/varz`: the server.
    Varz,
    /// `/connz`: its connections, here all sessions.
    Connz(ConnzQuery),
    /// `/subsz`: its subscriptions.
    Subsz(SubszQuery),
    /// `/routez`: the links to other nodes.
    Routez,
}

/// Why a question makes no sense. Whoever asks is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuestionError {
    /// A parameter is no number, or too large.
    #[error("offset and cid are numbers, limit is one up to {MAX_LIMIT}")]
    Number,
    /// nats-server does not know the order either.
    #[error(
        "invalid sorting option; there are cid, start, subs, pending, msgs_to, msgs_from, bytes_to, bytes_from, last, idle, uptime and rtt"
    )]
    Sort,
    /// This node keeps no connections that have ended.
    #[error("only open connections are kept; those that have ended stand in the log")]
    State,
    /// The subject to test is none.
    #[error("test is a subject")]
    Test,
}

impl Question {
    /// The question behind a path without its slash, if it is one of these.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "varz" => Self::Varz,
            "connz" => Self::Connz(ConnzQuery::default()),
            // nats-server knows both names.
            "subsz" | "subscriptionsz" => Self::Subsz(SubszQuery::default()),
            "routez" => Self::Routez,
            _ => return None,
        })
    }

    /// Takes over one parameter; unknown ones mean nothing.
    ///
    /// # Errors
    /// When its value makes no sense.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), QuestionError> {
        match self {
            Self::Connz(query) => query.set(name, value),
            Self::Subsz(query) => query.set(name, value),
            Self::Varz | Self::Routez => Ok(()),
        }
    }

    /// The answer. Takes time in proportion to what there is.
    pub(crate) fn answer(&self, node: &NodeHandle) -> Value {
        match self {
            Self::Varz => server::varz(node),
            Self::Connz(query) => query.answer(node),
            Self::Subsz(query) => query.answer(node),
            Self::Routez => server::routez(node),
        }
    }
}

/// `limit` and `offset`, which several questions have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    limit: usize,
    offset: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, offset: 0 }
    }
}

impl Page {
    /// Takes over one of its two parameters.
    fn set(&mut self, name: &str, value: &str) -> Result<(), QuestionError> {
        let number: usize = value.parse().map_err(|_| QuestionError::Number)?;
        match name {
            "offset" => self.offset = number,
            // As in nats-server none at all means the default.
            _ if number == 0 => self.limit = DEFAULT_LIMIT,
            _ if number <= MAX_LIMIT => self.limit = number,
            _ => return Err(QuestionError::Number),
        }
        Ok(())
    }
}

/// Whether a parameter switches something on, as Go reads a bool.
fn is_on(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}
