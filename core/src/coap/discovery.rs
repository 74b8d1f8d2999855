//! `/.well-known/core`: what a client that knows nothing can ask for (RFC 6690).
//!
//! Owns the list of resources and the filtering of section 4.1. It must not look at the node's state; the
//! list is the resource space itself.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::LazyLock;

/// Where the list is.
pub(super) const PATH: [&[u8]; 2] = [b".well-known", b"core"];

/// The whole list, which most clients ask for: written once.
static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| filtered(std::iter::empty()));

struct Link {
    path: &'static str,
    /// Resource types, separated by spaces.
    resource_types: &'static str,
    /// Interface descriptions, separated by spaces.
    interfaces: &'static str,
    title: &'static str,
    /// Content-Formats, separated by spaces.
    content_formats: &'static str,
    observable: bool,
}

const LINKS: &[Link] = &[
    link("/.well-known/core", "", "", "What there is", "40"),
    link("/pub", "waymeet.publish", "waymeet.subject", "POST /pub/{subject} publishes", ""),
    link("/req", "waymeet.request", "waymeet.subject", "POST or GET /req/{subject} asks", ""),
    Link {
        observable: true,
        ..link(
            "/sub",
            "waymeet.subscribe",
            "waymeet.filter",
            "Observe /sub/{filter}; Accept 50 for the envelope",
            "50 42",
        )
    },
    link("/peers", "waymeet.peers", "", "The nodes that are reachable", "50"),
    link("/healthz", "waymeet.health", "", "Whether the node runs", "50"),
    link("/readyz", "waymeet.ready", "", "Whether the node takes work", "50"),
    link("/metrics", "waymeet.metrics", "", "Counters in Prometheus text format", "0"),
];

const fn link(
    path: &'static str,
    resource_types: &'static str,
    interfaces: &'static str,
    title: &'static str,
    content_formats: &'static str,
) -> Link {
    Link { path, resource_types, interfaces, title, content_formats, observable: false }
}

/// The list in link format, without the links that a `name=value` query rules out. Several queries must all
/// hold; one that is not `name=value` rules nothing out.
pub(super) fn links<'a>(queries: impl Iterator<Item = &'a [u8]> + Clone) -> Cow<'static, [u8]> {
    if queries.clone().next().is_none() {
        return Cow::Borrowed(ALL.as_slice());
    }
    filtered(queries).into()
}

fn filtered<'a>(queries: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let mut out = String::new();
    for link in LINKS {
        let wanted = queries.clone().all(|query| {
            std::str::from_utf8(query).is_ok_and(|query| match query.split_once('=') {
                Some((name, value)) => link.matches(name, value),
                None => link.matches(query, "*"),
            })
        });
        if wanted {
            link.write(&mut out);
        }
    }
    out.into_bytes()
}

impl Link {
    /// Section 4.1: an exact match with the attribute's value, or with one of its values where it is a list
    /// (`rt`, `if`; `ct` since RFC 7252, section 7.2.1); a final `*` stands for anything.
    fn matches(&self, name: &str, pattern: &str) -> bool {
        let fits = |value: &str| match pattern.strip_suffix('*') {
            Some(prefix) => value.starts_with(prefix),
            None => value == pattern,
        };
        match name {
            "href" => fits(self.path),
            "rt" => self.resource_types.split_ascii_whitespace().any(fits),
            "if" => self.interfaces.split_ascii_whitespace().any(fits),
            "ct" => self.content_formats.split_ascii_whitespace().any(fits),
            "title" => fits(self.title),
            // An attribute without a value: it is there or it is not.
            "obs" => self.observable && fits(""),
            _ => false,
        }
    }

    fn write(&self, out: &mut String) {
        if !out.is_empty() {
            out.push(',');
        }
        let _ = write!(out, "<{}>", self.path);
        let quoted = [("rt", self.resource_types), ("if", self.interfaces), ("title", self.title)];
        for (name, value) in quoted {
            if !value.is_empty() {
                let _ = write!(out, ";{name}=\"{value}\"");
            }
        }
        if self.content_formats.contains(' ') {
            let _ = write!(out, ";ct=\"{}\"", self.content_formats);
        } else if !self.content_formats.is_empty() {
            let _ = write!(out, ";ct={}", self.content_formats);
        }
        if self.observable {
            out.push_str(";obs");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(queries: &[&str]) -> Vec<String> {
        let text = String::from_utf8(links(queries.iter().map(|q| q.as_bytes())).into_owned()).unwrap();
        text.split(",<")
            .filter(|l| !l.is_empty())
            .map(|l| l.split_once('>').unwrap().0.replace('<', ""))
            .collect()
    }

    #[test]
    fn the_list_is_in_link_format() {
        let text = String::from_utf8(links([].into_iter()).into_owned()).unwrap();
        assert!(
            text.starts_with(
                "</.well-known/core>;title=\"What there is\";ct=40,</pub>;rt=\"waymeet.publish\""
            )
        );
        assert!(text.contains(";ct=\"50 42\";obs,"));
        assert_eq!(list(&[]).len(), LINKS.len());
    }

    #[test]
    fn queries_filter_it() {
        assert_eq!(list(&["rt=waymeet.publish"]), ["/pub"]);
        assert_eq!(list(&["href=/p*"]), ["/pub", "/peers"]);
        assert_eq!(list(&["if=waymeet.*"]), ["/pub", "/req", "/sub"]);
        assert_eq!(list(&["ct=50"]), ["/sub", "/peers", "/healthz", "/readyz"]);
        assert_eq!(list(&["obs"]), ["/sub"]);
        assert_eq!(list(&["if=*", "rt=waymeet.request"]), ["/req"]);
        assert!(list(&["rt=nothing"]).is_empty());
        assert!(list(&["unknown=*"]).is_empty());
    }
}
