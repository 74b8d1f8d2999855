//! What a configuration must obey beyond the types of its values.
//!
//! Owns the rules across keys, above all section 9 of the design: nothing is reachable from another
//! machine by accident.

use std::time::Duration;

use waymeet_core::Filter;

use super::problem::Problem;
use super::value::Address;
use super::{Config, Dtls, HttpUpstream, Limits, Listeners, auth_check};
use crate::dtls;
use crate::listener::http;
use crate::listener::raw::SubjectTemplate;
use crate::mesh;
use crate::telemetry;
use crate::tls;
use crate::upstream::coap::{self, CoapUpstreamError};
use crate::upstream::http::{Upstream, UpstreamError};

impl Config {
    /// Everything that is wrong with the configuration; empty when it can be used. A configuration that
    /// [`Config::load`] returned has passed this.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        check_name(self, &mut problems);
        check_reach(self, &mut problems);
        check_limits(&self.limits, &mut problems);
        check_raw(self, &mut problems);
        check_mesh(self, &mut problems);
        check_texts(self, &mut problems);
        auth_check::check(self, &mut problems);
        let files = tls::check(self).into_iter();
        problems.extend(files.map(|(key, error)| Problem::of_key(key, error.to_string())));
        problems.extend(dtls::check(self).map(|(key, error)| Problem::of_key(key, error.to_string())));
        check_built(self, &mut problems);
        problems
    }
}

fn check_name(config: &Config, problems: &mut Vec<Problem>) {
    let Some(name) = &config.node.name else { return };
    if name.is_empty() || name.len() > 128 || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let text = "expected 1 to 128 bytes without white space and control characters";
        problems.push(Problem::of_key("node.name", text));
    }
}

/// Design, section 9: without users, other machines are let in only by somebody who says so.
fn check_reach(config: &Config, problems: &mut Vec<Problem>) {
    if config.auth.anonymous {
        return;
    }
    // Who speaks no protocol has no credentials either: the configuration must say whose permissions he has.
    let mut open = raw_addresses(&config.listeners);
    if config.auth.users.is_empty() {
        open.extend(client_addresses(&config.listeners));
    }
    for (key, address) in open {
        if !address.is_local() {
            let text = format!(
                "{address} can be reached from other machines, and without [auth] anybody there could publish and \
                 subscribe; to allow exactly that, set auth.anonymous = true (--anonymous), to stay on this \
                 machine, listen on 127.0.0.1"
            );
            problems.push(Problem::of_key(key, text));
        }
    }
}

fn client_addresses(listeners: &Listeners) -> Vec<(String, Address)> {
    let mut addresses = vec![
        ("listeners.nats.address".to_owned(), listeners.nats.address),
        ("listeners.coap.address".to_owned(), listeners.coap.address),
        ("listeners.http.address".to_owned(), listeners.http.address),
    ];
    if let Some(dtls) = &listeners.coap.dtls {
        addresses.push(("listeners.coap.dtls.address".to_owned(), dtls.address));
    }
    addresses
}

fn raw_addresses(listeners: &Listeners) -> Vec<(String, Address)> {
    let mut addresses = Vec::new();
    for (index, lines) in listeners.lines.iter().enumerate().filter(|(_, lines)| lines.user.is_none()) {
        addresses.push((format!("listeners.lines[{index}].address"), lines.address));
    }
    for (index, datagrams) in
        listeners.datagrams.iter().enumerate().filter(|(_, datagrams)| datagrams.user.is_none())
    {
        addresses.push((format!("listeners.datagrams[{index}].address"), datagrams.address));
    }
    addresses
}

/// What is wrong with a limit of 0.
const ZERO_LIMIT: &str =
    "0 would let nothing through, and no limit can be switched off; to lift one, choose a large value";

/// No client is waited for for longer.
const MAX_HANDSHAKE: Duration = Duration::from_secs(3_600);

