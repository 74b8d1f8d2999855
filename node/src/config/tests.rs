//! The configuration from outside: what may be written, what is refused and in which words.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn toml(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml(text, Path::new("waymeet.toml"))
}

/// The errors of a TOML text, one a line.
fn errors(text: &str) -> String {
    toml(text).expect_err(text).to_string()
}

fn variables(pairs: &[(&str, &str)]) -> Layers {
    let variables = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Layers { variables, ..Layers::default() }
}

#[test]
fn an_empty_configuration_is_the_default_one() {
    assert_eq!(toml("").unwrap(), Config::default());
    assert_eq!(Config::default().validate(), []);
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let text = r#"
        [node]
        name = "edge-1"
        [listeners.nats]
        address = "off"
        [listeners.http]
        allowed_origins = ["https://dashboard.example"]
        [limits]
        ping_interval = "1500ms"
        slow_publishers = false
        [telemetry]
        otlp_endpoint = "http://127.0.0.1:4318"
        trace_sample = 0.01
        [[http.upstream]]
        subject = "orders.>"
        url = "http://127.0.0.1:5000/orders/"
        timeout = "1h"
    "#;
    let config = toml(text).unwrap();
    assert_eq!(config.limits.ping_interval, Duration::from_millis(1_500));
    assert_eq!(config.listeners.nats.address, Address::Off);
    assert_eq!(toml(&config.to_toml().unwrap()).unwrap(), config);
    assert_eq!(toml(&Config::default().to_toml().unwrap()).unwrap(), Config::default());
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_right_one() {
    let table = [
        (
            "[limits]\n\nmax_payload_byte = 1",
            "waymeet.toml:3: limits.max_payload_byte",
            "limits.max_payload_bytes?",
        ),
        ("[listeners.nast]\naddress = 'off'", "waymeet.toml:1: listeners.nast", "listeners.nats?"),
        ("[listners.nats]\naddress = 'off'", "waymeet.toml:1: listners", "listeners?"),
        // The right name in the wrong table.
        ("[nats]\naddress = 'off'", "waymeet.toml:1: nats", "listeners.nats?"),
        (
            "[listeners.nats]\nmax_payload_bytes = 1",
            "listeners.nats.max_payload_bytes",
            "limits.max_payload_bytes?",
        ),
        ("data_dir = '/x'", "waymeet.toml:1: data_dir", "node.data_dir?"),
        (
            "[[http.upstream]]\nsubject = 'a'\nurl = 'http://h/'\ntimeot = '1s'",
            ":4: http.upstream[0].timeot",
            "timeout?",
        ),
        ("[log]\nzzzzzzzzzz = 1", "waymeet.toml:2: log.zzzzzzzzzz", "the keys here are level, format"),
        (
            "[telemetry]\nzzzzzzzzzz = 1",
            "waymeet.toml:2: telemetry.zzzzzzzzzz",
            "the keys here are otlp_endpoint, trace_sample",
        ),
    ];
    for (text, place, suggestion) in table {
        let errors = errors(text);
        assert!(errors.contains(place), "{errors:?} should name {place:?}");
        assert!(errors.ends_with(suggestion), "{errors:?} should suggest {suggestion:?}");
    }
}

#[test]
fn an_unknown_variable_is_named_with_the_right_variable() {
    for name in ["WAYMEET_LISTENERS__NATS__ADRESS", "WAYMEET_LISTENERS_NATS_ADDRESS", "WAYMEET_NATS__ADDRESS"]
    {
        let errors = Config::load(&variables(&[(name, "off")])).unwrap_err().to_string();
        assert!(errors.starts_with(&format!("environment variable {name}: ")), "{errors}");
        assert!(errors.contains("did you mean WAYMEET_LISTENERS__NATS"), "{errors}");
    }
}

#[test]
fn every_unknown_key_is_reported_in_one_run() {
    let error = toml("[log]\nlevl = 'info'\nfromat = 'text'\n[nod]\n").unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
}

#[test]
fn a_wrong_type_says_what_was_expected_and_where() {
    let table = [
        (
            "[limits]\nmax_connections = 'many'",
            ":2: limits.max_connections: expected a whole number, found \"many\"",
        ),
        (
            "[limits]\nmax_connections = -1",
            ":2: limits.max_connections: expected a whole number, found the number -1",
        ),
        (
            "[limits]\nmax_connections = 1.5",
            ":2: limits.max_connections: expected a whole number, found the number 1.5",
        ),
        (
            "[limits]\nslow_publishers = 1",
            ":2: limits.slow_publishers: expected true or false, found the number 1",
        ),
        ("[limits]\nwrite_deadline = 10", ":2: limits.write_deadline: expected a duration such as"),
        ("[limits]\nwrite_deadline = '10 s'", ":2: limits.write_deadline: expected a duration such as 500ms"),
        (
            "[limits]\nwrite_deadline = '99999999999999999999h'",
            ":2: limits.write_deadline: expected a duration",
        ),
        (
            "[listeners.nats]\naddress = '4222'",
            ":2: listeners.nats.address: expected an address such as 127.0.0.1:4222",
        ),
        (
            "[listeners.nats]\naddress = 4222",
            ":2: listeners.nats.address: expected an address such as 127.0.0.1:4222",
        ),
        (
            "[log]\nlevel = 'loud'",
            ":2: log.level: expected one of error, warn, info, debug, trace; found \"loud\"",
        ),
        ("log = 3", ":1: log: expected a table, found the number 3"),
        (
            "[listeners.http]\nallowed_origins = 'x'",
            ":2: listeners.http.allowed_origins: expected a list, found \"x\"",
        ),
        ("[[http.upstream]]\nsubject = 'a'", ":1: http.upstream[0]: the key `url` is missing"),
        (
            "[telemetry]\ntrace_sample = 2",
            ":2: telemetry.trace_sample: expected a number from 0 to 1, found the number 2",
        ),
        (
            "[telemetry]\ntrace_sample = true",
            ":2: telemetry.trace_sample: expected a number from 0 to 1, found",
        ),
        (
            "[telemetry]\notlp_endpoint = '127.0.0.1:4318'",
            ":2: telemetry.otlp_endpoint: expected the URL of a collector that takes OTLP over HTTP",
        ),
        ("[node]\nname = 1979-05-27", ":2: node.name: expected a string, found a date"),
        ("[log\nlevel = 1", "waymeet.toml:1: "),
    ];
    for (text, expected) in table {
        let errors = errors(text);
        assert!(errors.contains(expected), "{errors:?} should say {expected:?}");
    }
}

#[test]
fn flags_beat_the_environment_and_the_environment_beats_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("waymeet.toml");
    std::fs::write(&file, "[node]\nname = 'file'\ndata_dir = 'file'\n[log]\nlevel = 'warn'\n").unwrap();
    let mut layers = variables(&[("WAYMEET_NODE__NAME", "variable"), ("WAYMEET_NODE__DATA_DIR", "variable")]);
    layers.file = Some(file);
    let value = FlagValue::One("flag".into());
    layers.flags.push(FlagSetting { flag: "--name", key: "node.name", value });
    let config = Config::load(&layers).unwrap();
    assert_eq!(config.node.name.as_deref(), Some("flag"));
    assert_eq!(config.node.data_dir, Path::new("variable"));
    assert_eq!(config.log.level, LogLevel::Warn);
}

