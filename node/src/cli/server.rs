//! Which server a client command talks to, as it is written on the command line.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The protocol by which a client command talks to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// NATS over TCP.
    Nats,
    /// NATS over TCP, with TLS.
    Tls,
    /// CoAP over UDP; only `waymeet pub` speaks it.
    Coap,
    /// RESP over TCP; only measured, by `waymeet bench`.
    Redis,
    /// MQTT over TCP; only measured, by `waymeet bench`.
    Mqtt,
    /// HTTP; only `waymeet bench sse` speaks it.
    Http,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Nats | Self::Tls => 4222,
            Self::Coap => 5683,
            Self::Redis => 6379,
            Self::Mqtt => 1883,
            Self::Http => 80,
        }
    }
}

/// `nats://host:port`, `coap://host:port` or `http://host:port`; `host:port` and `host` alone mean NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub scheme: Scheme,
    /// A name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// From `nats://name:password@host`.
    pub credentials: Option<Credentials>,
}

/// A user's name and password; the password may be said elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub name: String,
    pub password: Option<String>,
}

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("expected a token".to_owned()) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:***", self.name)
    }
}

impl fmt::Display for Server {
    /// Host and port, as a person would type them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Credentials {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, password) = match text.split_once(':') {
            Some((name, password)) => (name, Some(password.to_owned())),
            None => (text, None),
        };
        if name.is_empty() {
            return Err("expected name or name:password".to_owned());
        }
        Ok(Self { name: name.to_owned(), password })
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a server such as nats://127.0.0.1:4222".to_owned();
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Nats, text),
            Some(("nats", rest)) => (Scheme::Nats, rest),
            Some(("tls", rest)) => (Scheme::Tls, rest),
            Some(("coap", rest)) => (Scheme::Coap, rest),
            Some(("redis", rest)) => (Scheme::Redis, rest),
            Some(("mqtt", rest)) => (Scheme::Mqtt, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some((other, _)) => return Err(format!("{other}:// is not spoken here; {}", expected())),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials.parse()?), address),
            None => (None, rest),
        };
        let (host, port) = split_port(address).ok_or_else(expected)?;
        let port = match port {
            Some(port) => port.parse().map_err(|_| expected())?,
            None => scheme.default_port(),
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(expected());
        }
        Ok(Self { scheme, host: host.to_owned(), port, credentials })
    }
}

/// `host`, `host:port`, `[v6]` and `[v6]:port`; a bare IPv6 address is a host.
fn split_port(address: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match port {
            "" => Some((host, None)),
            port => Some((host, Some(port.strip_prefix(':')?))),
        };
    }
    if address.parse::<Ipv6Addr>().is_ok() {
        return Some((address, None));
    }
    match address.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((address, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_written_in_several_ways() {
        for (text, shown) in [
            ("nats://127.0.0.1:4333", "127.0.0.1:4333"),
            ("nats://localhost", "localhost:4222"),
            ("localhost:1/", "localhost:1"),
            ("[::1]:5", "[::1]:5"),
            ("::1", "[::1]:4222"),
            ("nats://u:p@h:1", "h:1"),
            ("tls://h", "h:4222"),
            ("coap://h", "h:5683"),
            ("redis://h", "h:6379"),
            ("mqtt://h:1", "h:1"),
            ("http://h/", "h:80"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), shown, "{text}");
        }
        let server: Server = "nats://u:p@ss:w@h".parse().unwrap();
        let credentials = server.credentials.clone().unwrap();
        assert_eq!((credentials.name.as_str(), credentials.password.as_deref()), ("u", Some("p@ss:w")));
        assert!(!format!("{server:?}").contains("p@ss"));
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in
            ["", "https://h", "h:", "h:x", "h:65536", "nats://", "[::1", "[x]:1", "[::1]x", ":p@h", "a b"]
        {
            assert!(text.parse::<Server>().is_err(), "{text:?}");
        }
    }
}
