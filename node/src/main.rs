//! The program `waymeet`. What it does stands in `cli`.

mod cli;
mod log;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