#[test]
fn a_variable_has_the_type_of_its_key() {
    let config = Config::load(&variables(&[
        ("WAYMEET_LIMITS__MAX_CONNECTIONS", "1_000"),
        ("WAYMEET_LIMITS__SLOW_PUBLISHERS", "false"),
        ("WAYMEET_LIMITS__WRITE_DEADLINE", "3s"),
        ("WAYMEET_LISTENERS__HTTP__ALLOWED_ORIGINS", "https://a.example, https://b.example:8443"),
        ("WAYMEET_HTTP__UPSTREAM", r#"[{ subject = "a", url = "http://h:1/" }]"#),
        ("WAYMEET_NODE__NAME", "17"),
        ("WAYMEET_TELEMETRY__TRACE_SAMPLE", "0.25"),
    ]))
    .unwrap();
    assert_eq!(config.limits.max_connections, 1_000);
    assert!(!config.limits.slow_publishers);
    assert_eq!(config.limits.write_deadline, Duration::from_secs(3));
    assert_eq!(config.listeners.http.allowed_origins, ["https://a.example", "https://b.example:8443"]);
    assert_eq!(config.http.upstream[0].url, "http://h:1/");
    assert_eq!(config.node.name.as_deref(), Some("17"));
    assert_eq!(config.telemetry.trace_sample, "0.25".parse().unwrap());

    for (name, value, expected) in [
        ("WAYMEET_LIMITS__SLOW_PUBLISHERS", "yes", "expected true or false, found \"yes\""),
        ("WAYMEET_LIMITS__MAX_CONNECTIONS", "x", "expected a whole number, found \"x\""),
        ("WAYMEET_LISTENERS", "x", "expected a table, whose keys are set one at a time, found \"x\""),
    ] {
        let errors = Config::load(&variables(&[(name, value)])).unwrap_err().to_string();
        assert!(errors.starts_with(&format!("environment variable {name}: ")), "{errors}");
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn a_value_that_cannot_be_overlaid_is_not_lost_in_silence() {
    let both = [("WAYMEET_LISTENERS__NATS", "off"), ("WAYMEET_LISTENERS__NATS__ADDRESS", "off")];
    let errors = Config::load(&variables(&both)).unwrap_err().to_string();
    assert!(errors.contains("listeners.nats.address: cannot be set inside listeners.nats"), "{errors}");
}

#[test]
fn a_listener_for_other_machines_needs_somebody_who_says_so() {
    for (section, address) in [("nats", "0.0.0.0:4222"), ("coap", "[::]:5683"), ("http", "192.0.2.1:80")] {
        let text = format!("[listeners.{section}]\naddress = '{address}'\n");
        let errors = errors(&text);
        assert!(errors.starts_with(&format!("waymeet.toml:2: listeners.{section}.address: ")), "{errors}");
        assert!(errors.contains("--anonymous"), "{errors}");
        toml(&format!("{text}[auth]\nanonymous = true")).unwrap();
    }
    for local in ["127.0.0.1:0", "127.1.2.3:1", "[::1]:4222", "[::ffff:127.0.0.1]:4222", "off"] {
        toml(&format!("[listeners.nats]\naddress = '{local}'")).unwrap();
    }
}

#[test]
fn what_is_not_built_yet_says_so() {
    let tls = "tls]\ncertificate_file = 'a'\nkey_file = 'b'";
    let table = [
        (format!("[listeners.nats.{tls}"), "listeners.nats.tls.certificate_file: a cannot be read"),
        (format!("[listeners.http.{tls}"), "listeners.http.tls.certificate_file: a cannot be read"),
        ("[listeners.nats.tls]".to_owned(), "listeners.nats.tls.certificate_file: is not set"),
        (
            format!("[listeners.coap.d{tls}"),
            "listeners.coap.dtls.certificate_file: DTLS takes pre-shared keys",
        ),
    ];
    for (text, expected) in table {
        let errors = errors(&text);
        assert!(errors.contains(expected), "{errors}");
    }
    toml("[mesh]\naddress = 'off'\n[listeners.nats.tls]\nmode = 'off'").unwrap();
}

#[test]
fn the_mesh_is_on_this_machine_unless_it_is_told_otherwise() {
    let address = |text: &str| toml(text).unwrap().mesh.address.to_string();
    assert_eq!(address(""), "127.0.0.1:4224");
    assert_eq!(address("[mesh]\nlan = true"), "0.0.0.0:4224");
    assert_eq!(address("[mesh]\nlan = true\naddress = '10.0.0.1:1'"), "10.0.0.1:1");
    for (text, expected) in [
        ("join = ['nonsense']", ":2: mesh.join[0]: expected host:port"),
        ("block = ['me']", ":2: mesh.block[0]: expected a peer id"),
        ("max_links = 0", ":2: mesh.max_links: 0 would"),
        ("address = 'off'\nlan = true", "mesh.lan: needs the mesh"),
        ("address = 'off'\nwebsocket = '127.0.0.1:1'", "mesh.websocket: needs the mesh"),
    ] {
        let errors = errors(&format!("[mesh]\n{text}"));
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn a_limit_cannot_be_switched_off() {
    for key in ["max_connections", "queue_messages", "coap.dedup_entries", "http.max_headers"] {
        assert!(errors(&format!("limits.{key} = 0")).contains(&format!(":1: limits.{key}: 0 would")));
    }
    assert!(errors("limits.ping_interval = '0s'").contains("limits.ping_interval"));
    assert!(errors("limits.max_payload_bytes = 10_000_000").contains("limits.queue_bytes"));
    assert!(errors("limits.buffer_bytes = 8_000_000").contains("limits.buffer_bytes: is less than eight"));
    assert!(errors("limits.request_timeout = '6m'").contains("limits.max_request_timeout"));
}

#[test]
fn texts_with_a_grammar_are_checked() {
    let upstream =
        |subject: &str, url: &str| format!("[[http.upstream]]\nsubject = '{subject}'\nurl = '{url}'");
    assert!(errors(&upstream("a..b", "http://h/")).contains(":2: http.upstream[0].subject: "));
    for url in ["h:80", "ftp://h/", "http:///path", "http://h/a b", "http://h/?a=b"] {
        assert!(errors(&upstream("a", url)).contains(":3: http.upstream[0].url: expected a URL"), "{url}");
    }
    for origin in
        ["example.com", "https://a.example/", "https://", "*", "https://*.example", "http://h:99999"]
    {
        let errors = errors(&format!("listeners.http.allowed_origins = ['{origin}']"));
        assert!(
            errors.contains("listeners.http.allowed_origins[0]: expected an origin"),
            "{origin}: {errors}"
        );
    }
    assert!(errors("node.name = 'a b'").contains("node.name"));
}

#[test]
fn raw_listeners_are_written_as_tables() {
    let lines = |more: &str| {
        format!(
            "[[listeners.lines]]\naddress = '127.0.0.1:1'\nsubject = 'a.{{peer}}'\nmode = 'publish'\n{more}"
        )
    };
    let config = toml(&lines("")).unwrap();
    let one = &config.listeners.lines[0];
    assert_eq!((one.max_line_bytes, one.max_in_flight), (65_536, 64));
    assert_eq!((one.timeout, one.idle_timeout), (Duration::from_secs(5), Duration::from_secs(3_600)));
    assert_eq!(toml(&config.to_toml().unwrap()).unwrap(), config);
    let from_variable = Config::load(&variables(&[(
        "WAYMEET_LISTENERS__DATAGRAMS",
        r#"[{ address = "127.0.0.1:9", subject = "b", mode = "request", timeout = "2s" }]"#,
    )]));
    assert_eq!(from_variable.unwrap().listeners.datagrams[0].timeout, Duration::from_secs(2));
    for (more, place) in [
        ("max_line_bytes = 0", "listeners.lines[0].max_line_bytes: 0 would"),
        ("idle_timeout = '0s'", "listeners.lines[0].idle_timeout: 0 would"),
        ("max_line_byte = 3", "did you mean listeners.lines[0].max_line_bytes?"),
    ] {
        assert!(errors(&lines(more)).contains(place), "{}", errors(&lines(more)));
    }
    let datagrams = "[[listeners.datagrams]]\naddress = '127.0.0.1:1'\nsubject = 'a'\n";
    assert!(errors(datagrams).contains("listeners.datagrams[0]: the key `mode` is missing"));
    assert!(errors(&format!("{datagrams}mode = 'ask'")).contains("expected one of publish, request"));
    let elsewhere = lines("").replace("127.0.0.1", "0.0.0.0").replace("{peer}", "{pear}");
    let errors = errors(&elsewhere);
    assert!(errors.contains("listeners.lines[0].address: ") && errors.contains("--anonymous"), "{errors}");
    assert!(errors.contains("listeners.lines[0].subject: in braces only {peer}"), "{errors}");
}

#[test]
fn the_example_can_be_used() {
    let config = toml(include_str!("../../../docs/examples/gateway.toml")).unwrap();
    assert_eq!((config.listeners.lines.len(), config.listeners.datagrams.len()), (2, 2));
    assert_eq!(config.coap.upstream[0].always_observe, ["plant.alarm"]);
}

#[test]
fn coap_upstreams_are_checked() {
    let upstream = |more: &str| format!("[[coap.upstream]]\nsubject = 'plant.>'\n{more}");
    let config = toml(&upstream("uri = 'coap://127.0.0.1:5700/'")).unwrap();
    let one = &config.coap.upstream[0];
    assert_eq!((one.timeout, one.nstart, one.observe), (Duration::from_secs(93), 1, true));
    for (more, place) in [
        ("url = 'coap://h/'", "did you mean coap.upstream[0].uri?"),
        ("uri = 'coaps://h/'", ":3: coap.upstream[0].uri: expected a URI such as coap://"),
        (
            "uri = 'coap://h/'\nalways_observe = ['plant.*']",
            "coap.upstream[0].always_observe: \"plant.*\" is no",
        ),
        ("uri = 'coap://h/'\nalways_observe = ['other']", "coap.upstream[0].always_observe: \"other\" is no"),
        ("uri = 'coap://h/'\nnstart = 0", "coap.upstream[0].nstart: 0 would"),
    ] {
        assert!(errors(&upstream(more)).contains(place), "{}", errors(&upstream(more)));
    }
}

#[test]
fn what_has_changed_is_named() {
    let old = toml("[log]\nlevel = 'warn'").unwrap();
    let mut new = toml("[node]\nname = 'a'\n[listeners.http]\nallowed_origins = ['https://a']").unwrap();
    assert_eq!(old.changed_keys(&old), [] as [&str; 0]);
    assert_eq!(old.changed_keys(&new), ["listeners.http.allowed_origins", "log.level", "node.name"]);
    assert!(Config::is_reloadable("log.level") && !Config::is_reloadable("node.name"));
    new = old.clone();
    new.auth.users.push(user("one"));
    let mut newer = new.clone();
    newer.auth.users[0] = user("other");
    assert_eq!(new.changed_keys(&newer), ["auth.users"]);
}

fn user(secret: &str) -> User {
    User {
        name: "a".into(),
        password_hash: Some(Secret::new(secret)),
        token_hash: Some(Secret::new(secret)),
        nkey: None,
        certificate: None,
        psk_file: Some("a.psk".into()),
        publish: None,
        subscribe: None,
        allow_responses: None,
        limits: None,
    }
}

#[test]
fn durations_are_written_in_one_way() {
    for (text, ms) in [("0s", 0), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        assert_eq!(format_duration(Duration::from_millis(ms)), text);
    }
    for text in ["", "s", "10", "-1s", "+1s", "1.5s", "1 s", "1d", "1sm", "18446744073709551616ms", "١s"] {
        assert!(parse_duration(text).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn durations_read_back(ms in 0..u64::MAX / 4) {
        let duration = Duration::from_millis(ms);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn no_text_panics_the_reader(text in "(\\[[a-z.]{1,12}\\]\n|[a-z_.]{1,12} = ['0-9a-z\\[\\]{}\"]{0,8}\n){0,6}") {
        let _ = toml(&text);
    }

    #[test]
    fn no_secret_is_ever_printed(secret in "s3cr3t-[a-zA-Z0-9$=,+]{8,40}") {
        let mut config = Config::default();
        config.auth.users.push(user(&secret));
        let mut upstream: HttpUpstream =
            toml("[[http.upstream]]\nsubject = 'a'\nurl = 'http://h/'").unwrap().http.upstream.remove(0);
        upstream.url = format!("http://user:{secret}@127.0.0.1/a@b");
        config.http.upstream.push(upstream);
        let printed = config.to_toml().unwrap();
        prop_assert!(!printed.contains("s3cr3t"), "{}", printed);
        prop_assert!(printed.contains("http://***@127.0.0.1/a@b"));
        prop_assert!(printed.contains("a.psk"));
        let debugged = format!("{config:?}");
        prop_assert!(!debugged.contains("s3cr3t"));
    }
}
