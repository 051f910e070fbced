//! The number on a `*3\r\n` or `$5\r\n` line, read whole where it is all there, else byte by byte.
//!
//! Exactly the server's grammar: no sign but `-`, no leading zero, no `-0`, nothing past an `i64`.

/// The number line that ends within `line`, which starts after the type byte: its value and
/// how many bytes it took, CRLF included. `None` means "take the slow way": the line is
/// unfinished, negative, very long or wrong.
#[inline(always)]
pub(super) fn whole(line: &[u8]) -> Option<(u64, usize)> {
    match *line {
        [units @ b'0'..=b'9', b'\r', b'\n', ..] => Some((u64::from(units - b'0'), 3)),
        [tens @ b'1'..=b'9', units @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((u64::from(tens - b'0') * 10 + u64::from(units - b'0'), 4))
        }
        [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', ..] => whole_long(line),
        _ => None,
    }
}

/// Three to eighteen digits: too few to overflow.
fn whole_long(line: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    let mut at = 0;
    loop {
        let digit = line.get(at)?.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        if at == 18 {
            return None;
        }
        value = value * 10 + u64::from(digit);
        at += 1;
    }
    (line.get(at..at + 2)? == b"\r\n").then_some((value, at + 2))
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
                match self.value.checked_mul(10).map(|tens| tens + digit) {
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
        if self.negative {
            0i64.wrapping_sub_unsigned(self.value)
        } else {
            self.value as i64
        }
    }
}
