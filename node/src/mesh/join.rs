//! The addresses of `--join`: `host:port`, or a multiaddress.
//!
//! Owns reading them and asking the system for the addresses of names. It must not dial.

use std::net::SocketAddr;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 8;
/// How long the system may take to resolve a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where another node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JoinAddress {
    /// TCP and QUIC are tried.
    HostPort {
        /// A name or an IP address, without brackets.
        host: String,
        port: u16,
    },
    /// As it stands.
    Exact(Multiaddr),
}

/// Why a text is no address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected host:port, such as 192.0.2.7:4224, or a multiaddress, such as /ip4/192.0.2.7/udp/4224/quic-v1"
)]
pub(crate) struct JoinAddressError;

impl std::str::FromStr for JoinAddress {
    type Err = JoinAddressError;

    fn from_str(text: &str) -> Result<Self, JoinAddressError> {
        if text.starts_with('/') {
            let address: Multiaddr = text.parse().map_err(|_| JoinAddressError)?;
            // Something that can be connected to has at least a host and a port.
            return if address.iter().count() >= 2 {
                Ok(Self::Exact(address))
            } else {
                Err(JoinAddressError)
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(JoinAddressError)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(JoinAddressError)?;
        let is_name = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
        if is_name { Ok(Self::HostPort { host: host.to_owned(), port }) } else { Err(JoinAddressError) }
    }
}

impl JoinAddress {
    /// What to dial, the best first. Empty when the name cannot be resolved now.
    pub(super) async fn resolve(&self) -> Vec<Multiaddr> {
        match self {
            Self::HostPort { host, port } => {
                let addresses = lookup(host, *port).await;
                let tcp = addresses.iter().map(|address| with_port(address, false));
                tcp.chain(addresses.iter().map(|address| with_port(address, true))).collect()
            }
            Self::Exact(address) => {
                let name = match address.iter().next() {
                    Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
                        name.into_owned()
                    }
                    _ => return vec![address.clone()],
                };
                let only = address.iter().next().map(|part| part.tag());
                let fits = |found: &&SocketAddr| match only {
                    Some("dns4") => found.is_ipv4(),
                    Some("dns6") => found.is_ipv6(),
                    _ => true,
                };
                let found = lookup(&name, 0).await;
                let with_ip = |found: &SocketAddr| {
                    std::iter::once(Protocol::from(found.ip())).chain(address.iter().skip(1)).collect()
                };
                found.iter().filter(fits).map(with_ip).collect()
            }
        }
    }
}

async fn lookup(host: &str, port: u16) -> Vec<SocketAddr> {
    match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect(),
        Ok(Err(error)) => {
            tracing::debug!(host, %error, "a name to join was not resolved");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

fn with_port(address: &SocketAddr, quic: bool) -> Multiaddr {
    let multiaddr = Multiaddr::from(address.ip());
    if quic {
        multiaddr.with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
    } else {
        multiaddr.with(Protocol::Tcp(address.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let host = |host: &str, port| Ok(JoinAddress::HostPort { host: host.to_owned(), port });
        assert_eq!("node.example:4224".parse(), host("node.example", 4224));
        assert_eq!("[::1]:1".parse(), host("::1", 1));
        for wrong in
            ["", "host", "host:", ":1", "host:0", "host:70000", "a b:1", "/ip4/1.2.3.4", "/nonsense/1"]
        {
            assert_eq!(wrong.parse::<JoinAddress>(), Err(JoinAddressError), "{wrong}");
        }
        let exact = "/ip4/127.0.0.1/tcp/1/ws";
        assert_eq!(exact.parse(), Ok(JoinAddress::Exact(exact.parse().unwrap())));
    }

    #[tokio::test]
    async fn host_and_port_are_tried_over_tcp_before_quic() {
        let join: JoinAddress = "127.0.0.1:4224".parse().unwrap();
        let texts: Vec<String> = join.resolve().await.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["/ip4/127.0.0.1/tcp/4224", "/ip4/127.0.0.1/udp/4224/quic-v1"]);
        let join: JoinAddress = "/dns4/localhost/tcp/9/ws".parse().unwrap();
        let texts: Vec<String> = join.resolve().await.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["/ip4/127.0.0.1/tcp/9/ws"]);
    }
}
