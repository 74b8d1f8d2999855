//! Who is measured: the node, its examples, and its peers.
//!
//! Owns where each program comes from, how it is configured so that the comparison is fair, and how one
//! sees that it is ready. Running it is `server`'s.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{install, linked, secured};

/// A program that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// A node with its listeners on.
    Node,
    /// A node inside of a program that answers `bench.echo` (`node/examples/echo_service.rs`).
    EchoService,
    NatsServer,
    Redis,
    Mosquitto,
    Nginx,
    /// hyper without a node around it (`node/examples/bare_hyper.rs`).
    BareHyper,
    /// The same, for events (`node/examples/bare_sse.rs`).
    BareSse,
    /// libcoap's own server.
    Libcoap,
    /// Sends each datagram back as it came (`node/examples/bare_udp.rs`).
    BareUdp,
    /// Two nodes, linked over TCP.
    Mesh,
    /// Two nodes, linked over QUIC.
    MeshQuic,
    /// Two nats-servers, joined by a route.
    Routes,
    /// The same, with TLS on the route.
    RoutesTls,
    /// Two routers of zenoh, loaded by its Python clients.
    Zenoh,
    /// A node whose clients have permissions.
    Guarded,
    /// A nats-server whose clients have the same.
    GuardedNats,
    /// The same two, with TLS on top.
    Sealed,
    SealedNats,
}

/// The protocol that a measurement speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Nats,
    /// The same over TLS.
    NatsTls,
    Redis,
    Mqtt,
    Http,
    Coap,
    /// None: datagrams that happen to be CoAP's, passed on as they are.
    Datagrams,
    /// NATS, at the second of two servers.
    FarNats,
    Zenoh,
    /// zenoh, at the second of two routers.
    FarZenoh,
    /// By which the first of two servers is joined by the second.
    Link,
}

/// How one sees that a server is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// A PING on the NATS port is answered.
    Pong,
    /// The port takes connections.
    Connects,
    /// A datagram is answered: a CoAP PUT, which also leaves 16 bytes to ask libcoap for.
    Answers,
}

