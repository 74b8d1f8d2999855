//! Feeds the targets without libFuzzer: the seeds, then mutations of them.
//!
//! Owns a plain mutator that runs on stable Rust. It has no coverage to guide it, so it finds what is
//! shallow and shows that the targets still build and hold. `smoke SECONDS [TARGET]`, in `fuzz/`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use waymeet_fuzz::{TARGETS, Target};

/// The longest input that a mutation makes: more than any control line or datagram.
const MAX_LEN: usize = 8 * 1024;
/// How many inputs each target gets at least, however short the time.
const MIN_INPUTS: u64 = 5_000;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let wanted = arguments.next();
    let targets =
        || TARGETS.iter().filter(|(name, _)| wanted.as_deref().is_none_or(|wanted| wanted == *name));
    if targets().next().is_none() {
        eprintln!("there is no such target");
        return ExitCode::FAILURE;
    }
    for target in targets() {
        let count = smoke(*target, Duration::from_secs(seconds));
        println!("{}: {count} inputs, no finding", target.0);
    }
    ExitCode::SUCCESS
}

fn smoke((name, function): Target, time: Duration) -> u64 {
    let mut seeds = read_seeds(&Path::new("seeds").join(name));
    // Printed by the panic hook with the input that made the target panic, so that it can be kept.
    for seed in &seeds {
        feed(name, function, seed);
    }
    seeds.push(Vec::new());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let started = Instant::now();
    let mut count = seeds.len() as u64;
    while count < MIN_INPUTS || started.elapsed() < time {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(8) {
            mutate(&mut input, &seeds, &mut random);
        }
        input.truncate(MAX_LEN);
        feed(name, function, &input);
        count += 1;
    }
    count
}

/// Runs the target on one input; when it panics, the input is written out before the panic goes on.
fn feed(name: &str, function: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| function(input)) {
        let file = Path::new("artifacts").join(format!("{name}-smoke"));
        let written = fs::create_dir_all("artifacts").and_then(|()| fs::write(&file, input));
        eprintln!("{name}: the input is in fuzz/{}: {written:?}", file.display());
        std::panic::resume_unwind(panic);
    }
}

fn read_seeds(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()))
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    files.sort();
    files.iter().filter_map(|file| fs::read(file).ok()).collect()
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const TELLING: &[&[u8]] = &[b"\r\n", b"\n", b" ", b".", b"*", b">", b"\0", b"\xff", b"-1", b"4294967296"];
    let at = random.below(input.len() + 1);
    match random.below(6) {
        0 if !input.is_empty() => {
            let at = random.below(input.len());
            input[at] ^= 1 << random.below(8);
        }
        1 if !input.is_empty() => {
            let at = random.below(input.len());
            input[at] = random.next().to_le_bytes()[0];
        }
        2 => {
            let end = (at + random.below(16)).min(input.len());
            input.drain(at..end);
        }
        3 => {
            let telling = TELLING[random.below(TELLING.len())];
            input.splice(at..at, telling.iter().copied());
        }
        4 => {
            let end = (at + random.below(64)).min(input.len());
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

/// xorshift64*: the same inputs on every run, so that a finding can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end.max(1)
    }
}
