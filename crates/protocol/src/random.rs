//! Names that nobody else has: random digits.
//!
//! For identifiers and for passwords of servers that live for a test. Not for keys.

use std::hash::{BuildHasher, RandomState};

/// So many hexadecimal digits.
pub fn hex(digits: usize) -> String {
    let mut text = String::with_capacity(digits + 16);
    while text.len() < digits {
        // The keys of the standard library's hash maps come from the system's random numbers.
        text += &format!("{:016x}", RandomState::new().hash_one(text.len()));
    }
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_another_and_as_long_as_asked_for() {
        for digits in [16, 32, 40] {
            let (one, other) = (hex(digits), hex(digits));
            assert!(one != other && one.len() == digits && one.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
        }
    }
}