impl Contestant {
    /// Its name in tables and in the file of results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "waymeet",
            Self::EchoService => "waymeet (embedded)",
            Self::NatsServer => "nats-server",
            Self::Redis => "redis",
            Self::Mosquitto => "mosquitto",
            Self::Nginx => "nginx",
            Self::BareHyper => "bare hyper",
            Self::BareSse => "bare hyper (SSE)",
            Self::Libcoap => "libcoap",
            Self::BareUdp => "bare UDP echo",
            Self::Mesh => "waymeet, linked",
            Self::MeshQuic => "waymeet, linked by QUIC",
            Self::Routes => "nats-server, route",
            Self::RoutesTls => "nats-server, TLS route",
            Self::Zenoh => "zenoh",
            Self::Guarded => "waymeet, permissions",
            Self::GuardedNats => "nats-server, permissions",
            Self::Sealed => "waymeet, permissions and TLS",
            Self::SealedNats => "nats-server, permissions and TLS",
        }
    }

    /// Whether it asks its clients who they are.
    fn is_secured(self) -> bool {
        matches!(self, Self::Guarded | Self::GuardedNats | Self::Sealed | Self::SealedNats)
    }

    /// Whether it is two servers.
    pub fn is_linked(self) -> bool {
        matches!(self, Self::Mesh | Self::MeshQuic | Self::Routes | Self::RoutesTls | Self::Zenoh)
    }

    /// What its version is told of.
    pub fn program(self) -> &'static str {
        match self {
            Self::Mesh | Self::MeshQuic | Self::Guarded | Self::Sealed => Self::Node.name(),
            Self::Routes | Self::RoutesTls | Self::GuardedNats | Self::SealedNats => Self::NatsServer.name(),
            other => other.name(),
        }
    }

    /// The protocols of its addresses, in the order in which it is given them.
    pub fn schemes(self) -> &'static [Scheme] {
        match self {
            Self::Node => &[Scheme::Nats, Scheme::Http, Scheme::Coap],
            Self::EchoService => &[Scheme::Http, Scheme::Coap, Scheme::Datagrams],
            Self::NatsServer | Self::Guarded | Self::GuardedNats => &[Scheme::Nats],
            Self::Sealed | Self::SealedNats => &[Scheme::NatsTls],
            Self::Redis => &[Scheme::Redis],
            Self::Mosquitto => &[Scheme::Mqtt],
            Self::Nginx | Self::BareHyper | Self::BareSse => &[Scheme::Http],
            Self::Libcoap | Self::BareUdp => &[Scheme::Coap],
            Self::Mesh | Self::MeshQuic | Self::Routes | Self::RoutesTls => {
                &[Scheme::Nats, Scheme::FarNats, Scheme::Link]
            }
            // A router is joined where its clients are.
            Self::Zenoh => &[Scheme::Zenoh, Scheme::FarZenoh],
        }
    }

    pub fn ready(self) -> Ready {
        match self {
            Self::Node | Self::NatsServer => Ready::Pong,
            Self::Mesh | Self::MeshQuic | Self::Routes | Self::RoutesTls => Ready::Pong,
            Self::Libcoap | Self::BareUdp => Ready::Answers,
            _ => Ready::Connects,
        }
    }

    /// Whether its absence is a defect of ours; a missing peer is only said.
    pub fn is_built_here(self) -> bool {
        self.example().is_some() || self.program() == Self::Node.name()
    }

    /// The example of the node's crate that it is.
    fn example(self) -> Option<&'static str> {
        match self {
            Self::EchoService => Some("echo_service"),
            Self::BareHyper => Some("bare_hyper"),
            Self::BareSse => Some("bare_sse"),
            Self::BareUdp => Some("bare_udp"),
            _ => None,
        }
    }

    /// Builds or fetches it, and gives its program.
    pub fn install(self) -> Result<PathBuf> {
        if let Some(example) = self.example() {
            return install::build(&["--example", example], &format!("examples/{example}"));
        }
        match self {
            _ if self.program() == Self::Node.name() => install::build(&["--bin", "waymeet"], "waymeet"),
            _ if self.program() == Self::NatsServer.name() => install::nats_server(),
            Self::Zenoh => install::zenoh(),
            Self::Redis => install::debian(&["redis-server"], "redis-server"),
            Self::Mosquitto => install::debian(&["mosquitto"], "mosquitto"),
            Self::Nginx => install::debian(&["nginx"], "nginx-light"),
            Self::Libcoap => install::debian(&["coap-server-notls", "coap-server"], "libcoap3-bin"),
            other => bail!("{} comes from nowhere", other.name()),
        }
    }

    /// Its version in a word or two.
    pub fn version(self, program: &Path) -> Result<String> {
        let argument = match self {
            Self::Mosquitto => "-h",
            Self::Nginx => "-v",
            Self::Libcoap => "-?",
            Self::Zenoh => return Ok(install::zenoh_version().to_owned()),
            _ if self.example().is_some() => return Ok(env!("CARGO_PKG_VERSION").to_owned()),
            _ => "--version",
        };
        // Some tell it on standard error, and with a status that says that nothing was done.
        let output = Command::new(program).arg(argument).output()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let is_version = |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
        let word = text.split([' ', '\n', '=', '/', '(', ')', ',']).find(is_version);
        let word = word.with_context(|| format!("{} tells no version", self.name()))?;
        Ok(word.trim_start_matches('v').to_owned())
    }

    /// The commands that run it at `addresses`, one for each of its schemes: one command for each of its servers.
    /// `folder` is its own.
    pub fn commands(
        self,
        program: &Path,
        addresses: &[SocketAddr],
        folder: &Path,
    ) -> Result<Vec<Vec<String>>> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        if self.is_linked() {
            return linked::commands(self, program, addresses, folder);
        }
        Ok(vec![self.command(program, addresses, folder)?])
    }

    fn command(self, program: &Path, addresses: &[SocketAddr], folder: &Path) -> Result<Vec<String>> {
        let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let address = addresses[0];
        let (ip, port) = (address.ip(), address.port());
        let in_folder = |name: &str| folder.join(name).display().to_string();
        let mut command = vec![program.display().to_string()];
        command.extend(match self {
            _ if self.is_secured() => secured::command(self, address, folder)?,
            Self::Node => {
                let [nats, http, coap] = addresses else { bail!("a node has three addresses") };
                let mut node =
                    words(format!("serve --mesh off --nats {nats} --http {http} --coap {coap} --data-dir"));
                node.push(in_folder("data"));
                node
            }
            Self::EchoService => {
                let [http, coap, raw] = addresses else { bail!("the service has three addresses") };
                words(format!("--http {http} --coap {coap} --datagrams {raw}"))
            }
            Self::NatsServer => words(format!("--addr {ip} --port {port}")),
            Self::Redis => {
                let mut redis = words(format!(
                    "--bind {ip} --port {port} --appendonly no --loglevel warning \
                     --client-output-buffer-limit"
                ));
                // No persistence, and no limit that would end a subscriber within the window.
                redis.extend(["pubsub 0 0 0", "--save", ""].map(str::to_owned));
                redis
            }
            Self::Mosquitto => {
                let file = in_folder("mosquitto.conf");
                fs::write(&file, mosquitto(address))?;
                vec!["-c".to_owned(), file]
            }
            Self::Nginx => {
                let file = in_folder("nginx.conf");
                fs::write(&file, nginx(address, folder))?;
                vec!["-p".to_owned(), folder.display().to_string(), "-c".to_owned(), file]
            }
            Self::BareHyper | Self::BareSse | Self::BareUdp => vec![address.to_string()],
            // POST is for resources that were made by PUT only; 10 of these may be made.
            Self::Libcoap => words(format!("-A {ip} -p {port} -d 10 -v 0")),
            other => bail!("{} is more than one server", other.name()),
        });
        Ok(command)
    }

    /// What the generator is told on top: so that a measurement ends in time, or that it is let in.
    pub fn generator_arguments(self, folder: &Path) -> Vec<String> {
        match self {
            // It moves small messages some forty times slower; 4 to 32 MiB of them are seconds.
            Self::Mosquitto => ["--window", "2097152"].map(str::to_owned).into(),
            _ if self.is_secured() => secured::generator_arguments(self, folder),
            _ => Vec::new(),
        }
    }
}

