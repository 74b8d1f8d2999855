//! The node under attack: how it is configured, and its addresses beyond the three that every node has.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use socket2::SockRef;

use crate::load::node::{Running, free_datagram_port, free_port};
use crate::shell;

/// What the node is configured for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// As it comes, but with short times for slow clients.
    Plain,
    /// CoAP on every address of this machine, for everybody.
    Open,
    /// Every listener there is, TLS where it can be had, users, and a subject that is denied to others.
    Full,
}

/// A node and where it can be reached.
pub struct Target {
    pub node: Running,
    /// `tls` and the mesh's ports are there with [`Setup::Full`] only.
    pub lines: SocketAddr,
    pub datagrams: SocketAddr,
    pub dtls: SocketAddr,
    pub mesh: SocketAddr,
    pub mesh_websocket: SocketAddr,
}

/// Short, so that the end of the time is a part of what is measured.
const TIMES: &str = "limits.http.header_read_timeout = '2s'\nlimits.http.body_read_timeout = '2s'\n\
                     limits.tls.handshake_timeout = '2s'\nlimits.dtls.handshake_timeout = '2s'\n\
                     log.level = 'error'\n";
/// In hex, as `psk_file` has it. Nobody in an attack gets as far as to need it.
const KEY: &str = "000102030405060708090a0b0c0d0e0f";

impl Target {
    pub fn start(program: &Path, folder: &Path, setup: Setup) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let [lines, mesh, mesh_websocket] = [free_port()?, free_port()?, free_port()?];
        let [datagrams, dtls] = [free_datagram_port()?, free_datagram_port()?];
        let mut target_config = String::from(TIMES);
        let mut coap = free_datagram_port()?;
        match setup {
            Setup::Plain => {}
            Setup::Open => {
                coap.set_ip(IpAddr::from([0, 0, 0, 0]));
                target_config += "auth.anonymous = true\n";
            }
            Setup::Full => {
                certificates(program, folder)?;
                std::fs::write(folder.join("sensor.psk"), KEY)?;
                let tls = format!(
                    "mode = 'optional'\ncertificate_file = '{0}/certs/server.pem'\nkey_file = '{0}/certs/server-key.pem'",
                    folder.display()
                );
                write!(
                    target_config,
                    "[auth]\nanonymous = true\n[auth.defaults]\npublish = {{ deny = ['denied.>'] }}\n\
                     [[auth.users]]\nname = 'sensor'\npsk_file = '{}/sensor.psk'\n\
                     [listeners.nats.tls]\n{tls}\n[listeners.http.tls]\n{tls}\n\
                     [listeners.coap.dtls]\naddress = '{dtls}'\n\
                     [[listeners.lines]]\naddress = '{lines}'\nsubject = 'noise.lines'\nmode = 'publish'\n\
                     [[listeners.datagrams]]\naddress = '{datagrams}'\nsubject = 'noise.datagrams'\nmode = 'publish'\n\
                     [mesh]\naddress = '{mesh}'\nwebsocket = '{mesh_websocket}'\n",
                    folder.display()
                )?;
            }
        }
        let file = folder.join("abuse.toml");
        std::fs::write(&file, target_config)?;
        let node = Running::start_with(program, folder, coap, Some(&file), setup == Setup::Full)?;
        Ok(Self { node, lines, datagrams, dtls, mesh, mesh_websocket })
    }
}

fn certificates(program: &Path, folder: &Path) -> Result<()> {
    let certificates = folder.join("certs");
    if !certificates.join("server.pem").is_file() {
        shell::run(Command::new(program).args(["auth", "dev-certs"]).arg(certificates))?;
    }
    Ok(())
}

/// Connects so that closing leaves nothing behind: many thousand connections in TIME_WAIT would use up the ports of
/// what comes after.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
    Ok(stream)
}

/// An address of this machine that is not loopback, if it has one. Nothing is sent to find it, and what is sent to it
/// does not leave the machine.
pub fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // TEST-NET-3 (RFC 5737); connecting a UDP socket only asks for the route.
    socket.connect("203.0.113.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    // It can be bound to, so it is ours.
    (!address.is_loopback() && TcpListener::bind((address, 0)).is_ok()).then_some(address)
}
