//! `[http]` and `[coap]`: servers elsewhere that answer requests without knowing of the node.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effective::mask_credentials;
use super::value::duration;

/// `[http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// `[[http.upstream]]`: HTTP services that answer requests without knowing of the node. Default: none.
    pub upstream: Vec<HttpUpstream>,
}

/// `[[http.upstream]]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpUpstream {
    /// Requests on subjects that match this filter go to the service; the tokens that its wildcards stand for
    /// become the path. Required.
    pub subject: String,
    /// Where the service is, `http://host:port/path/` or `https://…`. Required.
    pub url: String,
    /// The authorities that an `https` service's certificate may come from, in PEM. Default: those that Mozilla trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How long the service may take to answer. Default 30 s.
    #[serde(with = "duration", default = "HttpUpstream::default_timeout")]
    pub timeout: Duration,
    /// Requests to the service at once; more are answered 503. Default 256.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
}

/// Without the credentials that the URL may have.
impl fmt::Debug for HttpUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, url, timeout, max_in_flight, ca_file } = self;
        let mut url = url.clone();
        mask_credentials(&mut url);
        f.debug_struct("HttpUpstream")
            .field("subject", subject)
            .field("url", &url)
            .field("timeout", timeout)
            .field("max_in_flight", max_in_flight)
            .field("ca_file", ca_file)
            .finish()
    }
}

impl HttpUpstream {
    fn default_timeout() -> Duration {
        Duration::from_secs(30)
    }
}

/// `[coap]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coap {
    /// `[[coap.upstream]]`: CoAP servers that answer requests. Default: none.
    pub upstream: Vec<CoapUpstream>,
}

/// `[[coap.upstream]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoapUpstream {
    /// Requests on subjects that match this filter go to the server; the tokens behind its literal beginning
    /// become the path. Required.
    pub subject: String,
    /// Where the server is, `coap://host:port/path/`. Required.
    pub uri: String,
    /// How long the server may take to answer, retransmissions included. Default 93 s: RFC 7252's
    /// `MAX_TRANSMIT_WAIT`, after which nothing is to be hoped for from a server that is silent.
    #[serde(with = "duration", default = "CoapUpstream::default_timeout")]
    pub timeout: Duration,
    /// Requests to the server at once, those that wait for their turn included; more are answered 503.
    /// Default 256.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// Requests whose acknowledgement is still to come (RFC 7252, section 4.7). Default 1, as the RFC has it;
    /// more only for a server that is known to bear it.
    #[serde(default = "CoapUpstream::default_nstart")]
    pub nstart: usize,
    /// Whether a subscription to a subject without wildcards observes the resource that it names (RFC 7641), and
    /// notifications are published there. Default true.
    #[serde(default = "CoapUpstream::default_observe")]
    pub observe: bool,
    /// Subjects whose resources are observed whether somebody subscribes or not, for subscribers with wildcards.
    /// Default: none.
    #[serde(default)]
    pub always_observe: Vec<String>,
    /// Observations of the server at once. Default 256.
    #[serde(default = "default_max_in_flight")]
    pub max_observations: usize,
}

impl CoapUpstream {
    fn default_timeout() -> Duration {
        Duration::from_secs(93)
    }

    fn default_nstart() -> usize {
        1
    }

    fn default_observe() -> bool {
        true
    }
}

fn default_max_in_flight() -> usize {
    256
}
