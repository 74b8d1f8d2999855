//! Waymeet's node: listeners around the core, and the program's configuration.

pub mod config;
