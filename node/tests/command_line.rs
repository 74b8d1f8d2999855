//! The program from outside, as its users and their scripts meet it: output, exit codes, signals.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A command of the program, in an environment without any of our variables.
fn waymeet(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waymeet"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYMEET_")) {
        command.env_remove(name);
    }
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(words: &[&str]) -> Output {
    waymeet(words).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Asserts the exit code and returns what was printed on standard output and standard error.
fn ended(output: &Output, code: i32) -> (String, String) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    (out.to_owned(), err.to_owned())
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a client command and waits until it says on standard error that it is ready.
    fn client(words: &[&str]) -> Self {
        let mut running = Self(waymeet(words).spawn().unwrap());
        let mut line = String::new();
        let mut err = BufReader::new(running.0.stderr.take().unwrap());
        err.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on ") || line.starts_with("answering "), "{line:?}");
        running
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for the end; returns the exit code and what is left of standard output.
    fn wait(mut self) -> (Option<i32>, Vec<u8>) {
        let mut out = Vec::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_end(&mut out).unwrap();
        }
        (self.0.wait().unwrap().code(), out)
    }
}

/// A node with every listener on a free port.
struct Node {
    running: Running,
    /// What it has printed.
    banner: String,
    nats: String,
}

impl Node {
    fn start(data_dir: &Path) -> Self {
        let data_dir = data_dir.to_str().unwrap();
        let any = "127.0.0.1:0";
        let listeners = ["--nats", any, "--coap", any, "--http", any, "--mesh", any];
        let mut command = waymeet(&[&listeners[..], &["--name", "n1", "--data-dir", data_dir]].concat());
        let mut running = Running(command.stderr(Stdio::inherit()).spawn().unwrap());
        let mut out = BufReader::new(running.0.stdout.take().unwrap());
        let mut banner = String::new();
        // The banner ends with an empty line behind the commands to try.
        while !(banner.contains("Try") && banner.ends_with("\n\n") && banner.matches("\n\n").count() >= 4) {
            assert!(out.read_line(&mut banner).unwrap() > 0, "the banner ended early: {banner}");
        }
        let nats =
            banner.lines().find_map(|line| line.trim().strip_prefix("NATS ")).unwrap().trim().to_owned();
        Self { running, banner, nats }
    }
}

#[test]
fn the_verbs_meet() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"));
    let server = ["--server", node.nats.as_str()];
    let with_server = |words: &[&'static str]| [words, &server].concat();

    let sub = Running::client(&with_server(&["sub", "demo.>", "--count", "3", "--json"]));
    ended(&output(&with_server(&["pub", "demo.a", "one", "-H", "X-A: b", "--reply", "r"])), 0);
    let mut piped = waymeet(&with_server(&["pub", "demo.b"])).stdin(Stdio::piped()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"two\xff").unwrap();
    ended(&piped.wait_with_output().unwrap(), 0);
    // Standard input is there and empty: an empty message.
    ended(&output(&with_server(&["pub", "demo.c"])), 0);
    let (code, out) = sub.wait();
    assert_eq!(code, Some(0));
    assert_eq!(
        text(&out),
        "{\"subject\":\"demo.a\",\"payload\":\"one\",\"reply\":\"r\",\"headers\":{\"X-A\":[\"b\"]}}\n\
         {\"subject\":\"demo.b\",\"payload_base64\":\"dHdv/w==\"}\n\
         {\"subject\":\"demo.c\",\"payload\":\"\"}\n"
    );

    let echo = Running::client(&with_server(&["reply", "svc.echo", "--echo"]));
    let (out, _) = ended(&output(&with_server(&["req", "svc.echo", "hello"])), 0);
    assert_eq!(out, "hello");
    echo.signal("INT");
    assert_eq!(echo.wait().0, Some(0));

    let (_, err) = ended(&output(&with_server(&["req", "svc.echo", "hello"])), 1);
    assert!(err.contains("no responders"), "{err}");

    let command = "tr a-z A-Z; test \"$WAYMEET_SUBJECT\" = svc.good";
    let words: Vec<&str> = [&["reply", "svc.*", "--count", "2", "--command", command][..], &server].concat();
    let reply = Running::client(&words);
    assert_eq!(ended(&output(&with_server(&["req", "svc.good", "hello"])), 0).0, "HELLO");
    let (_, err) = ended(&output(&with_server(&["req", "svc.bad", "hello"])), 1);
    assert!(err.contains("error 500") && err.contains("exit status: 1"), "{err}");
    assert_eq!(reply.wait().0, Some(0));

    let _silent = Running::client(&with_server(&["sub", "silent"]));
    let (_, err) = ended(&output(&with_server(&["req", "silent", "--timeout", "50ms"])), 1);
    assert!(err.contains("within 50ms"), "{err}");
}

