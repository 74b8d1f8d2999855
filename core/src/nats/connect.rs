//! The options of CONNECT.
//!
//! Owns their names, types and defaults as nats-server 2.15 takes them. It must not decide what follows
//! from them; that is the session's.

use std::fmt;

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
    /// How the client proves who it is.
    pub credentials: Credentials,
}

/// How a client proves who it is. An empty text counts as left out, because some clients always send one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `user`, with `password`.
    pub user: Option<String>,
    /// `pass`.
    pub password: Option<String>,
    /// `auth_token`.
    pub token: Option<String>,
    /// The public NKey, with `signature`.
    pub nkey: Option<String>,
    /// `sig`: the nonce of INFO, signed with that key, in base64.
    pub signature: Option<String>,
}

impl Credentials {
    /// Whether the client says nothing of who it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Secrets stay out of logs: only which members there are is shown.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = [
            ("user", self.user.is_some()),
            ("pass", self.password.is_some()),
            ("auth_token", self.token.is_some()),
            ("nkey", self.nkey.is_some()),
            ("sig", self.signature.is_some()),
        ];
        f.debug_set().entries(members.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name)).finish()
    }
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
    user: Option<String>,
    pass: Option<String>,
    auth_token: Option<String>,
    nkey: Option<String>,
    sig: Option<String>,
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
            credentials: Credentials {
                user: written(members.user),
                password: written(members.pass),
                token: written(members.auth_token),
                nkey: written(members.nkey),
                signature: written(members.sig),
            },
        }
    }
}

fn written(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
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

    #[test]
    fn secrets_are_read_and_not_shown() {
        let json = r#"{"user":"ada","pass":"hunter2","auth_token":"","sig":null}"#;
        let options: ConnectOptions = serde_json::from_str(json).unwrap();
        assert_eq!(options.credentials.password.as_deref(), Some("hunter2"));
        assert_eq!(options.credentials.token, None);
        let shown = format!("{options:?}");
        assert!(shown.contains("pass") && !shown.contains("hunter2") && !shown.contains("ada"), "{shown}");
        assert!(ConnectOptions::default().credentials.is_empty());
    }
}
