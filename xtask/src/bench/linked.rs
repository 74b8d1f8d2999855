//! Two servers that are linked: how each kind is run, and what only two can be asked.
//!
//! Owns the link's configuration on both sides, so that the comparison is fair, and the first message across. The
//! rates across are `waymeet bench`'s, but for zenoh, whose clients are a script.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::contestants::{Contestant, Scheme};
use super::install;
use super::measure::{Conditions, WARMUP_SECONDS, number};
use super::rows::Sample;
use super::server::Running;
use crate::shell;

/// How often is published until the first message arrives. It bounds what the time is measured to.
const PUBLISH_EVERY: Duration = Duration::from_micros(500);
/// How long two servers may take to link.
const FIRST_TIMEOUT: Duration = Duration::from_secs(30);
/// zenoh's routers and its load.
const ZENOH_SCRIPT: &str = include_str!("zenoh_pair.py");

/// The commands of both servers; the second joins the first.
pub fn commands(
    contestant: Contestant,
    program: &Path,
    addresses: &[SocketAddr],
    folder: &Path,
) -> Result<Vec<Vec<String>>> {
    let program = program.display().to_string();
    let servers: [Vec<String>; 2] = match (contestant, addresses) {
        (Contestant::Mesh | Contestant::MeshQuic, &[near, far, link]) => {
            let join = match contestant {
                Contestant::Mesh => format!("/ip4/{}/tcp/{}", link.ip(), link.port()),
                _ => format!("/ip4/{}/udp/{}/quic-v1", link.ip(), link.port()),
            };
            [
                node(near, &link.to_string(), None, &folder.join("near"))?,
                node(far, "127.0.0.1:0", Some(join), &folder.join("far"))?,
            ]
        }
        (Contestant::Routes, &[near, far, link]) => {
            let join = format!("nats://{link}");
            [route(near, link, None), route(far, SocketAddr::from(([127, 0, 0, 1], 0)), Some(&join))]
        }
        (Contestant::RoutesTls, &[near, far, link]) => tls_routes([near, far], link, folder)?,
        (Contestant::Zenoh, &[near, far]) => {
            let script = zenoh_script()?;
            let router = |words: &[String]| [&[script.clone(), "router".to_owned()], words].concat();
            [router(&[near.to_string()]), router(&[far.to_string(), near.to_string()])]
        }
        _ => bail!("{} is no pair of servers at {addresses:?}", contestant.name()),
    };
    Ok(servers.into_iter().map(|words| [vec![program.clone()], words].concat()).collect())
}

/// A node with its listeners on, as in every row.
fn node(nats: SocketAddr, mesh: &str, join: Option<String>, data: &Path) -> Result<Vec<String>> {
    // A node that remembers where it was linked would not need to join.
    if data.exists() {
        fs::remove_dir_all(data).with_context(|| format!("cannot empty {}", data.display()))?;
    }
    let line = format!("serve --nats {nats} --http 127.0.0.1:0 --coap 127.0.0.1:0 --mesh {mesh} --data-dir");
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    words.push(data.display().to_string());
    words.extend(join.into_iter().flat_map(|join| ["--join".to_owned(), join]));
    Ok(words)
}

fn route(nats: SocketAddr, link: SocketAddr, join: Option<&str>) -> Vec<String> {
    let port = match link.port() {
        // Any that is free.
        0 => "-1".to_owned(),
        port => port.to_string(),
    };
    let line = format!(
        "--addr {} --port {} --cluster_name bench --cluster nats://{}:{port}",
        nats.ip(),
        nats.port(),
        link.ip()
    );
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    words.extend(join.into_iter().flat_map(|join| ["--routes".to_owned(), join.to_owned()]));
    words
}

/// TLS on a route is mutual. The server that is joined shows a server's certificate, the other a client's.
fn tls_routes(nats: [SocketAddr; 2], link: SocketAddr, folder: &Path) -> Result<[Vec<String>; 2]> {
    let certificates = folder.join("certificates");
    if !certificates.is_dir() {
        let node = shell::target().join("release").join("waymeet");
        shell::output(Command::new(node).args(["auth", "dev-certs"]).arg(&certificates))?;
    }
    let certificates = certificates.display();
    let config = |name: &str, address: SocketAddr, port: &str, routes: &str| -> Result<Vec<String>> {
        let file = folder.join(format!("{name}.conf"));
        let text = format!(
            "listen: \"{address}\"\ncluster {{\n  name: bench\n  listen: \"{}:{port}\"\n  routes: [{routes}]\n  \
             tls {{\n    cert_file: \"{certificates}/{name}.pem\"\n    key_file: \"{certificates}/{name}-key.pem\"\n    \
             ca_file: \"{certificates}/ca.pem\"\n    timeout: 5\n  }}\n}}\n",
            link.ip()
        );
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(vec!["-c".to_owned(), file.display().to_string()])
    };
    Ok([
        config("server", nats[0], &link.port().to_string(), "")?,
        config("client", nats[1], "-1", &format!("\"nats://{link}\""))?,
    ])
}

