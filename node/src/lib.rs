//! Waymeet's node: listeners around the core, and the program's configuration.

pub mod config;
pub mod datadir;
mod node;

pub use node::{Builder, Node, StartError};
