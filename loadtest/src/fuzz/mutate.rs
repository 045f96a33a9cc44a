//! Changed inputs without a fuzzer: seeds with bytes flipped, parts repeated, cut, moved and mixed with others and with words
//! that parsers know.

const WORDS: [&str; 28] = [
    "data: ",
    "\n\n",
    "\r\n\r\n",
    "\r",
    ": ping\n\n",
    "[DONE]",
    "null",
    "true",
    "{}",
    "[]",
    "\"",
    "\\u0000",
    "\\ud800",
    "\"choices\":",
    "\"delta\":",
    "\"usage\":",
    "\"finish_reason\":\"stop\"",
    "\"token\":",
    "\"generated_text\":\"\"",
    "\"stop\":true",
    "\"error\":{}",
    "1e999",
    "-1",
    "18446744073709551616",
    "🌊",
    "\u{feff}",
    "${HOME}",
    "&a *a",
];

/// An endless row of inputs, the same for the same seed.
pub struct Mutator<'a> {
    dice: fastrand::Rng,
    seeds: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    /// `seeds` must hold one.
    pub fn new(seed: u64, seeds: &'a [Vec<u8>]) -> Self {
        let dice = fastrand::Rng::with_seed(seed);
        Self { dice, seeds }
    }

    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.seed();
        for _ in 0..self.dice.usize(1..6) {
            self.change(&mut bytes);
        }
        bytes
    }

    fn seed(&mut self) -> Vec<u8> {
        self.seeds[self.dice.usize(0..self.seeds.len())].clone()
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.dice.usize(0..=bytes.len());
        let end = (at + self.dice.usize(0..40)).min(bytes.len());
        match self.dice.u32(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.dice.u32(0..8),
            1 if at < bytes.len() => bytes[at] = self.dice.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                let to = self.dice.usize(0..=bytes.len());
                bytes.splice(to..to, part);
            }
            4 => bytes.truncate(at),
            5 => {
                let other = self.seed();
                let from = self.dice.usize(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let word = WORDS[self.dice.usize(0..WORDS.len())];
                bytes.splice(at..at, word.bytes());
            }
        }
    }
}
