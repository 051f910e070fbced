//! Durations and sizes: as people write them, and as they read them.
//!
//! What [`millis`] and [`bytes`] show is rounded, and nothing parses it again; what [`show_duration`] and [`show_size`] show
//! is what was written.

use std::time::Duration;

/// What a duration looks like, for the text of a refusal.
pub const DURATION: &str = "a duration such as \"600ms\", \"5s\" or \"2m\"";
/// What a size looks like, for the text of a refusal.
pub const SIZE: &str = "a size such as \"64KiB\", \"64MiB\" or a number of bytes";

/// A duration given in milliseconds, in the unit a person would choose.
pub fn millis(ms: u64) -> String {
    let seconds = ms / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A number of bytes, in the unit a person would choose.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Reads `600ms`, `5s`, `2m`, `1h`, `7d`. Fails with "expected …, found …".
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = |why: &str| format!("expected {DURATION}, found {text:?}{why}");
    let trimmed = text.trim();
    let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = trimmed[..digits].parse().map_err(|_| refuse(""))?;
    let millis = match trimmed[digits..].trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(refuse(": the unit is missing")),
        _ => return Err(refuse("")),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| refuse(": that is too long"))
}

/// As [`parse_duration`] reads it, in the largest unit that is exact.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".to_owned(),
        ms if ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// Reads a size such as `64KiB`, or a number of bytes. Fails with "expected …, found …".
pub fn parse_size(text: &str) -> Result<usize, String> {
    let refuse = || format!("expected {SIZE}, found {text:?}");
    let trimmed = text.trim();
    let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: usize = trimmed[..digits].parse().map_err(|_| refuse())?;
    let unit = match trimmed[digits..].trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(refuse()),
    };
    number.checked_mul(unit).ok_or_else(refuse)
}

/// As a size is read, in the largest unit that is exact.
pub fn show_size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        n if n % (1 << 30) == 0 => format!("{}GiB", n >> 30),
        n if n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
        n if n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
        n => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_follows_the_size() {
        for (ms, text) in
            [(0, "0 ms"), (999, "999 ms"), (1_500, "1.5 s"), (65_000, "1 min 5 s"), (7_260_000, "2 h 1 min")]
        {
            assert_eq!(millis(ms), text);
        }
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (2048, "2.0 KiB"), (3 << 30, "3.0 GiB"), (1 << 52, "4096.0 TiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_and_sizes_are_shown_as_they_are_read() {
        for text in ["0s", "600ms", "5s", "90s", "2m", "1h", "36h", "7d"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["0", "1000", "64KiB", "64MiB", "3GiB"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
        for text in ["", "5", "s", "-5s", "1.5s", "5 parsecs", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "KiB", "64KB", "-1", "1.5MiB", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
