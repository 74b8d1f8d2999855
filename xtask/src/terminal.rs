//! Runs a document's terminal blocks and compares what they print with what the document says.
//!
//! Owns the reading of the blocks and the judgement. It must not know which document it is.
//!
//! A terminal block is fenced with the info string `console`. A line that starts with `$ ` is a command
//! for bash; the lines after it are what must appear in its output, in that order (`…` stands for any
//! text in a line; a line of its own, for any lines). All commands share a folder of their own, and the
//! debug build of `waymeet` is on their path. A command that ends in `&`, or that falls silent without
//! ending, goes on beside the next ones, as in a second terminal; its lines must be there at the end of
//! the document. Any other must exit 0.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// How long a command may take to print what it should, or to end.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long a command that stays may be silent before the next one runs: it may have nothing to say
/// until it has been sent something.
const SILENCE: Duration = Duration::from_secs(2);

/// A command and the lines that it should print.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

/// Runs the terminal blocks of a Markdown text; returns how many commands there were.
///
/// # Errors
/// Names the first command that did not do what the text says.
pub fn run(markdown: &str) -> Result<usize> {
    let steps = parse(markdown);
    if steps.is_empty() {
        bail!("there is no block fenced with ```console");
    }
    let folder = shell::target().join("readme");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    // Dropped, and thereby ended, when this returns.
    let mut running = Vec::new();
    for step in &steps {
        println!("$ {}", step.command);
        if let Some(process) = carry_out(step, &folder).with_context(|| format!("`{}`", step.command))? {
            running.push((step, process));
        }
    }
    for (step, process) in &mut running {
        process.until(&step.expected, COMMAND_LIMIT).with_context(|| format!("`{}`", step.command))?;
    }
    Ok(steps.len())
}

/// Whether a text has terminal blocks.
pub fn has_commands(markdown: &str) -> bool {
    !parse(markdown).is_empty()
}

/// Waits for a child's end; `None` when it was still running after `limit` and has been ended.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Runs one command; returns it when it stays.
fn carry_out(step: &Step, folder: &Path) -> Result<Option<Session>> {
    // What a reader types into a second terminal stays there; here it is a process beside.
    let (command, stays) = match step.command.strip_suffix('&') {
        Some(command) => (command.trim_end(), true),
        None => (step.command.as_str(), false),
    };
    let mut session = Session::start(command, folder)?;
    if stays {
        session.read_until(|lines| !lines.is_empty(), SILENCE);
        return Ok(Some(session));
    }
    if !step.expected.is_empty() {
        session.read_until(|lines| !lines.is_empty(), COMMAND_LIMIT);
        session.read_until(|lines| missing(&step.expected, lines).is_none(), SILENCE);
        return match session.child.try_wait()? {
            // It may wait for what a later command sends; its lines are looked for again at the end.
            None => Ok(Some(session)),
            Some(status) if status.success() => session.until(&step.expected, SILENCE).map(|()| None),
            Some(status) => bail!("ended with {status}, having printed\n{}", session.lines.join("\n")),
        };
    }
    match wait(&mut session.child, COMMAND_LIMIT)? {
        Some(status) if status.success() => Ok(None),
        Some(status) => {
            session.read_until(|_| false, SILENCE);
            bail!("ended with {status}, having printed\n{}", session.lines.join("\n"))
        }
        None => bail!("did not end within {} s", COMMAND_LIMIT.as_secs()),
    }
}

/// A running command and what it has printed, on either output.
struct Session {
    child: Child,
    output: Receiver<String>,
    lines: Vec<String>,
}

impl Session {
    fn start(command: &str, folder: &Path) -> Result<Self> {
        // The document builds a release; the tests have the debug build at hand.
        let command = match command.strip_prefix("cargo run --release") {
            Some(rest) => format!("waymeet{}", rest.strip_prefix(" --").unwrap_or(rest)),
            None => command.to_owned(),
        };
        let path = std::env::var("PATH").unwrap_or_default();
        let binaries = shell::target().join("debug");
        let mut child = Command::new("bash")
            .args(["-c", &format!("exec 2>&1; {command}")])
            .env("PATH", format!("{}:{path}", binaries.display()))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // A group of its own, so that a pipeline ends as a whole.
            .process_group(0)
            .spawn()
            .context("cannot start bash")?;
        let (sender, output) = channel();
        let pipe = child.stdout.take().context("the output is piped")?;
        thread::spawn(move || forward(pipe, &sender));
        Ok(Self { child, output, lines: Vec::new() })
    }

    /// Reads until `is_enough(lines)`, the end of the output or the limit.
    fn read_until(&mut self, is_enough: impl Fn(&[String]) -> bool, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !is_enough(&self.lines) {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn until(&mut self, expected: &[String], limit: Duration) -> Result<()> {
        self.read_until(|lines| missing(expected, lines).is_none(), limit);
        match missing(expected, &self.lines) {
            None => Ok(()),
            Some(line) => bail!("did not print\n{line}\nbut\n{}", self.lines.join("\n")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).stderr(Stdio::null()).status();
        let _ = wait(&mut self.child, Duration::from_secs(10));
    }
}

fn forward(pipe: impl Read, sender: &Sender<String>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if sender.send(line).is_err() {
            return;
        }
    }
}

/// The first expected line that the output does not have, looked for in order.
fn missing<'a>(expected: &'a [String], lines: &[String]) -> Option<&'a str> {
    let mut rest = lines.iter();
    expected
        .iter()
        .map(String::as_str)
        .filter(|line| *line != "…" && !line.is_empty())
        .find(|wanted| !rest.any(|line| fits(wanted, line)))
}

/// Whether `line` is `wanted`, where `…` stands for any text.
fn fits(wanted: &str, line: &str) -> bool {
    let line = line.trim_end();
    let mut parts = wanted.trim_end().split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

fn parse(markdown: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    let mut continued = false;
    for line in markdown.lines() {
        if line.starts_with("```") {
            inside = !inside && line.trim_end() == "```console";
            continued = false;
        } else if inside {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    steps.push(Step { command: command.trim_end().to_owned(), expected: Vec::new() });
                }
                (None, Some(step)) if continued => step.command += &format!("\n{}", line.trim_end()),
                (None, Some(step)) => step.expected.push(line.to_owned()),
                (None, None) => {}
            }
            continued = (line.starts_with("$ ") || continued) && line.trim_end().ends_with('\\');
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn only_console_blocks_are_commands() {
        let steps = parse("$ no\n```sh\n$ no\n```\n```console\n$ echo a \\\n  b\na b\n$ true\n```\n$ no\n");
        let expected = vec![
            Step { command: "echo a \\\n  b".to_owned(), expected: strings(&["a b"]) },
            Step { command: "true".to_owned(), expected: Vec::new() },
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn an_ellipsis_stands_for_any_text() {
        assert!(fits("a…c", "abc") && fits("a…", "abc") && fits("…c", "abc") && fits("…b…", "abc"));
        assert!(!fits("a…d", "abc") && !fits("ab", "abc") && !fits("…x…", "abc"));
    }

    #[test]
    fn expected_lines_are_looked_for_in_order() {
        let lines = strings(&["one", "two", "three"]);
        assert_eq!(missing(&strings(&["one", "…", "three"]), &lines), None);
        let wrong = strings(&["three", "one"]);
        assert_eq!(missing(&wrong, &lines), Some("one"));
    }
}