fn check_limits(limits: &Limits, problems: &mut Vec<Problem>) {
    let numbers = [
        ("max_payload_bytes", limits.max_payload_bytes),
        ("max_control_line_bytes", limits.max_control_line_bytes),
        ("max_connections", limits.max_connections),
        ("max_connections_per_address", limits.max_connections_per_address),
        ("max_subscriptions_per_session", limits.max_subscriptions_per_session),
        ("outbox_bytes", limits.outbox_bytes),
        ("queue_messages", limits.queue_messages),
        ("queue_bytes", limits.queue_bytes),
        ("buffer_bytes", limits.buffer_bytes),
        ("max_requests", limits.max_requests),
        ("max_pings_out", limits.max_pings_out),
        ("match_cache_entries", limits.match_cache_entries),
        ("http.max_header_bytes", limits.http.max_header_bytes),
        ("http.max_headers", limits.http.max_headers),
        ("http.max_concurrent_streams", limits.http.max_concurrent_streams),
        ("http.max_filters", limits.http.max_filters),
        ("http.max_event_streams", limits.http.max_event_streams),
        ("coap.max_exchanges", limits.coap.max_exchanges),
        ("coap.max_observations_per_endpoint", limits.coap.max_observations_per_endpoint),
        ("coap.max_observations", limits.coap.max_observations),
        ("coap.block_transfer_bytes", limits.coap.block_transfer_bytes),
        ("coap.dedup_entries", limits.coap.dedup_entries),
        ("tls.max_handshakes", limits.tls.max_handshakes),
        ("dtls.max_associations", limits.dtls.max_associations),
        ("dtls.max_handshakes", limits.dtls.max_handshakes),
        ("auth.max_unproved", limits.auth.max_unproved),
        ("auth.max_verifications", limits.auth.max_verifications),
        ("auth.max_waiting_verifications", limits.auth.max_waiting_verifications),
        ("auth.verdict_cache_entries", limits.auth.verdict_cache_entries),
        ("auth.max_failures_per_minute", limits.auth.max_failures_per_minute),
        ("auth.max_browser_logins", limits.auth.max_browser_logins),
    ];
    let durations = [
        ("write_deadline", limits.write_deadline),
        ("ping_interval", limits.ping_interval),
        ("request_timeout", limits.request_timeout),
        ("max_request_timeout", limits.max_request_timeout),
        ("http.header_read_timeout", limits.http.header_read_timeout),
        ("http.idle_timeout", limits.http.idle_timeout),
        ("http.body_read_timeout", limits.http.body_read_timeout),
        ("tls.handshake_timeout", limits.tls.handshake_timeout),
        ("dtls.handshake_timeout", limits.dtls.handshake_timeout),
        ("dtls.idle_timeout", limits.dtls.idle_timeout),
        ("auth.login_timeout", limits.auth.login_timeout),
        ("auth.verdict_cache_time", limits.auth.verdict_cache_time),
        ("auth.browser_login_time", limits.auth.browser_login_time),
    ];
    let zero_numbers = numbers.into_iter().filter(|(_, number)| *number == 0).map(|(key, _)| key);
    let zero_durations =
        durations.into_iter().filter(|(_, time)| *time == Duration::ZERO).map(|(key, _)| key);
    for key in zero_numbers.chain(zero_durations) {
        problems.push(Problem::of_key(format!("limits.{key}"), ZERO_LIMIT));
    }
    for (key, bytes) in [("outbox_bytes", limits.outbox_bytes), ("queue_bytes", limits.queue_bytes)] {
        if bytes < limits.max_payload_bytes {
            let text = format!(
                "{bytes} is less than limits.max_payload_bytes, {}: the longest message could never be delivered",
                limits.max_payload_bytes
            );
            problems.push(Problem::of_key(format!("limits.{key}"), text));
        }
    }
    // A quarter of it is for what arrives, and two of the longest should find room there.
    if limits.buffer_bytes / 8 < limits.max_payload_bytes {
        let text = "is less than eight times limits.max_payload_bytes";
        problems.push(Problem::of_key("limits.buffer_bytes", text));
    }
    if limits.dtls.handshake_timeout > MAX_HANDSHAKE {
        problems.push(Problem::of_key("limits.dtls.handshake_timeout", "is longer than an hour"));
    }
    if limits.request_timeout > limits.max_request_timeout {
        let text = "is longer than limits.max_request_timeout";
        problems.push(Problem::of_key("limits.request_timeout", text));
    }
}

/// The limits of raw listeners and of CoAP upstreams, which stand beside their addresses.
fn check_raw(config: &Config, problems: &mut Vec<Problem>) {
    let mut check = |list: &str, index: usize, limits: &[(&str, bool)]| {
        for (key, _) in limits.iter().filter(|(_, is_zero)| *is_zero) {
            problems.push(Problem::of_key(format!("{list}[{index}].{key}"), ZERO_LIMIT));
        }
    };
    for (index, lines) in config.listeners.lines.iter().enumerate() {
        let limits = [
            ("max_line_bytes", lines.max_line_bytes == 0),
            ("max_in_flight", lines.max_in_flight == 0),
            ("timeout", lines.timeout.is_zero()),
            ("idle_timeout", lines.idle_timeout.is_zero()),
        ];
        check("listeners.lines", index, &limits);
    }
    for (index, datagrams) in config.listeners.datagrams.iter().enumerate() {
        let limits = [
            ("max_in_flight", datagrams.max_in_flight == 0),
            ("max_in_flight_per_host", datagrams.max_in_flight_per_host == 0),
            ("timeout", datagrams.timeout.is_zero()),
        ];
        check("listeners.datagrams", index, &limits);
    }
    for (index, upstream) in config.coap.upstream.iter().enumerate() {
        let limits = [
            ("max_in_flight", upstream.max_in_flight == 0),
            ("max_observations", upstream.max_observations == 0),
            ("nstart", upstream.nstart == 0),
            ("timeout", upstream.timeout.is_zero()),
        ];
        check("coap.upstream", index, &limits);
    }
}

