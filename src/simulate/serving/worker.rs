//! One modelled worker: an engine with continuous batching, iteration by iteration.
//!
//! An iteration admits from the queue while batch and KV cache have room, reads at most a chunk of prompts, takes
//! `a + c b + k KV + prompt/prefill` and gives each sequence whose prompt is read a token. When the KV cache runs over,
//! the newest sequence loses its place and is computed again.

use std::collections::VecDeque;

/// Prompt tokens read in one iteration.
const CHUNK: u32 = 2_048;

/// How a kind of machine runs a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineLaw {
    pub base_s: f64,
    pub per_sequence_s: f64,
    pub per_kv_token_s: f64,
    pub prefill_tokens_per_s: f64,
    pub kv_tokens: u32,
    pub batch_max: u32,
}

impl MachineLaw {
    /// Requests a second at saturation, all being of this size.
    pub fn requests_per_s(&self, prompt_tokens: f64, output_tokens: f64) -> f64 {
        let each = prompt_tokens + output_tokens;
        let batch = f64::from(self.batch_max)
            .min(f64::from(self.kv_tokens) / each)
            .max(1.0);
        let held = batch * (prompt_tokens + output_tokens / 2.0);
        let iteration_s = self.base_s + self.per_sequence_s * batch + self.per_kv_token_s * held;
        1.0 / (output_tokens * iteration_s / batch + prompt_tokens / self.prefill_tokens_per_s)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub id: usize,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    /// For which the KV cache has to have room when it is admitted, besides the prompt.
    pub reserve_tokens: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sequence {
    job: Job,
    /// Prompt, and what was made before a preemption.
    to_read: u32,
    read: u32,
    emitted: u32,
    emits_now: bool,
}

impl Sequence {
    /// Made since it was last admitted.
    fn made(&self) -> u64 {
        u64::from(self.emitted + self.job.prompt_tokens - self.to_read)
    }

    fn held(&self) -> u64 {
        u64::from(self.read) + self.made()
    }

    fn needs(&self) -> u64 {
        let left = self.job.output_tokens - self.emitted;
        u64::from(self.to_read) + self.made() + u64::from(left.min(self.job.reserve_tokens))
    }
}

/// A token that came at the end of an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission {
    pub id: usize,
    pub last: bool,
}

#[derive(Clone, Debug)]
pub struct ModelledWorker {
    law: MachineLaw,
    /// Everything takes so many times as long.
    pub(super) slowness: f64,
    waiting: VecDeque<Sequence>,
    active: Vec<Sequence>,
    pub preemptions: u64,
}

impl ModelledWorker {
    pub fn new(law: MachineLaw) -> Self {
        Self {
            law,
            slowness: 1.0,
            waiting: VecDeque::new(),
            active: Vec::new(),
            preemptions: 0,
        }
    }

    pub fn submit(&mut self, job: Job) {
        self.waiting.push_back(Sequence {
            to_read: job.prompt_tokens.max(1),
            job: Job {
                prompt_tokens: job.prompt_tokens.max(1),
                output_tokens: job.output_tokens.max(1),
                ..job
            },
            read: 0,
            emitted: 0,
            emits_now: false,
        });
    }

    /// Begins an iteration; its length in seconds, or `None` if there is nothing to do.
    pub fn begin(&mut self) -> Option<f64> {
        self.make_room();
        self.admit();
        if self.active.is_empty() {
            return None;
        }
        let mut budget = CHUNK;
        let mut emitting = 0_u32;
        let mut held = 0;
        for sequence in &mut self.active {
            let piece = (sequence.to_read - sequence.read).min(budget);
            budget -= piece;
            sequence.read += piece;
            sequence.emits_now = sequence.read == sequence.to_read;
            emitting += u32::from(sequence.emits_now);
            held += sequence.held();
        }
        let read = f64::from(CHUNK - budget);
        let healthy_s = self.law.base_s
            + self.law.per_sequence_s * f64::from(emitting)
            + self.law.per_kv_token_s * held as f64
            + read / self.law.prefill_tokens_per_s;
        Some(healthy_s * self.slowness)
    }

