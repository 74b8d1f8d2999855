//! The options of CONNECT.
//!
//! Owns their names, types and defaults as nats-server 2.15 takes them. It must not decide what follows
//! from them; that is the session's.

use serde::Deserialize;

/// What a client says of itself. Unknown members are passed over, as in nats-server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConnectOptions {
    /// Every operation is answered by `+OK`.
    pub verbose: bool,
    /// Subjects are checked strictly. Ours always are; the member is kept for the record.
    pub pedantic: bool,
    /// The client receives its own messages.
    pub echo: bool,
    /// The client understands HMSG.
    pub headers: bool,
    /// A request that nobody can answer is answered by a message with status 503.
    pub no_responders: bool,
    /// 0, or 1 when the client understands INFO at any time.
    pub protocol: i64,
    /// The client's name, for people.
    pub name: String,
    /// The client library's language.
    pub lang: String,
    /// The client library's version.
    pub version: String,
}

impl Default for ConnectOptions {
    /// What holds before CONNECT and for members that it leaves out.
    fn default() -> Self {
        Self {
            verbose: true,
            pedantic: true,
            echo: true,
            headers: false,
            no_responders: false,
            protocol: 0,
            name: String::new(),
            lang: String::new(),
            version: String::new(),
        }
    }
}
