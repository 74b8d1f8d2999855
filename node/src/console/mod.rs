//! The console: the page at `/`, embedded in the program.
//!
//! Owns the page's files and the facts about the node that are put into it. It must not serve them; the HTTP
//! listener does, under a policy that lets the page load nothing but itself.

use crate::handle::NodeInfo;

/// `/console.js`.
pub const SCRIPT: &str = include_str!("console.js");
/// `/console.css`.
pub const STYLE: &str = include_str!("console.css");
const PAGE: &str = include_str!("index.html");
/// What stands in the page for the facts.
const FACTS_MARK: &str = "{facts}";

/// The page, with the node's facts in it.
#[must_use]
pub fn page(_node: &NodeInfo) -> String {
    PAGE.replace(FACTS_MARK, "{}")
}