    /// Ends the iteration: who got a token.
    pub fn end(&mut self, emissions: &mut Vec<Emission>) {
        self.active.retain_mut(|sequence| {
            if !std::mem::take(&mut sequence.emits_now) {
                return true;
            }
            sequence.emitted += 1;
            let last = sequence.emitted >= sequence.job.output_tokens;
            emissions.push(Emission {
                id: sequence.job.id,
                last,
            });
            !last
        });
    }

    fn admit(&mut self) {
        let mut claimed: u64 = self.active.iter().map(Sequence::needs).sum();
        while let Some(next) = self.waiting.front() {
            let full = self.active.len() >= self.law.batch_max as usize
                || claimed + next.needs() > u64::from(self.law.kv_tokens);
            // One that is larger than the whole cache runs alone rather than never.
            if full && !self.active.is_empty() {
                return;
            }
            claimed += next.needs();
            self.active.extend(self.waiting.pop_front());
        }
    }

    /// The next token of each must fit; the newest goes first.
    fn make_room(&mut self) {
        let mut held: u64 = self.active.iter().map(|sequence| sequence.held() + 1).sum();
        while held > u64::from(self.law.kv_tokens) && self.active.len() > 1 {
            let Some(mut newest) = self.active.pop() else {
                return;
            };
            held -= newest.held() + 1;
            self.preemptions += 1;
            newest.to_read = newest.job.prompt_tokens + newest.emitted;
            newest.read = 0;
            self.waiting.push_front(newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: MachineLaw = MachineLaw {
        base_s: 0.010,
        per_sequence_s: 0.001,
        per_kv_token_s: 0.0,
        prefill_tokens_per_s: 1_000.0,
        kv_tokens: 1_000,
        batch_max: 4,
    };

    fn job(id: usize, prompt_tokens: u32, output_tokens: u32, reserve_tokens: u32) -> Job {
        Job {
            id,
            prompt_tokens,
            output_tokens,
            reserve_tokens,
        }
    }

    /// Iterations until everybody is done, and how many tokens each got.
    fn run(worker: &mut ModelledWorker, jobs: usize) -> (usize, Vec<u32>) {
        let mut tokens = vec![0; jobs];
        let mut iterations = 0;
        while worker.begin().is_some() {
            let mut emissions = Vec::new();
            worker.end(&mut emissions);
            emissions
                .iter()
                .for_each(|emission| tokens[emission.id] += 1);
            iterations += 1;
            assert!(iterations < 100_000, "it never ends");
        }
        (iterations, tokens)
    }

    #[test]
    fn an_iteration_takes_what_the_law_says() {
        let mut worker = ModelledWorker::new(LAW);
        worker.submit(job(0, 100, 2, 2));
        let first = worker.begin().unwrap();
        assert!((first - 0.111).abs() < 1e-9, "{first}");
        worker.end(&mut Vec::new());
        let second = worker.begin().unwrap();
        assert!((second - 0.011).abs() < 1e-9, "{second}");
    }

    #[test]
    fn with_whole_reserves_nobody_is_preempted_and_everybody_is_served() {
        let mut worker = ModelledWorker::new(LAW);
        (0..20).for_each(|id| worker.submit(job(id, 300, 100, u32::MAX)));
        let (_, tokens) = run(&mut worker, 20);
        assert_eq!(tokens, vec![100; 20]);
        assert_eq!(worker.preemptions, 0);
    }

    #[test]
    fn a_full_cache_preempts_the_newest_and_no_token_is_made_twice() {
        let mut worker = ModelledWorker::new(LAW);
        (0..6).for_each(|id| worker.submit(job(id, 240, 200, 1)));
        let (_, tokens) = run(&mut worker, 6);
        assert_eq!(tokens, vec![200; 6]);
        assert!(worker.preemptions > 0);
    }

    #[test]
    fn what_is_larger_than_the_cache_runs_alone() {
        let mut worker = ModelledWorker::new(LAW);
        worker.submit(job(0, 5_000, 10, u32::MAX));
        worker.submit(job(1, 10, 10, u32::MAX));
        assert_eq!(run(&mut worker, 2).1, vec![10, 10]);
    }
}
