//! The HTTP client of everything here that asks other servers: over TLS or in the clear, as the URL has it.
//!
//! Owns how connections are made and kept. Whom to believe is `client`'s; it must not ask anything itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;

/// A client that keeps connections.
pub type HttpsClient<B> = Client<HttpsConnector<HttpConnector>, B>;

/// What bounds a client's connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How many unused connections to a server are kept.
    pub max_idle: usize,
}

/// A client of HTTP/1.1 with these certificates and bounds.
#[must_use]
pub fn https_client<B>(tls: &Arc<ClientConfig>, bounds: Bounds) -> HttpsClient<B>
where
    B: Body<Data = Bytes> + Send,
{
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(bounds.connect_timeout));
    // Whether TLS is spoken is what the layer above looks after.
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config((**tls).clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(bounds.idle_timeout)
        .pool_max_idle_per_host(bounds.max_idle)
        .build(connector)
}
