//! Times and durations as nats-server writes them.
//!
//! Owns these texts, which tools show as they are.

use std::time::Duration;

/// As `uptime` and `idle`: `4s`, `1m2s`, `3h0m1s`, `2d3h4m5s`, `1y0d0h0m0s`.
pub(super) fn uptime(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let years = days / 365;
    let second = seconds % 60;
    if years > 0 {
        format!("{years}y{}d{}h{}m{second}s", days % 365, hours % 24, minutes % 60)
    } else if days > 0 {
        format!("{days}d{}h{}m{second}s", hours % 24, minutes % 60)
    } else if hours > 0 {
        format!("{hours}h{}m{second}s", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{second}s")
    } else {
        format!("{second}s")
    }
}

/// As `rtt`: Go's form of a short duration, with the largest unit that fits.
pub(super) fn rtt(time: Duration) -> String {
    let nanos = time.as_nanos();
    let (unit, per_unit) = match nanos {
        0..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => ("µs", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => ("s", 1_000_000_000),
    };
    let digits = per_unit.to_string().len() - 1;
    let fraction = format!("{:0digits$}", nanos % per_unit);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}{unit}", nanos / per_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_nats_server_does() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (62, "1m2s"),
            (3_600, "1h0m0s"),
            (93_784, "1d2h3m4s"),
            (31_536_000, "1y0d0h0m0s"),
        ] {
            assert_eq!(uptime(Duration::from_secs(seconds)), text);
        }
        for (nanos, text) in
            [(0, "0ns"), (999, "999ns"), (1_500, "1.5µs"), (6_688_914, "6.688914ms"), (2_000_000_000, "2s")]
        {
            assert_eq!(rtt(Duration::from_nanos(nanos)), text);
        }
    }
}
