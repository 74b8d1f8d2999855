//! `waymeet auth`: what a node needs to know its clients by.
//!
//! Owns the subcommands and what they say. It must not change a running node.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use waymeet::tls::dev_certs;

use super::{Failure, show};

#[derive(Debug, Args)]
pub struct AuthArgs {
    #[command(subcommand)]
    pub command: AuthCommand,
}

#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Make a certificate authority, a server's certificate for localhost and a client's, for development
    DevCerts {
        /// Where ca.pem, server.pem, server-key.pem, client.pem and client-key.pem are written
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

pub fn auth(args: &AuthArgs) -> Result<(), Failure> {
    match &args.command {
        AuthCommand::DevCerts { directory } => {
            dev_certs::write(directory)?;
            dev_certs::FILES
                .iter()
                .try_for_each(|name| show(format_args!("{}\n", directory.join(name).display())))
        }
    }
}
