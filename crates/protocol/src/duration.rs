//! Durations as people write and read them: one grammar for flags, the configuration file and verbs.
//!
//! What [`exact`] writes [`parse`] reads back. What [`rounded`] writes is for eyes only.

use std::time::Duration;

/// What [`parse`] wants, for "expected …, found …".
pub const EXPECTED: &str = "a duration such as \"600ms\", \"5s\" or \"2m\"";

/// Reads `600ms`, `1.5s`, `2m` or `2min`, `1h`, `7d`.
///
/// # Errors
/// "expected …, found …", also for what is finer than a millisecond.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refuse = |why: &str| format!("expected {EXPECTED}, found {text:?}{why}");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| refuse(""))?;
    let parts: u64 = fraction.parse().map_err(|_| refuse(""))?;
    let millis: u64 = match unit.trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(refuse(": the unit is missing")),
        _ => return Err(refuse("")),
    };
    let scale = u32::try_from(fraction.len()).ok().and_then(|digits| 10_u64.checked_pow(digits));
    let parts = match (parts.checked_mul(millis), scale) {
        (Some(parts), Some(scale)) if parts % scale == 0 => parts / scale,
        _ => return Err(refuse(": that is finer than a millisecond")),
    };
    let millis = whole.checked_mul(millis).and_then(|whole| whole.checked_add(parts));
    millis.map(Duration::from_millis).ok_or_else(|| refuse(": that is too long"))
}

/// As [`parse`] reads it, in the largest unit that is exact. Parts of a millisecond are left out.
pub fn exact(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".to_owned(),
        ms if ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// So many milliseconds, in the unit a person would choose.
pub fn rounded(ms: u64) -> String {
    let seconds = ms / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exact_is_read_back() {
        for text in ["0s", "600ms", "5s", "90s", "2m", "1h", "36h", "7d"] {
            assert_eq!(exact(parse(text).unwrap()), text);
        }
    }

    #[test]
    fn every_unit_takes_a_fraction_down_to_a_millisecond() {
        for (text, ms) in [
            ("500ms", 500),
            ("1.5s", 1_500),
            (" 0.250 s ", 250),
            ("1min", 60_000),
            ("1.5 min", 90_000),
            ("0.5h", 1_800_000),
            ("1.25d", 108_000_000),
            ("2.0ms", 2),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        for text in [
            "",
            "s",
            "-5s",
            "+1s",
            ".5s",
            "1.s",
            "1.5.2s",
            "infs",
            "nans",
            "1e99s",
            "5 parsecs",
            "99999999999999999999s",
        ] {
            assert_eq!(parse(text), Err(format!("expected {EXPECTED}, found {text:?}")), "{text}");
        }
        for (text, why) in [
            ("5", ": the unit is missing"),
            ("1.5ms", ": that is finer than a millisecond"),
            ("0.0001s", ": that is finer than a millisecond"),
            ("18446744073709551615h", ": that is too long"),
        ] {
            assert!(parse(text).unwrap_err().ends_with(why), "{text}");
        }
    }

    #[test]
    fn the_unit_follows_the_size() {
        for (ms, text) in
            [(0, "0 ms"), (999, "999 ms"), (1_500, "1.5 s"), (65_000, "1 min 5 s"), (7_260_000, "2 h 1 min")]
        {
            assert_eq!(rounded(ms), text);
        }
    }
}
