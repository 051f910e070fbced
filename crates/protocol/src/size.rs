//! Numbers of bytes as people write and read them.
//!
//! What [`exact`] writes [`parse`] reads back. What [`rounded`] writes is for eyes only.

/// What [`parse`] wants, for "expected …, found …".
pub const EXPECTED: &str = "a size such as \"64KiB\", \"64MiB\" or a number of bytes";

/// Reads a size such as `64KiB`, or a number of bytes.
///
/// # Errors
/// "expected …, found …".
pub fn parse(text: &str) -> Result<usize, String> {
    let refuse = || format!("expected {EXPECTED}, found {text:?}");
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

/// As [`parse`] reads it, in the largest unit that is exact.
pub fn exact(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        n if n % (1 << 30) == 0 => format!("{}GiB", n >> 30),
        n if n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
        n if n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
        n => n.to_string(),
    }
}

/// So many bytes, in the unit a person would choose.
pub fn rounded(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
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
    fn what_is_exact_is_read_back() {
        for text in ["0", "1000", "64KiB", "64MiB", "3GiB"] {
            assert_eq!(exact(parse(text).unwrap()), text);
        }
        for text in ["", "KiB", "64KB", "-1", "1.5MiB", "99999999999GiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_unit_follows_the_size() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (2048, "2.0 KiB"), (3 << 30, "3.0 GiB"), (1 << 52, "4096.0 TiB")]
        {
            assert_eq!(rounded(bytes), text);
        }
    }
}