fn check_mesh(config: &Config, problems: &mut Vec<Problem>) {
    let settings = &config.mesh;
    let mut wrong = |key: String, text: String| problems.push(Problem::of_key(key, text));
    for (index, text) in settings.join.iter().enumerate() {
        if let Err(error) = text.parse::<mesh::JoinAddress>() {
            wrong(format!("mesh.join[{index}]"), format!("{error}; found {text:?}"));
        }
    }
    for (key, peers) in [("allow", &settings.allow), ("block", &settings.block)] {
        for (index, text) in peers.iter().enumerate().filter(|(_, text)| !mesh::is_peer_id(text)) {
            wrong(
                format!("mesh.{key}[{index}]"),
                format!("expected a peer id such as 12D3KooW…; found {text:?}"),
            );
        }
    }
    if settings.max_links == 0 {
        wrong("mesh.max_links".to_owned(), ZERO_LIMIT.to_owned());
    }
    if settings.address == Address::Off {
        let needs = [
            ("join", !settings.join.is_empty()),
            ("lan", settings.lan),
            ("websocket", settings.websocket != Address::Off),
        ];
        for (key, _) in needs.into_iter().filter(|(_, used)| *used) {
            let text = "needs the mesh, which mesh.address = \"off\" (--mesh off) turns off";
            wrong(format!("mesh.{key}"), text.to_owned());
        }
    }
}

/// Subjects, filters, URLs and origins: texts with a grammar of their own.
fn check_texts(config: &Config, problems: &mut Vec<Problem>) {
    let mut check = |key: String, error: Option<String>| {
        problems.extend(error.map(|text| Problem::of_key(key, text)));
    };
    let filter = |text: &str| Filter::new(text).err().map(|error| error.to_string());
    for (index, upstream) in config.http.upstream.iter().enumerate() {
        check(format!("http.upstream[{index}].subject"), filter(&upstream.subject));
        check(format!("http.upstream[{index}].url"), upstream_error(upstream));
    }
    for (index, upstream) in config.coap.upstream.iter().enumerate() {
        let (key, text) = match coap::Upstream::new(upstream) {
            Ok(_) => continue,
            Err(error @ CoapUpstreamError::Subject(_)) => ("subject", error.to_string()),
            Err(error @ CoapUpstreamError::Uri) => ("uri", error.to_string()),
            Err(error @ CoapUpstreamError::Observed(_)) => ("always_observe", error.to_string()),
        };
        check(format!("coap.upstream[{index}].{key}"), Some(text));
    }
    let template = |text: &str| SubjectTemplate::parse(text).err().map(|error| error.to_string());
    for (index, lines) in config.listeners.lines.iter().enumerate() {
        check(format!("listeners.lines[{index}].subject"), template(&lines.subject));
    }
    for (index, datagrams) in config.listeners.datagrams.iter().enumerate() {
        check(format!("listeners.datagrams[{index}].subject"), template(&datagrams.subject));
    }
    if let Some(Err(error)) = config.telemetry.otlp_endpoint.as_deref().map(str::parse::<telemetry::Endpoint>)
    {
        check("telemetry.otlp_endpoint".to_owned(), Some(error.to_string()));
    }
    for (index, origin) in config.listeners.http.allowed_origins.iter().enumerate() {
        check(format!("listeners.http.allowed_origins[{index}]"), origin_error(origin));
    }
}

/// What the part that calls the service has against the URL. A subject that is no filter is named by its
/// own key.
fn upstream_error(upstream: &HttpUpstream) -> Option<String> {
    let error = Upstream::new(upstream).err()?;
    (!matches!(error, UpstreamError::Subject(_))).then(|| error.to_string())
}

/// RFC 6454, section 6.2: scheme, host and port, and nothing behind them.
fn origin_error(origin: &str) -> Option<String> {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    if host.is_some_and(|host| !host.contains('*') && http::is_origin(origin)) {
        return None;
    }
    Some("expected an origin such as https://dashboard.example, without a path".to_owned())
}

/// What can be written down already and is not built yet. Silence would be worse than an error: somebody
/// would believe that a listener is encrypted.
fn check_built(config: &Config, problems: &mut Vec<Problem>) {
    let Some(Dtls { address: _, certificate_file, key_file, client_ca_file }) = &config.listeners.coap.dtls
    else {
        return;
    };
    let files =
        [("certificate_file", certificate_file), ("key_file", key_file), ("client_ca_file", client_ca_file)];
    for (key, _) in files.into_iter().filter(|(_, file)| file.is_some()) {
        let text = "DTLS takes pre-shared keys, psk_file in [[auth.users]], and no certificates yet";
        problems.push(Problem::of_key(format!("listeners.coap.dtls.{key}"), text));
    }
}
