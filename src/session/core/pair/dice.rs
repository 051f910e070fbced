//! Choices that a seed makes: the same seed, the same choices.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Less than `most`, which is not 0.
    pub fn below(&mut self, most: usize) -> usize {
        (self.roll() % most as u64) as usize
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// How bytes flow: in what pieces a socket gives and takes them.
#[derive(Clone, Debug)]
pub enum Flow {
    /// As much as there is.
    Whole,
    /// Pieces of any size.
    Pieces(Dice),
}

impl Flow {
    /// How much of so many bytes moves now; at least one.
    pub fn piece(&mut self, available: usize) -> usize {
        match self {
            Flow::Whole => available,
            Flow::Pieces(dice) => {
                if available > 1 && !dice.one_in(3) {
                    1 + dice.below(available)
                } else {
                    available
                }
            }
        }
    }

    /// Whether something happens that might as well not.
    pub fn happens(&mut self, times: usize) -> bool {
        match self {
            Flow::Whole => false,
            Flow::Pieces(dice) => dice.one_in(times),
        }
    }
}
