//! `[auth]`: who may connect, how they prove it, and what they may do; and `[limits.auth]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::value::{Secret, duration};

/// `[auth]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// Whether clients without credentials are let in: from other machines too where there are no users, and
    /// besides the users where there are. Default false.
    pub anonymous: bool,
    /// `[auth.defaults]`: what holds for a user who says nothing else. Default: everything is permitted.
    pub defaults: UserDefaults,
    /// `[[auth.users]]`. Default: none, and then nobody is asked who he is.
    pub users: Vec<User>,
}

/// `[auth.defaults]`. A user's own key replaces the one here as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserDefaults {
    /// What may be published. Default: everything.
    pub publish: Option<Permissions>,
    /// What may be subscribed to. Default: everything.
    pub subscribe: Option<Permissions>,
    /// Whether replies may be published to the reply subject of a message that was received. Default: no.
    pub allow_responses: Option<AllowResponses>,
    /// `[auth.defaults.limits]`.
    pub limits: Option<UserLimits>,
}

/// `[[auth.users]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's name. Required. The user `anonymous` has no credentials: its rules are those of clients
    /// without any.
    pub name: String,
    /// The Argon2id hash of the password, as `waymeet auth hash` prints it.
    #[serde(default)]
    pub password_hash: Option<Secret>,
    /// The Argon2id hash of a bearer token.
    #[serde(default)]
    pub token_hash: Option<Secret>,
    /// The public user key.
    #[serde(default)]
    pub nkey: Option<String>,
    /// The common name, an alternative name or the whole subject of a client certificate; DNS names in lower case.
    #[serde(default)]
    pub certificate: Option<String>,
    /// A file that holds the pre-shared key for DTLS, in hex.
    #[serde(default)]
    pub psk_file: Option<PathBuf>,
    /// What the user may publish. Default: as `[auth.defaults]` says, else everything.
    #[serde(default)]
    pub publish: Option<Permissions>,
    /// What the user may subscribe to. Default: as `[auth.defaults]` says, else everything.
    #[serde(default)]
    pub subscribe: Option<Permissions>,
    /// Whether replies may be published to the reply subject of a message that was received, besides what
    /// `publish` allows and unless it denies it. Default: as `[auth.defaults]` says, else no.
    #[serde(default)]
    pub allow_responses: Option<AllowResponses>,
    /// How much the user may do. Default: as `[auth.defaults]` says, else as much as anybody.
    #[serde(default)]
    pub limits: Option<UserLimits>,
}

/// Filters that are allowed and denied; deny wins. A filter may be followed by a space and a pattern of queue
/// groups, and then speaks of subscriptions in these groups only. `{{user}}` stands for the user's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Permissions {
    /// `None` means everything, an empty list nothing.
    pub allow: Option<Vec<String>>,
    /// Default: nothing is denied.
    pub deny: Vec<String>,
}

/// How many replies a received request allows, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AllowResponses {
    /// Default 1.
    pub count: u32,
    /// Default 1 m.
    #[serde(with = "duration")]
    pub expires: Duration,
}

impl Default for AllowResponses {
    fn default() -> Self {
        Self { count: 1, expires: Duration::from_secs(60) }
    }
}

/// How much one user may do, over all of its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserLimits {
    /// Messages that it may publish in a second; a second's worth may come at once. Default: no bound.
    pub messages_per_second: Option<u64>,
    /// Bytes of headers and payloads that it may publish in a second. Default: no bound.
    pub bytes_per_second: Option<u64>,
    /// NATS sessions and event streams at once. Default: `limits.max_connections`.
    pub max_connections: Option<usize>,
}

/// `[limits.auth]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthLimits {
    /// How long a NATS client may take to prove who it is. Default 5 s; nats-server's 2 s are short for a node
    /// that many clients come back to at once, as each password takes some 20 ms.
    #[serde(with = "duration")]
    pub login_timeout: Duration,
    /// NATS clients at once that have not proved yet who they are. Default 4,096.
    pub max_unproved: usize,
    /// Passwords and tokens that are verified at once, each in about 19 MiB of memory. Default 2.
    pub max_verifications: usize,
    /// Passwords and tokens that wait for their verification; further logins are refused. Default 256.
    pub max_waiting_verifications: usize,
    /// Verdicts on passwords and tokens that are remembered, under a keyed hash. Default 4,096.
    pub verdict_cache_entries: usize,
    /// How long a verdict is remembered. Default 5 m.
    #[serde(with = "duration")]
    pub verdict_cache_time: Duration,
    /// Failed logins of one address within a minute after which it is refused without a look. Default 30.
    pub max_failures_per_minute: usize,
    /// Logins of web browsers at the console. Default 4,096; the oldest goes first.
    pub max_browser_logins: usize,
    /// How long a web browser stays logged in. Default 12 h.
    #[serde(with = "duration")]
    pub browser_login_time: Duration,
}

impl Default for AuthLimits {
    fn default() -> Self {
        Self {
            login_timeout: Duration::from_secs(5),
            max_unproved: 4_096,
            max_verifications: 2,
            max_waiting_verifications: 256,
            verdict_cache_entries: 4_096,
            verdict_cache_time: Duration::from_secs(300),
            max_failures_per_minute: 30,
            max_browser_logins: 4_096,
            browser_login_time: Duration::from_secs(12 * 3_600),
        }
    }
}
