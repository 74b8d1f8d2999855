//! The console: the page at `/`, embedded in the program, and what it is told of the node.
//!
//! Owns the page's files and the facts about the node that are put into it. It must not serve them; the HTTP
//! listener does, under a policy that lets the page load nothing but itself. The page is made from `console/` at the
//! top of the repository; what is made stands in `built/`, so that nobody who builds the program needs Node.js.

mod history;
mod links;
mod overview;
mod subjects;
mod traffic;

use serde::Serialize;

use crate::handle::NodeHandle;
use crate::metrics::Listener;
pub(crate) use overview::{Console, Sight, events, serve};
pub(crate) use subjects::{MAX_LEVELS, Question};

/// `/console.js`.
pub(crate) const SCRIPT: &str = include_str!("built/console.js");
/// `/console.css`.
pub(crate) const STYLE: &str = include_str!("built/console.css");
const PAGE: &str = include_str!("index.html");
const LOGIN: &str = include_str!("login.html");
/// What stands in the page that asks for a login for the reason.
const NOTICE_MARK: &str = "{notice}";
/// What stands in the page for the facts.
const FACTS_MARK: &str = "{facts}";

/// What the script knows without asking.
#[derive(Serialize)]
struct Facts<'a> {
    id: &'a str,
    name: &'a str,
    version: &'a str,
    /// To those who may see what passes there.
    listeners: Vec<Row>,
    /// Who looks; nobody where nobody is asked.
    user: Option<&'a str>,
    sees: Sight,
}

/// One row of the table of listeners.
#[derive(Serialize)]
struct Row {
    listener: &'static str,
    address: String,
}

/// The page, with the node's facts in it, for whoever the handle acts for.
pub(crate) fn page(node: &NodeHandle) -> String {
    let info = node.info();
    let nothing = Sight { traffic: false, peers: false, sessions: false };
    let sees = Sight::of(&node.user).unwrap_or(nothing);
    let user = node.user.as_ref().map(|user| user.name());
    let mut listeners = Vec::new();
    for (listener, address) in node.addresses().into_iter().filter(|_| sees.traffic) {
        listeners.push(Row { listener: listener.as_str(), address: address.to_string() });
        if listener == Listener::Http {
            let address = format!("ws://{address}");
            listeners.push(Row { listener: Listener::WebSocket.as_str(), address });
        }
    }
    let facts = Facts { id: &info.id, name: &info.name, version: info.version, listeners, user, sees };
    PAGE.replace(FACTS_MARK, &embedded_json(&facts))
}

/// The page that asks who somebody is, and says why. Nothing of the node stands in it.
pub(crate) fn login(notice: &str) -> String {
    LOGIN.replace(NOTICE_MARK, &notice.replace('&', "&amp;").replace('<', "&lt;"))
}

/// JSON that can stand in a script element: no text in it ends the element or opens a comment.
fn embedded_json(facts: &Facts<'_>) -> String {
    serde_json::to_string(facts).expect("a struct of strings is always JSON").replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_cannot_leave_their_element() {
        let name = "</script><script>alert(1)</script><!--";
        let sees = Sight { traffic: true, peers: true, sessions: true };
        let facts = Facts { id: "N", name, version: "0", listeners: Vec::new(), user: None, sees };
        let json = embedded_json(&facts);
        assert!(!json.contains('<'));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["name"], name);
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for text in [PAGE, SCRIPT, STYLE] {
            let mut urls = text.match_indices("//").filter(|(at, _)| {
                let before = &text[..*at];
                before.ends_with("http:") || before.ends_with("https:")
            });
            // Namespaces, SVG among them, are names and not fetched.
            assert!(urls.all(|(at, _)| text[at..].starts_with("//www.w3.org/")));
        }
        assert_eq!(PAGE.matches(FACTS_MARK).count(), 1);
        assert!(!PAGE.contains("style=") && !PAGE.contains("onclick"), "the policy forbids inline code");
    }
}
