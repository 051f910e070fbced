//! The structure of LZF: whether a compressed string can be unpacked, and to which length.
//!
//! Nothing is unpacked but the first bytes, as many as the caller keeps: that every reference points behind itself and
//! that the lengths add up is all that the decoder of a server checks (`lzf_d.c`).

/// One compressed string on its way.
#[derive(Debug)]
pub(super) struct Lzf {
    /// Compressed bytes that are still to come.
    packed: u64,
    /// Bytes unpacked so far, and in all.
    made: u64,
    len: u64,
    next: Next,
}

/// What the next compressed byte is.
#[derive(Clone, Copy, Debug)]
enum Next {
    Control,
    /// So many bytes stand for themselves.
    Literal(u8),
    /// A repetition of seven or more: how many more; and the high bits of its distance.
    More(u16),
    /// The low bits of the distance of a repetition of this length.
    Distance(u16, u16),
}

/// The most that one compressed byte can become: three bytes make 264.
const MOST: u64 = 88;

impl Lzf {
    /// `packed` bytes that become `len`.
    pub(super) fn new(packed: u64, len: u64) -> Result<Lzf, String> {
        if packed == 0 || len > packed.saturating_mul(MOST) {
            return Err(format!("{packed} compressed bytes cannot become {len}"));
        }
        Ok(Lzf { packed, made: 0, len, next: Next::Control })
    }

    /// Takes compressed bytes; the first `keep` unpacked ones go to `head`. How many were taken, and whether it is over;
    /// `last` is the last byte, where it stands for itself.
    pub(super) fn take(
        &mut self,
        input: &[u8],
        keep: usize,
        head: &mut Vec<u8>,
        last: &mut Option<u8>,
    ) -> Result<(usize, bool), String> {
        let most = input.len().min(usize::try_from(self.packed).unwrap_or(usize::MAX));
        let mut at = 0;
        while at < most {
            let byte = input[at];
            match self.next {
                Next::Control if byte < 32 => {
                    self.next = Next::Literal(byte + 1);
                    at += 1;
                }
                Next::Control => {
                    let high = u16::from(byte & 0x1f) << 8;
                    let long = byte >> 5 == 7;
                    self.next = if long { Next::More(high) } else { Next::Distance(high, u16::from(byte >> 5) + 2) };
                    at += 1;
                }
                Next::More(high) => {
                    self.next = Next::Distance(high, u16::from(byte) + 9);
                    at += 1;
                }
                Next::Literal(run) => {
                    let now = usize::from(run).min(most - at);
                    let bytes = &input[at..at + now];
                    head.extend_from_slice(&bytes[..now.min(keep.saturating_sub(head.len()))]);
                    *last = bytes.last().copied();
                    self.grow(now as u64)?;
                    at += now;
                    let left = run - now as u8;
                    self.next = if left == 0 { Next::Control } else { Next::Literal(left) };
                }
                Next::Distance(high, run) => {
                    let distance = u64::from(high | u16::from(byte)) + 1;
                    if distance > self.made {
                        return Err("a compressed string refers to bytes before its begin".to_owned());
                    }
                    // As long as the head is not full, it is all that was unpacked.
                    for _ in 0..usize::from(run).min(keep.saturating_sub(head.len())) {
                        head.push(head[head.len() - distance as usize]);
                    }
                    *last = None;
                    self.grow(u64::from(run))?;
                    at += 1;
                    self.next = Next::Control;
                }
            }
        }
        self.packed -= at as u64;
        if self.packed > 0 {
            return Ok((at, false));
        }
        if self.made < self.len || !matches!(self.next, Next::Control) {
            return Err(format!("a compressed string ends after {} of {} bytes", self.made, self.len));
        }
        Ok((at, true))
    }

    fn grow(&mut self, by: u64) -> Result<(), String> {
        self.made += by;
        if self.made > self.len {
            return Err(format!("a compressed string becomes longer than the {} bytes it says", self.len));
        }
        Ok(())
    }
}