impl Scheme {
    /// As in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats | Self::FarNats | Self::Link => "nats",
            Self::NatsTls => "tls",
            Self::Zenoh | Self::FarZenoh => "tcp",
            Self::Redis => "redis",
            Self::Mqtt => "mqtt",
            Self::Http => "http",
            Self::Coap | Self::Datagrams => "coap",
        }
    }

    pub fn is_udp(self) -> bool {
        matches!(self, Self::Coap | Self::Datagrams)
    }
}

/// No persistence, no log, no bound on what waits for a subscriber.
fn mosquitto(address: SocketAddr) -> String {
    format!(
        "listener {} {}\nallow_anonymous true\npersistence false\nlog_dest none\nsys_interval 0\n\
         max_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n",
        address.port(),
        address.ip()
    )
}

/// One process, no log, and connections that are never closed for having been used often.
fn nginx(address: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {folder}/{name};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log /dev/null crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n{temporary}  \
         server {{ listen {address}; location / {{ return 204; }} }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_their_addresses() {
        let folder = std::env::temp_dir().join(format!("waymeet-bench-{}", std::process::id()));
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = [address(1), address(2), address(3)];
        for contestant in [Contestant::Node, Contestant::EchoService, Contestant::Redis, Contestant::BareUdp]
        {
            let own = &addresses[..contestant.schemes().len()];
            let command = contestant.commands(Path::new("/x"), own, &folder).unwrap().concat().join(" ");
            assert!(command.starts_with("/x "), "{command}");
            for address in own {
                let port = address.port().to_string();
                assert!(command.split([' ', ':']).any(|word| word == port), "{command}");
            }
        }
        let command = Contestant::Nginx.commands(Path::new("/x"), &addresses[..1], &folder).unwrap().concat();
        let written = fs::read_to_string(command.last().unwrap()).unwrap();
        assert!(written.contains("listen 127.0.0.1:1;"), "{written}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
