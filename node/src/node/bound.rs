//! The listeners' sockets between the moment they are bound and the moment they are served.
//!
//! Owns that all addresses are had or none is, and what a person reads when one is taken. It must not serve anything
//! itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::StartError;
use crate::config::Config;
use crate::dtls::PskLookup;
use crate::handle::NodeHandle;
use crate::listener::raw::{datagrams, lines};
use crate::listener::{self, coap, http, nats};
use crate::metrics::Listener;
use crate::tls::Acceptors;
use crate::worker::Workers;

/// Sockets that are bound but not served yet: all addresses are free, or none is taken.
pub(super) struct Bound {
    nats: Option<std::net::TcpListener>,
    coap: Option<std::net::UdpSocket>,
    coaps: Option<std::net::UdpSocket>,
    http: Option<std::net::TcpListener>,
    lines: Vec<(std::net::TcpListener, lines::Service)>,
    datagrams: Vec<(std::net::UdpSocket, datagrams::Service)>,
}

impl Bound {
    /// Binds every listener of the configuration.
    ///
    /// # Errors
    /// [`StartError::Bind`] for the first address that cannot be had; the others are free again then.
    pub(super) fn bind(config: &Config, handle: &NodeHandle) -> Result<Self, StartError> {
        let tcp = |listener: Listener, address: crate::config::Address| {
            let Some(address) = address.socket() else { return Ok(None) };
            listener::bind_tcp(address).map(Some).map_err(|error| listener_error(listener, address, error))
        };
        let udp = |listener: Listener, address: crate::config::Address| {
            let Some(address) = address.socket() else { return Ok(None) };
            coap::bind(address).map(Some).map_err(|error| listener_error(listener, address, error))
        };
        Ok(Self {
            nats: tcp(Listener::Nats, config.listeners.nats.address)?,
            http: tcp(Listener::Http, config.listeners.http.address)?,
            coap: udp(Listener::Coap, config.listeners.coap.address)?,
            coaps: match &config.listeners.coap.dtls {
                Some(dtls) => udp(Listener::Coaps, dtls.address)?,
                None => None,
            },
            lines: Self::bind_lines(config, handle)?,
            datagrams: Self::bind_datagrams(config, handle)?,
        })
    }

    /// Begins to serve, each listener on one of the workers.
    pub(super) fn serve(
        self,
        handle: &NodeHandle,
        workers: &Arc<Workers>,
        acceptors: &Acceptors,
        psks: Arc<dyn PskLookup>,
    ) {
        let shared = &handle.shared;
        let note = |listener: Listener, address: io::Result<SocketAddr>| match address {
            Ok(address) => {
                tracing::info!(listener = listener.as_str(), %address, "listening");
                shared.addresses.lock().push((listener, address));
            }
            Err(error) => tracing::warn!(%error, "a listener's address cannot be read"),
        };
        if let Some(nats) = self.nats {
            note(Listener::Nats, nats.local_addr());
            workers.next().spawn(nats::serve(nats, handle.clone(), workers.clone(), acceptors.nats.clone()));
        }
        if let Some(http) = self.http {
            note(Listener::Http, http.local_addr());
            workers.next().spawn(http::serve(http, handle.clone(), workers.clone(), acceptors.http.clone()));
        }
        if let Some(coap) = self.coap {
            note(Listener::Coap, coap.local_addr());
            workers.next().spawn(coap::serve(coap, handle.clone()));
        }
        if let Some(coaps) = self.coaps {
            note(Listener::Coaps, coaps.local_addr());
            workers.next().spawn(coap::serve_dtls(coaps, handle.clone(), psks));
        }
        for (socket, service) in self.lines {
            note(Listener::Lines, socket.local_addr());
            workers.next().spawn(Arc::new(service).serve(socket, workers.clone()));
        }
        for (socket, service) in self.datagrams {
            note(Listener::Datagrams, socket.local_addr());
            workers.next().spawn(service.serve(socket));
        }
    }

    fn bind_lines(
        config: &Config,
        handle: &NodeHandle,
    ) -> Result<Vec<(std::net::TcpListener, lines::Service)>, StartError> {
        let mut bound = Vec::new();
        for settings in &config.listeners.lines {
            let Some(address) = settings.address.socket() else { continue };
            let socket = listener::bind_tcp(address)
                .map_err(|error| listener_error(Listener::Lines, address, error))?;
            let service =
                lines::Service::new(settings, handle.clone()).expect("Config::validate has read the subject");
            bound.push((socket, service));
        }
        Ok(bound)
    }

    fn bind_datagrams(
        config: &Config,
        handle: &NodeHandle,
    ) -> Result<Vec<(std::net::UdpSocket, datagrams::Service)>, StartError> {
        let mut bound = Vec::new();
        for settings in &config.listeners.datagrams {
            let Some(address) = settings.address.socket() else { continue };
            let socket = datagrams::bind(address)
                .map_err(|error| listener_error(Listener::Datagrams, address, error))?;
            let service = datagrams::Service::new(settings, handle.clone())
                .expect("Config::validate has read the subject");
            bound.push((socket, service));
        }
        Ok(bound)
    }
}

/// Why an address cannot be bound, with advice on `setting`, which chose it.
pub(super) fn bind_error(
    listener: &'static str,
    setting: String,
    address: SocketAddr,
    error: io::Error,
) -> StartError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(". Another program has this port: choose another with {setting}, port 0 for a free one")
        }
        io::ErrorKind::PermissionDenied => {
            format!(". Ports below 1024 need a privilege: choose another with {setting}")
        }
        io::ErrorKind::AddrNotAvailable => format!(". This machine has no such address: see {setting}"),
        _ => String::new(),
    };
    StartError::Bind { listener, address, error, advice }
}

fn listener_error(listener: Listener, address: SocketAddr, error: io::Error) -> StartError {
    let name = listener.as_str();
    let setting = match listener {
        // There may be several of these, so that they have no flag.
        Listener::Coaps => "address in [listeners.coap.dtls]".to_owned(),
        Listener::Lines | Listener::Datagrams => format!("address in [[listeners.{name}]]"),
        _ => format!("--{name} ADDR"),
    };
    bind_error(name, setting, address, error)
}