fn zenoh_script() -> Result<String> {
    let file = install::folder().join("zenoh_pair.py");
    fs::write(&file, ZENOH_SCRIPT).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file.display().to_string())
}

/// The rate across two routers of zenoh.
pub fn zenoh(conditions: &Conditions, running: &Running, size: &str) -> Result<Sample> {
    let mut load = conditions.pinned(&install::zenoh()?.display().to_string());
    load.args([zenoh_script()?, "load".to_owned()]);
    load.args([running.address(Scheme::Zenoh)?, running.address(Scheme::FarZenoh)?].map(|at| at.to_string()));
    load.args(["--size", size, "--seconds", &conditions.seconds.to_string()]);
    load.args(["--warmup", &WARMUP_SECONDS.to_string()]);
    for pid in running.pids() {
        load.args(["--server-pid", &pid.to_string()]);
    }
    let outcome: Value = serde_json::from_str(&shell::output(&mut load)?)?;
    Ok(Sample {
        value: number(&outcome, "per_second")?,
        cpu_seconds_per_million: outcome["server_cpu_seconds_per_million"].as_f64(),
        ..Sample::default()
    })
}

/// From the start of the second server's process to the first message of a client of the first.
pub fn first_across(running: &Running) -> Result<Duration> {
    let mut far = greet(running.address(Scheme::FarNats)?, b"SUB bench.first 1\r\n")?;
    let mut near = greet(running.address(Scheme::Nats)?, b"")?;
    far.set_read_timeout(Some(PUBLISH_EVERY))?;
    let mut heard = [0; 256];
    while running.started_at.elapsed() < FIRST_TIMEOUT {
        near.write_all(b"PUB bench.first 2\r\nhi\r\n")?;
        match far.read(&mut heard) {
            Ok(0) => bail!("the second server has closed a connection"),
            Ok(read) if heard[..read].starts_with(b"MSG") => return Ok(running.started_at.elapsed()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("no message has come across after {} s", FIRST_TIMEOUT.as_secs())
}

/// A connection on which everything said so far was carried out.
fn greet(address: SocketAddr, setup: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(FIRST_TIMEOUT))?;
    stream.write_all(&[b"CONNECT {\"verbose\":false}\r\n", setup, b"PING\r\n"].concat())?;
    let begun = Instant::now();
    let (mut heard, mut chunk) = (Vec::new(), [0; 4_096]);
    while !heard.windows(6).any(|window| window == b"PONG\r\n") {
        let read = stream.read(&mut chunk)?;
        if read == 0 || begun.elapsed() > FIRST_TIMEOUT {
            bail!("{address} does not answer");
        }
        heard.extend_from_slice(&chunk[..read]);
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_server_joins_the_first() {
        let folder = std::env::temp_dir().join(format!("waymeet-linked-{}", std::process::id()));
        fs::create_dir_all(folder.join("certificates")).unwrap();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = [address(1), address(2), address(3)];
        for (contestant, joined) in [
            (Contestant::Mesh, "/ip4/127.0.0.1/tcp/3"),
            (Contestant::MeshQuic, "/ip4/127.0.0.1/udp/3/quic-v1"),
            (Contestant::Routes, "nats://127.0.0.1:3"),
        ] {
            let [near, far] = &commands(contestant, Path::new("/x"), &addresses, &folder).unwrap()[..] else {
                panic!("two servers")
            };
            assert_eq!(far.last().map(String::as_str), Some(joined), "{}", contestant.name());
            let joins = |word: &String| word == "--join" || word == "--routes";
            assert!(far.iter().any(joins) && !near.iter().any(joins) && near[0] == "/x", "{near:?}");
        }
        commands(Contestant::RoutesTls, Path::new("/x"), &addresses, &folder).unwrap();
        let joining = fs::read_to_string(folder.join("client.conf")).unwrap();
        assert!(joining.contains("routes: [\"nats://127.0.0.1:3\"]"), "{joining}");
        assert!(joining.contains("certificates/client.pem"), "{joining}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
