//! What a node prints when it has started: every address, and three commands to try.
//!
//! Owns the choice of the commands. Each goes through another protocol and they meet: the first shows
//! what the other two send. They need nothing but this program and curl.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The addresses that a node listens on, with the ports that it was given; `None` for a listener that is
/// off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    pub nats: Option<SocketAddr>,
    pub coap: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub mesh: Option<SocketAddr>,
    pub coaps: Option<SocketAddr>,
    /// Whether clients have to speak TLS.
    pub nats_tls: bool,
    pub http_tls: bool,
}

/// A raw listener.
pub struct Raw {
    /// `lines` or `datagrams`.
    pub listener: &'static str,
    pub address: SocketAddr,
    /// `request` or `publish`.
    pub mode: &'static str,
    pub subject: String,
}

/// The banner, ready to be printed.
pub struct Banner<'a> {
    /// The node's name.
    pub name: &'a str,
    pub addresses: Addresses,
    /// As the configuration has them.
    pub raw: Vec<Raw>,
    pub data_dir: &'a Path,
    /// How this program is called from a shell.
    pub program: &'a str,
    /// Whether clients without credentials are let in from other machines.
    pub anonymous: bool,
    /// The node's id among its peers.
    pub id: &'a str,
    /// Where other nodes link over WebSocket.
    pub mesh_websocket: Option<SocketAddr>,
    /// Whether the nodes of the mesh share a secret.
    pub has_mesh_secret: bool,
    /// How many users there are; then clients have to log in.
    pub users: usize,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "waymeet {}, node {}\n", env!("CARGO_PKG_VERSION"), self.name)?;
        let Addresses { nats, coap, http, mesh, coaps, nats_tls, http_tls } = self.addresses;
        let nats_scheme = if nats_tls { "tls" } else { "nats" };
        let http_scheme = if http_tls { "https" } else { "http" };
        for (name, scheme, address, path) in
            [("NATS", nats_scheme, nats, ""), ("CoAP", "coap", coap, ""), ("HTTP", http_scheme, http, "/")]
        {
            match address {
                Some(address) => writeln!(f, "  {name:<9}{scheme}://{address}{path}")?,
                None => writeln!(f, "  {name:<9}off")?,
            }
        }
        if let Some(address) = coaps {
            writeln!(f, "  {:<9}coaps://{address}", "CoAP")?;
        }
        for Raw { listener, address, mode, subject } in &self.raw {
            let scheme = if *listener == "lines" { "tcp" } else { "udp" };
            writeln!(f, "  {listener:<8} {scheme}://{address} ({mode} {subject})")?;
        }
        match mesh {
            Some(address) if self.has_mesh_secret => writeln!(f, "  mesh     {address} (TCP and QUIC)")?,
            // Design, section 9: said at every start.
            Some(address) => writeln!(
                f,
                "  mesh     {address} (TCP and QUIC), without a secret: only private and loopback addresses"
            )?,
            None => writeln!(f, "  mesh     off")?,
        }
        if let Some(address) = self.mesh_websocket {
            writeln!(f, "  mesh     {address} (WebSocket)")?;
        }
        if mesh.is_some() {
            writeln!(f, "  peer id  {}", self.id)?;
        }
        if let Some(address) = http {
            writeln!(f, "  console  {http_scheme}://{}/", reachable(address))?;
        }
        writeln!(f, "  data     {}", self.data_dir.display())?;
        if self.users > 0 {
            let others = if self.anonymous { "; others are anonymous" } else { "" };
            writeln!(f, "  users    {}; name one with --user, or with -u of curl{others}", self.users)?;
        } else if self.anonymous {
            writeln!(f, "\nClients are let in without credentials, from other machines too.")?;
        }
        let commands = self.commands();
        if !commands.is_empty() {
            writeln!(f, "\nTry, the first in a terminal of its own:\n")?;
        }
        for (protocol, command) in commands {
            writeln!(f, "  {command}\n      {protocol}")?;
        }
        Ok(())
    }
}

