//! What a worker still holds of one request: predicted work, the part of it that is the prompt, and KV cache.

use crate::domain::{Outlook, PredictedCost, Tokens};

/// While a request runs it counts as at least this much work, however wrong the prediction was.
const LEAST_LEFT: u64 = 8_000;
/// 4 million tokens; whoever adds up 2^16 requests stays within 48 bits.
const MOST: f64 = ((1u64 << 32) - 1) as f64;

/// Work in thousandths of an output-equivalent token, so that sums are exact and return to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hold {
    work: u64,
    prompt: u64,
    kv: u64,
    prompt_tokens: u64,
    produced: u64,
    is_unseen: bool,
    outlook: Outlook,
    /// Tokens after which the outlook says something new.
    next_look: u64,
}

/// What left the worker's load, what came to it because the answer gets longer than was thought, and what its
/// KV cache took beyond the prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub work: u64,
    pub more_work: u64,
    pub prompt: u64,
    pub more_kv: u64,
}

impl Hold {
    pub fn new(cost: &PredictedCost) -> Self {
        let work = thousandths(cost.total);
        let prompt_tokens = tokens(cost.prompt_tokens);
        Self {
            work,
            prompt: work.saturating_sub(thousandths(Tokens(cost.output_tokens))),
            kv: tokens(kv_of(cost)),
            prompt_tokens,
            produced: 0,
            is_unseen: false,
            outlook: cost.outlook,
            next_look: Outlook::next_look(0),
        }
    }

    /// Nobody will see when the prompt is read.
    pub fn unseen(cost: &PredictedCost) -> Self {
        Self {
            prompt: 0,
            is_unseen: true,
            ..Self::new(cost)
        }
    }

    pub fn work(&self) -> u64 {
        self.work
    }

    pub fn prompt(&self) -> u64 {
        self.prompt
    }

    pub fn kv(&self) -> u64 {
        self.kv
    }

    pub fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens
    }

    /// Tokens in the KV cache once the prompt is read: now, or where nobody sees its answer grow, half-way through.
    pub fn resident(&self) -> u64 {
        if self.is_unseen {
            self.prompt_tokens + self.kv.saturating_sub(self.prompt_tokens) / 2
        } else {
            self.prompt_tokens + self.produced
        }
    }

    /// Nobody sees when its prompt is read, nor its answer grow.
    pub fn is_unseen(&self) -> bool {
        self.is_unseen
    }

    /// The first token came: the prompt's share is done.
    pub fn prefilled(&mut self) -> Progress {
        let prompt = std::mem::take(&mut self.prompt);
        Progress {
            work: self.done(prompt),
            prompt,
            ..Progress::default()
        }
    }

    pub fn produced(&mut self, tokens: u32) -> Progress {
        self.produced += u64::from(tokens);
        let done = self.done(u64::from(tokens) * 1_000);
        let (less_work, more_work) = self.look_again();
        let more_kv = (self.prompt_tokens + self.produced).saturating_sub(self.kv);
        self.kv += more_kv;
        Progress {
            work: done + less_work,
            more_work,
            prompt: 0,
            more_kv,
        }
    }

    /// What is left according to how far the answer has got: how much less, or how much more.
    fn look_again(&mut self) -> (u64, u64) {
        if self.produced < self.next_look {
            return (0, 0);
        }
        self.next_look = Outlook::next_look(self.produced);
        let Some(left) = self.outlook.left_after(self.produced) else {
            return (0, 0);
        };
        let before = self.work;
        self.work = self.prompt + thousandths(Tokens(left)).max(LEAST_LEFT);
        (
            before.saturating_sub(self.work),
            self.work.saturating_sub(before),
        )
    }

    fn done(&mut self, work: u64) -> u64 {
        let work = work.min(self.work.saturating_sub(LEAST_LEFT));
        self.work -= work;
        work
    }
}

/// Tokens a request is expected to take of a KV cache at most.
pub fn kv_of(cost: &PredictedCost) -> f64 {
    cost.prompt_tokens + cost.output_reserved
}

pub fn thousandths(cost: Tokens) -> u64 {
    (cost.0.max(0.0) * 1_000.0).min(MOST) as u64
}

fn tokens(count: f64) -> u64 {
    count.clamp(0.0, MOST) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(prompt: f64, output: f64) -> PredictedCost {
        crate::policy::cost::cost(prompt, output, 5.0)
    }

    #[test]
    fn what_is_done_leaves_and_the_least_stays() {
        let mut hold = Hold::new(&cost(500.0, 100.0));
        assert_eq!((hold.work(), hold.kv()), (200_000, 660));
        let read = hold.prefilled();
        assert_eq!((read.work, read.prompt), (100_000, 100_000));
        assert_eq!(hold.produced(60).work, 60_000);
        assert_eq!(hold.produced(120).work, 32_000);
        assert_eq!(hold.work(), 8_000);
        assert_eq!(hold.kv(), 680, "longer than predicted");
    }

    #[test]
    fn an_answer_that_gets_longer_than_thought_weighs_more_again() {
        let outlook = Outlook::new(|bin| if bin < 8 { 50.0 } else { 400.0 });
        let predicted = PredictedCost {
            outlook,
            ..cost(0.0, 50.0)
        };
        let mut hold = Hold::new(&predicted);
        let (mut left, mut came) = (0, 0);
        for _ in 0..64 {
            let progress = hold.produced(1);
            left += progress.work;
            came += progress.more_work;
            assert_eq!(50_000 + came - left, hold.work(), "nothing is lost");
        }
        assert_eq!(hold.work(), 400_000);
    }

    #[test]
    fn absurd_costs_are_bounded() {
        assert_eq!(thousandths(Tokens(f64::NAN)), 0);
        assert_eq!(thousandths(Tokens(f64::INFINITY)), (1 << 32) - 1);
    }
}
