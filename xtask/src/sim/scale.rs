//! Figures.
use anyhow::Result;
pub fn run(_nodes: &[usize], _svg: bool) -> Result<()> {
    Ok(())
}
