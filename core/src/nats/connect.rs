//! The options of CONNECT.
//!
//! Owns their names, types and defaults as nats-server 2.15 takes them. It must not decide what follows
//! from them; that is the session's.

use serde::Deserialize;

/// What a client says of itself. Unknown members are passed over, and a member that is `null` counts as
/// left out, as in nats-server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Members")]
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
        Members::default().into()
    }
}

/// The JSON object as it may come.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Members {
    verbose: Option<bool>,
    pedantic: Option<bool>,
    echo: Option<bool>,
    headers: Option<bool>,
    no_responders: Option<bool>,
    protocol: Option<i64>,
    name: Option<String>,
    lang: Option<String>,
    version: Option<String>,
}

impl From<Members> for ConnectOptions {
    fn from(members: Members) -> Self {
        Self {
            verbose: members.verbose.unwrap_or(true),
            pedantic: members.pedantic.unwrap_or(true),
            echo: members.echo.unwrap_or(true),
            headers: members.headers.unwrap_or(false),
            no_responders: members.no_responders.unwrap_or(false),
            protocol: members.protocol.unwrap_or(0),
            name: members.name.unwrap_or_default(),
            lang: members.lang.unwrap_or_default(),
            version: members.version.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_as_good_as_nothing() {
        let options: ConnectOptions =
            serde_json::from_str(r#"{"verbose":null,"echo":false,"name":null,"jwt":null}"#).unwrap();
        assert_eq!(options, ConnectOptions { echo: false, ..ConnectOptions::default() });
    }
}
