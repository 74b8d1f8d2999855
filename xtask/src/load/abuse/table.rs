//! The table of an attack's rounds: the node's memory and CPU, and what others noticed, held against the criterion.

use super::bystanders::{MEASURED, Seen};
use crate::load::pairs::Phase;
use crate::load::verdict::{Checks, Latencies};

/// What the others' p99 may grow to, of the greater of what it was before and what it is while another process is attacked.
const MOST_TIMES: f64 = 2.0;
/// A p99 needs that many samples.
const ENOUGH: usize = 2_000;
const MIB: u64 = 1 << 20;

/// An attack's rounds.
pub struct Row {
    pub name: &'static str,
    pub rounds: Vec<Seen>,
}

/// The latencies of one way, by [`MEASURED`].
type Way = fn(&mut Seen) -> &mut [Latencies; 4];
/// The p99 of each phase, by [`MEASURED`], in microseconds: the median of the rounds.
type Percentiles = [u32; 4];

/// Prints all rows, and checks that nobody waited longer than he may.
pub fn print(rows: &mut [Row], checks: &mut Checks) {
    println!(
        "\nMemory in MiB: before, most, after. The node's CPU during the attack. p99 in us: before, control, during, after, and \
         during in times of the greater of before and control. Medians."
    );
    println!("  {:<14} {:^17} {:>5} {:^38} {:^38}", "", "memory", "CPU", "NATS p99", "HTTP p99");
    let mut verdicts = Vec::new();
    for Row { name, rounds } in rows.iter_mut().filter(|row| !row.rounds.is_empty()) {
        let memory = |of: fn(&Seen) -> u64| median(rounds.iter().map(of).collect()) / MIB;
        let memory = [
            memory(|seen| seen.memory_before),
            memory(|seen| seen.memory_most),
            memory(|seen| seen.memory_after),
        ];
        let cpu = median(rounds.iter().map(|seen| seen.cpu_percent).collect());
        print!("  {name:<14} {:>5} {:>5} {:>5} {cpu:>4}%", memory[0], memory[1], memory[2]);
        let ways: [(&str, Way); 2] = [("NATS", |seen| &mut seen.nats), ("HTTP", |seen| &mut seen.http)];
        for (way, of) in ways {
            let fewest = rounds.iter_mut().flat_map(|seen| of(seen).iter().map(Latencies::count)).min();
            let p99 = percentiles(rounds, of);
            let times = times(p99);
            print!(" {:>7} {:>7} {:>7} {:>7} {times:>5.1}x", p99[0], p99[1], p99[2], p99[3]);
            verdicts.push((format!("{name}: p99 over {way}, {times:.1} times"), times <= MOST_TIMES));
            if fewest.is_none_or(|fewest| fewest < ENOUGH) {
                verdicts.push((format!("{name}: {fewest:?} samples over {way} are enough for a p99"), false));
            }
        }
        println!();
    }
    verdicts.iter().for_each(|(what, is_so)| checks.holds(what, *is_so));
}

fn percentiles(rounds: &mut [Seen], of: Way) -> Percentiles {
    std::array::from_fn(|phase| {
        median(rounds.iter_mut().map(|seen| of(seen)[phase].percentile(0.99)).collect())
    })
}

/// How often `during` holds the greater of `before` and `control`.
fn times(p99: Percentiles) -> f64 {
    let of = |wanted: Phase| MEASURED.iter().position(|phase| *phase == wanted).map_or(0, |place| p99[place]);
    f64::from(of(Phase::Filling)) / f64::from(of(Phase::Before).max(of(Phase::Control)).max(1))
}

/// The middle value, the lower of two; there is at least one.
fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[(values.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_rounds_counts() {
        assert_eq!((median(vec![3]), median(vec![9, 1, 5]), median(vec![4, 2])), (3, 5, 2));
    }

    #[test]
    fn the_greater_of_before_and_control_is_what_counts() {
        // Before, control, during, after.
        assert_eq!(times([100, 300, 450, 1]), 1.5);
        assert_eq!(times([300, 100, 450, 1]), 1.5);
        assert_eq!(times([0, 0, 7, 1]), 7.0);
    }
}
