//! The node's configuration: every key, its type and its default.
//!
//! Owns reading it from a TOML file, the environment over the file and command-line flags over both,
//! and saying precisely what is wrong with it. It must not act on it: files that it names are opened by
//! those who need them.
//!
//! Every key is also an environment variable, two underscores between the parts of its path:
//! `WAYMEET_LISTENERS__NATS__ADDRESS`. A list in a variable is written as in TOML or, for plain texts,
//! with commas.

mod auth;
mod auth_check;
mod effective;
mod layers;
mod limits;
mod problem;
mod raw;
mod reader;
mod sections;
mod share;
mod upstream;
mod validate;
mod value;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use auth::{AllowResponses, Auth, AuthLimits, Permissions, User, UserDefaults, UserLimits};
pub use layers::{FlagSetting, FlagValue, Layers, Origin};
pub use limits::{CoapLimits, DtlsLimits, HttpLimits, Limits, TlsLimits};
pub use problem::{ConfigError, Problem};
pub use raw::{DatagramListener, LineListener, RawMode};
pub use sections::{
    CoapListener, Dtls, HttpListener, Listeners, Log, LogFormat, LogLevel, Mesh, NatsListener, NodeSection,
    Telemetry, Tls, TlsMode,
};
pub use share::Share;
pub use upstream::{Coap, CoapUpstream, Http, HttpUpstream};
pub use value::{Address, AddressError, DurationError, Secret, format_duration, parse_duration};

/// A node's whole configuration. `Config::default()` is what a node without any configuration uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `[node]`: what the node is called and where it keeps its files.
    pub node: NodeSection,
    /// `[listeners.*]`: which protocols are spoken on which addresses.
    pub listeners: Listeners,
    /// `[mesh]`: links to other nodes.
    pub mesh: Mesh,
    /// `[auth]`: who may connect, and what they may do.
    pub auth: Auth,
    /// `[limits]`: the bound of every queue, buffer, table and count.
    pub limits: Limits,
    /// `[telemetry]`: metrics and traces.
    pub telemetry: Telemetry,
    /// `[log]`: what is logged, and in which form.
    pub log: Log,
    /// `[http]`: HTTP services that answer requests.
    pub http: Http,
    /// `[coap]`: CoAP servers that answer requests.
    pub coap: Coap,
}

impl Config {
    /// Reads, merges and checks all layers.
    ///
    /// # Errors
    /// Names everything that is wrong: unknown keys, values of a wrong type and settings that do not
    /// go together, each with the line, the variable or the flag that holds it.
    pub fn load(layers: &Layers) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let root = layers.merge(&mut problems);
        Self::from_tree(root, problems)
    }

    /// Reads and checks one TOML text. `path` stands in errors only.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let root = layers::read_toml(text, path, &mut problems);
        Self::from_tree(root, problems)
    }

    fn from_tree(root: layers::Table, mut problems: Vec<Problem>) -> Result<Self, ConfigError> {
        let root = layers::Value::Table(root);
        let mut config = reader::read::<Self>(&root, effective::known_keys, &mut problems);
        if let Some(config) = &mut config
            && config.mesh.lan
            && !layers::is_written(&root, "mesh.address")
        {
            config.mesh.address = Mesh::LAN_ADDRESS;
        }
        if let Some(config) = &config {
            for mut problem in config.validate() {
                problem.origin = problem.key.as_ref().and_then(|key| layers::origin_of(&root, key));
                problems.push(problem);
            }
        }
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems }),
        }
    }
}
