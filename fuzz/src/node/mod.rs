//! Targets of what is in the node and not in core. They are built with the feature `node`, which brings all of it along.

mod client_certificate;
mod configuration;
mod secrets;

pub use client_certificate::client_certificate;
pub use configuration::configuration;
pub use secrets::secrets;
