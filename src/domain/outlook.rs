//! How much of an answer is still to come, by how much has come.

/// Lengths of answers in tokens fall into so many bins, four for every three doublings.
pub const LENGTH_BINS: usize = 24;
const BINS_A_DOUBLING: f64 = 4.0 / 3.0;
/// Whoever produces is expected to produce at least this much more.
const LEAST_LEFT: f64 = 8.0;

/// The bin that an answer of so many tokens falls into; longer ones than 262,144 into the last.
pub fn length_bin(tokens: f64) -> usize {
    ((tokens.max(1.0).log2() * BINS_A_DOUBLING) as usize).min(LENGTH_BINS - 1)
}

/// The least length in a bin.
pub fn length_bin_start(bin: usize) -> f64 {
    (bin as f64 / BINS_A_DOUBLING).exp2()
}

/// Tokens still expected of an answer when its length enters each bin. All zero where nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outlook([f32; LENGTH_BINS]);

impl Outlook {
    /// `left` gives the tokens expected when an answer enters a bin.
    pub fn new(left: impl Fn(usize) -> f64) -> Self {
        Self(std::array::from_fn(|bin| left(bin).max(LEAST_LEFT) as f32))
    }

    /// After `produced` tokens, which is counted down from the last bin entered.
    pub fn left_after(&self, produced: u64) -> Option<f64> {
        let bin = length_bin(produced as f64);
        let entered = f64::from(self.0[bin]);
        let since = (produced as f64 - length_bin_start(bin)).max(0.0);
        (entered > 0.0).then(|| (entered - since).max(LEAST_LEFT))
    }

    /// The same for what comes after `produced` tokens, counted from there.
    pub fn after(&self, produced: u64) -> Self {
        let left = |bin| self.left_after(produced + length_bin_start(bin) as u64);
        Self(std::array::from_fn(|bin| {
            left(bin).unwrap_or_default() as f32
        }))
    }

    /// The next length at which more is known.
    pub fn next_look(produced: u64) -> u64 {
        match length_bin(produced as f64) + 1 {
            LENGTH_BINS.. => u64::MAX,
            next => length_bin_start(next).ceil() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_begin_where_the_one_before_ends() {
        for bin in 0..LENGTH_BINS {
            let start = length_bin_start(bin);
            assert_eq!(length_bin(start + 0.001), bin, "{start}");
            assert_eq!(length_bin(start - 0.001), bin.saturating_sub(1), "{start}");
        }
        assert_eq!(length_bin(f64::INFINITY), LENGTH_BINS - 1);
        assert_eq!(length_bin(f64::NAN), 0);
    }

    #[test]
    fn what_is_left_is_counted_down_between_looks_and_never_to_nothing() {
        let outlook = Outlook::new(|bin| if bin < 8 { 100.0 } else { 40.0 });
        assert_eq!(outlook.left_after(0), Some(100.0));
        assert_eq!(Outlook::next_look(40), 64);
        assert_eq!(outlook.left_after(64), Some(40.0));
        assert_eq!(outlook.left_after(80), Some(24.0));
        assert_eq!(outlook.left_after(106), Some(8.0));
        assert_eq!(
            outlook.left_after(108),
            Some(40.0 - (108.0 - length_bin_start(9)))
        );
        assert_eq!(Outlook::next_look(1 << 40), u64::MAX);
        let later = outlook.after(64).left_after(16).expect("known");
        assert!((later - 24.0).abs() < 1.0, "{later}");
        assert_eq!(Outlook::default().left_after(5), None);
        assert_eq!(Outlook::default().after(7), Outlook::default());
    }
}
