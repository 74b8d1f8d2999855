//! Fetches the third-party clients of the interop suites, pinned, into `target/interop`.
//!
//! Owns what is fetched, from which of the project's pin files, and when it is still fresh. It must not
//! know what the suites do with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{debian, shell};

/// Programs from Debian's packages: what is looked for, the packages, and the client kinds that are left
/// out without it.
const DEBIAN: &[(&[&str], &[&str], &[&str])] = &[
    (&["curl"], &["curl"], &["curl-post-sse", "curl-put-ndjson"]),
    (&["coap-client-notls", "coap-client", "coap-client-openssl"], &["libcoap3-bin"], &["coap-client"]),
    (&["coap-server-notls", "coap-server", "coap-server-openssl"], &["libcoap3-bin"], &["coap-server"]),
    (&["chromium"], &["chromium"], &["ws-browser"]),
    (&["nc"], &["netcat-openbsd"], &["nc"]),
    (&["promtool"], &["prometheus"], &["promtool"]),
    (&["collectd"], &["collectd-core", "libcurl3-gnutls", "libyajl2"], &["collectd"]),
    (&["logger"], &["bsdutils"], &["logger"]),
    (&["faketime"], &["faketime"], &["faketime"]),
    (&["javac"], &["default-jdk-headless"], &["java"]),
    (&["ip"], &["iproute2"], &[NAMESPACES]),
    (&["nft"], &["nftables"], &[NAMESPACES]),
    (&["sysctl"], &["procps"], &[NAMESPACES]),
];

/// What the suites that make networks of their own need; `interop/network.py` says how they make them.
const NAMESPACES: &str = "namespaces";
/// Ways to a network namespace: as root, and as anybody else.
const UNSHARE: &[&[&str]] = &[&["--net"], &["--user", "--map-root-user", "--net"]];

/// What the suites run with.
pub struct Clients {
    /// The Python of the virtual environment.
    pub python: PathBuf,
    /// Client kinds that this machine cannot have, each with the reason.
    pub missing: Vec<(&'static str, String)>,
}

/// Where the fetched clients are.
pub fn folder() -> PathBuf {
    shell::target().join("interop")
}

/// Installs libcoap's headers, which the differential test of the CoAP codec compiles a program against. It says
/// itself when it must do without.
pub fn libcoap_headers() -> Result<()> {
    if Path::new("/usr/include/coap3/coap.h").is_file() { Ok(()) } else { debian::install(&["libcoap3-dev"]) }
}

/// Fetches whatever is not there yet. Without a network a warm folder is enough.
pub fn clients() -> Result<Clients> {
    fs::create_dir_all(folder())?;
    let mut missing = programs()?;
    missing.extend(namespaces());
    let python = python("venv", &shell::root().join("interop").join("requirements.txt"))?;
    missing.extend(py_libp2p().map(|reason| ("py-libp2p", reason)));
    javascript()?;
    async_nats()?;
    Ok(Clients { python, missing })
}

/// The content of the pins that something was made from. It is compared whole, so nothing can be stale.
struct Stamp {
    file: PathBuf,
    pins: String,
}

impl Stamp {
    fn new(name: &str, pins: &[&Path]) -> Result<Self> {
        let mut text = String::new();
        for pin in pins {
            text += &fs::read_to_string(pin).with_context(|| format!("cannot read {}", pin.display()))?;
        }
        Ok(Self { file: folder().join(format!("{name}.stamp")), pins: text })
    }

    fn is_fresh(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|made_from| made_from == self.pins)
    }

    fn write(&self) -> Result<()> {
        fs::write(&self.file, &self.pins).with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// A virtual environment with what a file requires; its Python.
fn python(name: &str, requirements: &Path) -> Result<PathBuf> {
    let venv = folder().join(name);
    let python = venv.join("bin").join("python");
    let stamp = Stamp::new(name, &[requirements])?;
    if !(stamp.is_fresh() && python.is_file()) {
        shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        shell::run(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(requirements))?;
        stamp.write()?;
    }
    Ok(python)
}

/// The link client in Python, which brings sixty packages, one of them compiled here with GMP's headers. Why it is not to
/// be had, if so: everything else is tested without it.
fn py_libp2p() -> Option<String> {
    let requirements = shell::root().join("interop").join("link").join("requirements.txt");
    let made = python("venv-link", &requirements).or_else(|_| {
        debian::install(&["libgmp-dev"])?;
        python("venv-link", &requirements)
    });
    made.err().map(|error| format!("it cannot be installed: {error:#}"))
}

fn javascript() -> Result<()> {
    let from = shell::root().join("interop").join("js");
    let to = folder().join("js");
    fs::create_dir_all(&to)?;
    // The scripts run beside node_modules, because Node.js looks for packages from where a script is.
    for entry in fs::read_dir(&from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let packages = Stamp::new("npm", &[&from.join("package.json"), &from.join("package-lock.json")])?;
    if !(packages.is_fresh() && to.join("node_modules").is_dir()) {
        shell::run(
            Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&to),
        )?;
        packages.write()?;
    }
    let lock = from.join("package-lock.json");
    let bundle = Stamp::new("bundle", &[&lock, &from.join("agent.mjs"), &from.join("page.mjs")])?;
    if !(bundle.is_fresh() && to.join("page.bundle.js").is_file()) {
        shell::run(Command::new("npm").args(["run", "--silent", "build"]).current_dir(&to))?;
        bundle.write()?;
    }
    Ok(())
}

/// Builds the agent around async-nats. It is no member of the workspace, so Cargo is asked apart.
fn async_nats() -> Result<()> {
    let manifest = shell::root().join("interop").join("async-nats").join("Cargo.toml");
    let mut build = shell::cargo();
    build.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
    shell::run(build.arg("--target-dir").arg(shell::target()))?;
    fs::copy(shell::debug_binary("async-nats-agent"), folder().join("async-nats-agent"))?;
    Ok(())
}

/// Why this machine allows no network of its own to a test, if it does not.
fn namespaces() -> Option<(&'static str, String)> {
    let allows = |options: &&[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(*options).arg("true");
        shell::output(&mut unshare).is_ok()
    };
    let reason = if !Path::new("/dev/net/tun").exists() {
        "there is no /dev/net/tun"
    } else if !UNSHARE.iter().any(allows) {
        "this user may not make network namespaces"
    } else {
        return None;
    };
    Some((NAMESPACES, reason.to_owned()))
}

/// Installs what is missing when this is root on a Debian; says which client kinds are left out.
fn programs() -> Result<Vec<(&'static str, String)>> {
    let is_missing = |programs: &[&str]| shell::find_program(programs).is_none();
    let wanted: Vec<&str> = DEBIAN
        .iter()
        .filter(|(p, ..)| is_missing(p))
        .flat_map(|(_, packages, _)| *packages)
        .copied()
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    debian::install(&wanted)?;
    let absent = DEBIAN.iter().filter(|(programs, ..)| is_missing(programs));
    Ok(absent
        .flat_map(|(_, packages, kinds)| {
            kinds
                .iter()
                .map(move |kind| (*kind, format!("Debian's {} is not installed", packages.join(", "))))
        })
        .collect())
}
