//! The fuzz targets: one function per parser and per whole session.
//!
//! Owns what is fed to the core and what must hold of it whatever the bytes are. It must not know who
//! makes the bytes: libFuzzer does (`fuzz_targets/`), or the mutations of `src/bin/smoke.rs`. A target
//! panics when something does not hold.

mod coap;
mod coap_blocks;
mod coap_client;
mod credentials;
mod dtls;
mod lines;
mod mesh;
mod nats;
#[cfg(feature = "node")]
mod node;
mod subject;
mod websocket;

pub use coap::{coap_codec, coap_session};
pub use coap_blocks::coap_blocks;
pub use coap_client::coap_client;
pub use credentials::credentials;
pub use dtls::dtls_front;
pub use lines::raw_lines;
pub use mesh::{mesh_codec, mesh_link};
pub use nats::{nats_parser, nats_session};
#[cfg(feature = "node")]
pub use node::{client_certificate, configuration, secrets};
pub use subject::subject;
pub use websocket::websocket;

/// A target's name, which is also that of its folder in `seeds`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target. A new one gets a line here, a file in `fuzz_targets`, a `[[bin]]` in the manifest and
/// a folder in `seeds`.
#[cfg(not(feature = "node"))]
pub const TARGETS: &[Target] = &[
    ("coap_blocks", coap_blocks),
    ("coap_client", coap_client),
    ("coap_codec", coap_codec),
    ("coap_session", coap_session),
    ("credentials", credentials),
    ("dtls_front", dtls_front),
    ("mesh_codec", mesh_codec),
    ("mesh_link", mesh_link),
    ("nats_parser", nats_parser),
    ("nats_session", nats_session),
    ("raw_lines", raw_lines),
    ("subject", subject),
    ("websocket", websocket),
];

/// Those of the node, which are in `src/node`.
#[cfg(feature = "node")]
pub const TARGETS: &[Target] =
    &[("client_certificate", client_certificate), ("configuration", configuration), ("secrets", secrets)];
