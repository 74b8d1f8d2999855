//! placeholder
use super::Failure;
use clap::Args;
#[derive(Debug, Args)]
pub struct BenchArgs {}
pub fn bench(_: &BenchArgs) -> Result<(), Failure> {
    Ok(())
}
