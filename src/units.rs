//! Durations and sizes as a person reads them; nothing parses them again.

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
}