#[test]
fn a_node_says_where_it_is_and_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = Node::start(&data);
    assert!(node.banner.contains("node n1\n"), "{}", node.banner);
    assert!(!node.banner.contains(":0\n"), "{}", node.banner);
    for command in ["sub 'demo.>' --server nats://", "curl -d hello http://", "--server coap://"] {
        assert!(node.banner.contains(command), "{}", node.banner);
    }

    let second = output(&["--nats", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    let (_, err) = ended(&second, 1);
    assert!(err.contains("in use by another node") && err.contains(data.to_str().unwrap()), "{err}");

    node.running.signal("HUP");
    node.running.signal("TERM");
    assert_eq!(node.running.wait().0, Some(0));
}

#[test]
fn a_client_without_a_node_says_what_to_do() {
    for words in [&["pub", "a", "b"][..], &["sub", "a"], &["req", "a"], &["reply", "a", "--echo"]] {
        // Port 1 (tcpmux) is not used on any machine of today.
        let (_, err) = ended(&output(&[words, &["--server", "127.0.0.1:1"]].concat()), 1);
        assert!(err.starts_with("error: nothing listens on 127.0.0.1:1: start a node"), "{err}");
    }
}

#[test]
fn check_prints_what_is_in_effect_or_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("waymeet.toml");
    std::fs::write(&file, "[listeners.nats]\naddress = '127.0.0.1:4333'\n").unwrap();
    let file = file.to_str().unwrap();
    let mut check = waymeet(&["check", "-c", file]);
    check.env("WAYMEET_NODE__NAME", "from-environment").env("WAYMEET_SERVER", "nats://h");
    let (out, _) = ended(&check.output().unwrap(), 0);
    assert!(
        out.contains("address = \"127.0.0.1:4333\"") && out.contains("name = \"from-environment\""),
        "{out}"
    );

    std::fs::write(file, "[limits]\nmax_conections = 1\n").unwrap();
    let (out, err) = ended(&output(&["check", "-c", file]), 2);
    let expected = format!("error: {file}:2: limits.max_conections: there is no such key");
    assert!(out.is_empty() && err.starts_with(&expected), "{err}");
    let (_, err) = ended(&output(&["-c", file]), 2);
    assert!(err.contains("did you mean limits.max_connections?"), "{err}");
    let (_, err) = ended(&output(&["check", "-c", "no-such-file.toml"]), 2);
    assert!(err.contains("cannot read no-such-file.toml"), "{err}");
}

#[test]
fn bad_usage_ends_with_2() {
    let table: [&[&str]; 5] = [
        &["--nats", "4222"],
        &["--lan", "--mesh", "off"],
        &["--http", "0.0.0.0:0"],
        &["no-such-command"],
        &["pub", "a..b", "x"],
    ];
    for words in table {
        ended(&output(words), 2);
    }
}

/// Growing the table of descriptors stops the thread that needs one, with all its sessions: 10 to 20 ms each time.
#[cfg(target_os = "linux")]
#[test]
fn the_table_of_descriptors_is_large_from_the_start() {
    use rustix::process::{Resource, getrlimit};
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.running.0.id())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap().trim();
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(size.parse::<u64>().unwrap() >= allowed.min(65_536), "{size} of {allowed}");
}
