//! One modelled worker: an engine with continuous batching, iteration by iteration.
//!
//! An iteration admits from the queue while batch and KV cache have room, reads at most a chunk of prompts, takes
//! `a + c b + k KV + prompt/prefill` and gives each sequence whose prompt is read a token. When the KV cache runs over,
//! the newest sequence loses its place and is computed again.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Prompt tokens read in one iteration.
const CHUNK: u32 = 2_048;

/// How a kind of machine runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

    /// The same machine taking `times` as long for everything.
    pub fn slowed(&self, times: f64) -> Self {
        Self {
            base_s: self.base_s * times,
            per_sequence_s: self.per_sequence_s * times,
            per_kv_token_s: self.per_kv_token_s * times,
            prefill_tokens_per_s: self.prefill_tokens_per_s / times,
            ..*self
        }
    }

    fn iteration_s(&self, emitting: u32, held: u64, read: f64) -> f64 {
        self.base_s
            + self.per_sequence_s * f64::from(emitting)
            + self.per_kv_token_s * held as f64
            + read / self.prefill_tokens_per_s
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
    slowness: f64,
    waiting: VecDeque<Sequence>,
    active: Vec<Sequence>,
    now: Iteration,
    admitted: Vec<usize>,
    pub preemptions: u64,
}

/// The iteration that was begun.
#[derive(Clone, Copy, Debug, Default)]
struct Iteration {
    emitting: u32,
    held: u64,
    reads: bool,
}

impl ModelledWorker {
    pub fn new(law: MachineLaw) -> Self {
        Self {
            law,
            slowness: 1.0,
            waiting: VecDeque::new(),
            active: Vec::new(),
            now: Iteration::default(),
            admitted: Vec::new(),
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
        self.now = Iteration {
            emitting,
            held,
            reads: budget < CHUNK,
        };
        Some(self.law.iteration_s(emitting, held, read) * self.slowness)
    }

    /// How many iterations, the one that was just begun included, end in nothing but a token for each sequence: no prompt
    /// is read, no sequence ends, is admitted or loses its place. None where the one begun is not such.
    ///
    /// What waits stays there meanwhile: what the active ones claim of the cache does not shrink before one ends.
    pub fn steady(&self) -> u32 {
        let active = self.active.len() as u64;
        if self.now.reads || u64::from(self.now.emitting) != active {
            return 0;
        }
        let left = self
            .active
            .iter()
            .map(|sequence| sequence.job.output_tokens - sequence.emitted);
        let until_end = left.min().unwrap_or(0).saturating_sub(1);
        if active <= 1 {
            return until_end;
        }
        let room = u64::from(self.law.kv_tokens).saturating_sub(self.now.held + active);
        until_end.min(
            u32::try_from(room / active)
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        )
    }

    /// The length of the `n`-th iteration after the one that was begun, seconds, while all is steady.
    pub fn later_s(&self, n: u32) -> f64 {
        let more = u64::from(n) * u64::from(self.now.emitting);
        let healthy_s = self
            .law
            .iteration_s(self.now.emitting, self.now.held + more, 0.0);
        healthy_s * self.slowness
    }

    /// Ends so many iterations at once, the begun one being steady and the next begun like it.
    pub fn leap(&mut self, iterations: u32) {
        for sequence in &mut self.active {
            sequence.emitted += iterations;
        }
        self.now.held += u64::from(iterations) * u64::from(self.now.emitting);
    }

    /// Who is active now.
    pub fn active_ids(&self) -> impl Iterator<Item = usize> {
        self.active.iter().map(|sequence| sequence.job.id)
    }

    /// Who was admitted when the iteration began.
    pub fn admitted(&mut self) -> std::vec::Drain<'_, usize> {
        self.admitted.drain(..)
    }

    /// Everything is taken from it: who was there, and how many tokens each got.
    pub fn clear(&mut self) -> Vec<(usize, u32)> {
        self.now = Iteration::default();
        let waiting = self.waiting.drain(..);
        let all = self.active.drain(..).chain(waiting);
        all.map(|sequence| (sequence.job.id, sequence.emitted))
            .collect()
    }

    /// From the next iteration on everything takes so many times as long as its law says.
    pub fn slow(&mut self, times: f64) {
        self.slowness = times;
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
            self.admitted.push(next.job.id);
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
