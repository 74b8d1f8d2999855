//! The subject of a raw message: fixed, or with the sender's address in it.
//!
//! Owns how an address becomes part of a token. It must not read configuration files.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use waymeet_core::{Subject, SubjectError};

/// The sender's address and port.
const PEER: &str = "{peer}";
/// The sender's address without its port.
const ADDRESS: &str = "{address}";

/// Why a text is no subject for a raw listener. The writer of the configuration is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("{0}")]
    Subject(#[from] SubjectError),
    #[error("in braces only {{peer}} (address and port) and {{address}} are known")]
    Unknown,
}

/// A subject in which `{peer}` and `{address}` stand for the sender.
///
/// `{peer}` becomes the address and the port, `{address}` the address alone. Whatever would part tokens or is
/// unusual in one becomes an underscore: `127.0.0.1:54321` is `127_0_0_1_54321`, `[2001:db8::1]:7` is
/// `2001_db8__1_7`. An IPv4 address that arrives over an IPv6 socket is written as IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubjectTemplate {
    text: Box<str>,
    has_sender: bool,
}

impl SubjectTemplate {
    /// # Errors
    /// When no sender at all would give a subject.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        // The longest that an address can be written as, so that the subject of every sender is short enough.
        let longest = SocketAddr::new(IpAddr::V6(Ipv6Addr::from([0xff; 16])), u16::MAX);
        let sample = fill(text, longest);
        if sample.contains(['{', '}']) {
            return Err(TemplateError::Unknown);
        }
        Subject::new(&sample)?;
        Ok(Self { has_sender: sample != text, text: text.into() })
    }

    /// The subject of what this sender sends.
    pub(crate) fn of(&self, sender: SocketAddr) -> Cow<'_, str> {
        if self.has_sender { Cow::Owned(fill(&self.text, sender)) } else { Cow::Borrowed(&self.text) }
    }
}

fn fill(text: &str, sender: SocketAddr) -> String {
    let address = sender.ip().to_canonical().to_string().replace(['.', ':'], "_");
    text.replace(PEER, &format!("{address}_{}", sender.port())).replace(ADDRESS, &address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_become_tokens() {
        for (sender, peer, address) in [
            ("127.0.0.1:54321", "127_0_0_1_54321", "127_0_0_1"),
            ("[::1]:5", "__1_5", "__1"),
            ("[2001:db8::a]:65535", "2001_db8__a_65535", "2001_db8__a"),
            ("[fe80::1%3]:1", "fe80__1_1", "fe80__1"),
            ("[::ffff:192.0.2.1]:80", "192_0_2_1_80", "192_0_2_1"),
        ] {
            let sender = sender.parse().unwrap();
            let template = SubjectTemplate::parse("gps.{peer}.{address}.x").unwrap();
            let subject = template.of(sender).into_owned();
            assert_eq!(subject, format!("gps.{peer}.{address}.x"));
            assert_eq!(Subject::new(&subject).unwrap().tokens().count(), 4);
        }
        let fixed = SubjectTemplate::parse("legacy.lines").unwrap();
        assert!(matches!(fixed.of("127.0.0.1:1".parse().unwrap()), Cow::Borrowed("legacy.lines")));
    }

    #[test]
    fn what_can_be_no_subject_is_refused_at_once() {
        assert_eq!(SubjectTemplate::parse("a..b"), Err(SubjectError::EmptyToken.into()));
        assert_eq!(SubjectTemplate::parse("a.*"), Err(SubjectError::Wildcard.into()));
        assert_eq!(SubjectTemplate::parse(""), Err(SubjectError::Empty.into()));
        for unknown in ["a.{per}", "a.{", "{}", "{peer }"] {
            assert_eq!(SubjectTemplate::parse(unknown), Err(TemplateError::Unknown), "{unknown}");
        }
        let nearly_too_long = format!("{}.{{peer}}", "a".repeat(3_990));
        assert_eq!(SubjectTemplate::parse(&nearly_too_long), Err(SubjectError::TooLong.into()));
    }
}
