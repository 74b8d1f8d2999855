//! Stand-in for the node while it is written on another branch.

use std::net::SocketAddr;

use crate::config::Config;
use crate::datadir::{DataDir, DataDirError};

/// Stand-in.
pub struct Node {
    _data_dir: DataDir,
}

/// Stand-in.
pub struct Builder(Config);

/// Stand-in.
#[derive(Default)]
pub struct Addresses {
    /// NATS.
    pub nats: Option<SocketAddr>,
    /// CoAP.
    pub coap: Option<SocketAddr>,
    /// HTTP.
    pub http: Option<SocketAddr>,
}

/// Stand-in.
pub type StartError = DataDirError;

impl Builder {
    /// Stand-in.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.0 = config;
        self
    }

    /// Stand-in.
    ///
    /// # Errors
    /// The data directory's.
    pub fn start(self) -> Result<Node, StartError> {
        Ok(Node { _data_dir: DataDir::open(&self.0.node.data_dir)? })
    }
}

impl Node {
    /// Stand-in.
    #[must_use]
    pub fn builder() -> Builder {
        Builder(Config::default())
    }

    /// Stand-in.
    #[must_use]
    pub fn name(&self) -> &str {
        "stand-in"
    }

    /// Stand-in.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses::default()
    }

    /// Stand-in.
    pub fn reload(&self, _config: Config) {}

    /// Stand-in.
    pub async fn drain(self) {}
}
