//! The number on a `*3\r\n` or `$5\r\n` line, read whole where it is all there, else byte by byte.
//!
//! Exactly the server's grammar: no sign but `-`, no leading zero, no `-0`, nothing past an `i64`.

/// The number line at the start of `line`, whose first byte must be `kind`: its value and how
/// many bytes it took, CRLF included. `None` means "take the slow way": the line is unfinished,
/// negative, very long, past the limit or wrong. (`limit` is at least 9.)
///
/// A line of one digit is one 32-bit word; that is most lines, so it is compared as one.
#[inline(always)]
pub(super) fn whole(kind: u8, limit: usize, line: &[u8]) -> Option<(usize, usize)> {
    let word = u32::from_le_bytes(*line.first_chunk()?);
    // What is left after the xor is the digit, in its place; rotated, it is the whole word.
    let digit = (word ^ u32::from_le_bytes([kind, b'0', b'\r', b'\n'])).rotate_right(8);
    if digit <= 9 {
        return Some((digit as usize, 4));
    }
    match whole_long(kind, line) {
        (value, used) if used > 0 && value <= limit => Some((value, used)),
        _ => None,
    }
}

/// Two to eighteen digits: too few to overflow. A pair, since that is returned in registers;
/// 0 bytes used is "take the slow way".
fn whole_long(kind: u8, line: &[u8]) -> (usize, usize) {
    let [first, tens @ b'1'..=b'9', digits @ ..] = line else {
        return (0, 0);
    };
    let tens = usize::from(tens - b'0');
    if *first == kind && digits.get(1..3) == Some(b"\r\n") && digits[0].is_ascii_digit() {
        return (tens * 10 + usize::from(digits[0] - b'0'), 5);
    }
    let mut value = tens as u64;
    for (at, &byte) in digits.iter().take(18).enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let ends = *first == kind && byte == b'\r' && digits.get(at + 1) == Some(&b'\n');
            return match usize::try_from(value) {
                Ok(value) if ends => (value, at + 4),
                _ => (0, 0),
            };
        }
        value = value * 10 + u64::from(digit);
    }
    (0, 0)
}

/// A number line that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Length {
    value: u64,
    seen: Seen,
    negative: bool,
}

/// What of the line was seen. Nothing → Minus → Digits → Return; Nothing → Zero → Return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Nothing,
    Minus,
    Zero,
    Digits,
    Return,
}

/// What one more byte made of the line.
pub(super) enum Step {
    /// The line goes on.
    More,
    /// The line ended, with this value and this last byte: `\n`, unless the peer is odd.
    Done(i64, u8),
    /// Not a number.
    Bad,
}

impl Length {
    /// Takes the next byte of the line. After `Done` it is ready for another line.
    pub(super) fn push(&mut self, byte: u8) -> Step {
        self.seen = match (self.seen, byte) {
            (Seen::Return, last) => {
                let value = self.signed();
                *self = Length::default();
                return Step::Done(value, last);
            }
            (Seen::Nothing, b'-') => {
                self.negative = true;
                Seen::Minus
            }
            (Seen::Nothing, b'0') => Seen::Zero,
            (Seen::Nothing | Seen::Minus, b'1'..=b'9') | (Seen::Digits, b'0'..=b'9') => {
                let limit = i64::MAX as u64 + u64::from(self.negative);
                let digit = u64::from(byte - b'0');
                match self.value.checked_mul(10).and_then(|tens| tens.checked_add(digit)) {
                    Some(value) if value <= limit => self.value = value,
                    _ => return Step::Bad,
                }
                Seen::Digits
            }
            (Seen::Zero | Seen::Digits, b'\r') => Seen::Return,
            _ => return Step::Bad,
        };
        Step::More
    }

    fn signed(&self) -> i64 {
        if self.negative { 0i64.wrapping_sub_unsigned(self.value) } else { self.value as i64 }
    }
}