impl Banner<'_> {
    /// Who receives, then who sends.
    fn commands(&self) -> Vec<(&'static str, String)> {
        let Addresses { nats, coap, http, nats_tls, http_tls, .. } = self.addresses;
        // Which authority is to be believed is not known here, and a command that fails is worse than none.
        let (nats, http) = (nats.filter(|_| !nats_tls), http.filter(|_| !http_tls));
        let mut commands = Vec::new();
        if let Some(address) = nats {
            let mut command = format!("{} sub 'demo.>'", self.program);
            let address = reachable(address);
            if address != SocketAddr::from((Ipv4Addr::LOCALHOST, 4222)) {
                // Writing into a String cannot fail.
                let _ = write!(command, " --server nats://{address}");
            }
            commands.push(("a NATS client, over TCP: receives what is published below", command));
        } else if let Some(address) = http {
            let command = format!("curl -N http://{}/sub/demo.**", reachable(address));
            commands.push(("an HTTP client: receives what is published below", command));
        }
        if let Some(address) = http {
            let command = format!("curl -d hello http://{}/pub/demo.greeting", reachable(address));
            commands.push(("an HTTP client: publishes, and gets a receipt", command));
        }
        if let Some(address) = coap {
            let address = reachable(address);
            let command = format!("{} pub demo.greeting hi --server coap://{address}", self.program);
            commands.push(("a CoAP client, over UDP: publishes", command));
        }
        commands
    }
}

/// The address by which this machine reaches a listener, where it listens on all of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// How this program is called from any shell: by its name when it was found by that, else by its path.
pub fn program() -> String {
    let called = std::env::args().next().unwrap_or_else(|| "waymeet".to_owned());
    if !called.contains(std::path::MAIN_SEPARATOR) {
        return called;
    }
    let path = std::env::current_exe().map_or(called, |path| path.display().to_string());
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(addresses: Addresses) -> String {
        let raw = |listener, port| Raw {
            listener,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            mode: "request",
            subject: "legacy.x".to_owned(),
        };
        let raw = vec![raw("lines", 1_234), raw("datagrams", 9_876)];
        let data_dir = Path::new("./d");
        let banner = Banner {
            name: "n",
            addresses,
            raw,
            data_dir,
            program: "waymeet",
            anonymous: false,
            id: "12D3",
            mesh_websocket: None,
            has_mesh_secret: false,
            users: 0,
        };
        banner.to_string()
    }

    #[test]
    fn every_address_is_named_with_its_real_port() {
        let text = printed(Addresses {
            nats: Some("127.0.0.1:4222".parse().unwrap()),
            coap: Some("127.0.0.1:40001".parse().unwrap()),
            http: Some("0.0.0.0:40002".parse().unwrap()),
            mesh: Some("127.0.0.1:4224".parse().unwrap()),
            ..Addresses::default()
        });
        for line in [
            "  NATS     nats://127.0.0.1:4222\n",
            "  CoAP     coap://127.0.0.1:40001\n",
            "  HTTP     http://0.0.0.0:40002/\n",
            "  lines    tcp://127.0.0.1:1234 (request legacy.x)\n",
            "  datagrams udp://127.0.0.1:9876 (request legacy.x)\n",
            "  console  http://127.0.0.1:40002/\n",
            "  mesh     127.0.0.1:4224 (TCP and QUIC), without a secret",
            "  peer id  12D3\n",
            "  waymeet sub 'demo.>'\n",
            "  curl -d hello http://127.0.0.1:40002/pub/demo.greeting\n",
            "  waymeet pub demo.greeting hi --server coap://127.0.0.1:40001\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn nothing_is_suggested_that_cannot_work() {
        let text = printed(Addresses { http: Some("[::]:1".parse().unwrap()), ..Addresses::default() });
        assert!(
            text.contains("NATS     off") && text.contains("curl -N http://[::1]:1/sub/demo.**"),
            "{text}"
        );
        assert!(!text.contains("waymeet sub") && !text.contains("coap://"), "{text}");
        let text = printed(Addresses { nats: Some("127.0.0.1:9".parse().unwrap()), ..Addresses::default() });
        assert!(text.contains("sub 'demo.>' --server nats://127.0.0.1:9\n"), "{text}");
        assert!(!printed(Addresses::default()).contains("Try"));
        let address = "127.0.0.1:9".parse().ok();
        let tls = Addresses {
            nats_tls: true,
            http_tls: true,
            nats: address,
            http: address,
            ..Addresses::default()
        };
        let text = printed(Addresses { coaps: address, ..tls });
        for line in [
            "NATS     tls://127.0.0.1:9\n",
            "HTTP     https://127.0.0.1:9/\n",
            "CoAP     coaps://127.0.0.1:9\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("Try"), "{text}");
    }
}
