//! When a first token is so late that a second worker is asked too: beyond what nearly all requests took, and for a
//! small share of requests only (Dean, Barroso: The Tail at Scale, CACM 2013).

use std::time::Duration;

use crate::domain::HedgeSettings;

/// First tokens seen before anything counts as late.
const SEEN_MIN: f64 = 100.0;
/// The share of first tokens that is not late.
const QUANTILE: f64 = 0.99;
/// Classes of times, each 1.25 times the one before, from 1 ms on: up to 22 minutes.
const CLASSES: usize = 64;
const RATIO: f64 = 1.25;
const FIRST_MS: f64 = 1.0;
/// Weights are halved when they reach this sum, so that about the last thousand requests count.
const WEIGHT_MAX: f64 = 2_000.0;
/// Hedges that may be saved up.
const BURST: f64 = 5.0;

/// The times to the first token of one endpoint's requests, and what is left of its budget.
#[derive(Clone, Debug)]
pub struct HedgeBook {
    classes: [f64; CLASSES],
    seen: f64,
    budget: f64,
}

impl Default for HedgeBook {
    fn default() -> Self {
        Self {
            classes: [0.0; CLASSES],
            seen: 0.0,
            budget: BURST,
        }
    }
}

impl HedgeBook {
    /// A first token came `ttft` after its request was sent to the worker.
    pub fn first_token(&mut self, ttft: Duration) {
        self.classes[class_of(ttft)] += 1.0;
        self.seen += 1.0;
        if self.seen >= WEIGHT_MAX {
            self.classes.iter_mut().for_each(|weight| *weight /= 2.0);
            self.seen /= 2.0;
        }
    }

    /// A request was sent; it earns its share of a hedge.
    pub fn sent(&mut self, settings: &HedgeSettings) {
        self.budget = (self.budget + settings.share).min(BURST);
    }

    /// After this a first token is late. `None`: hedging is off, or too little is known.
    pub fn late_after(&self, settings: &HedgeSettings) -> Option<Duration> {
        if settings.share <= 0.0 || self.seen < SEEN_MIN {
            return None;
        }
        let mut below = 0.0;
        for (class, weight) in self.classes.iter().enumerate() {
            below += weight;
            if below >= QUANTILE * self.seen {
                let ms = FIRST_MS * RATIO.powi(class as i32 + 1);
                return Some(Duration::from_secs_f64(ms / 1_000.0).max(settings.after_min));
            }
        }
        None
    }

    /// Takes one hedge from the budget.
    pub fn spend(&mut self) -> bool {
        let may = self.budget >= 1.0;
        if may {
            self.budget -= 1.0;
        }
        may
    }
}

fn class_of(time: Duration) -> usize {
    let ms = time.as_secs_f64() * 1_000.0 / FIRST_MS;
    if ms <= 1.0 {
        return 0;
    }
    ((ms.ln() / RATIO.ln()) as usize).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(share: f64) -> HedgeSettings {
        HedgeSettings {
            share,
            after_min: Duration::from_millis(50),
        }
    }

    fn seen(times_ms: impl IntoIterator<Item = u64>) -> HedgeBook {
        let mut book = HedgeBook::default();
        for ms in times_ms {
            book.first_token(Duration::from_millis(ms));
        }
        book
    }

    #[test]
    fn late_is_what_one_in_a_hundred_exceeds() {
        let times = (0..1_000).map(|n| if n % 50 == 0 { 4_000 } else { 200 });
        let late = seen(times).late_after(&settings(0.1)).expect("enough seen");
        assert!((4_000..5_100).contains(&late.as_millis()), "{late:?}");
        let late = seen((0..1_000).map(|n| if n % 200 == 0 { 4_000 } else { 200 }));
        let late = late.late_after(&settings(0.1)).expect("enough seen");
        assert!((200..260).contains(&late.as_millis()), "{late:?}");
    }

    #[test]
    fn nothing_is_late_before_enough_was_seen_or_with_hedging_off() {
        assert_eq!(seen([5; 99]).late_after(&settings(0.1)), None);
        assert_eq!(seen([5; 500]).late_after(&settings(0.0)), None);
        assert_eq!(
            seen([5; 500]).late_after(&settings(0.1)),
            Some(Duration::from_millis(50))
        );
    }

    #[test]
    fn hedges_are_a_share_of_the_requests() {
        let mut book = HedgeBook::default();
        while book.spend() {}
        let mut hedges = 0;
        for _ in 0..1_000 {
            book.sent(&settings(0.02));
            hedges += u32::from(book.spend());
        }
        assert!((19..=20).contains(&hedges), "{hedges}");
    }
}
