//! The engine's state without a clock: who waits, who is in the batch, and what one iteration does and takes.

use std::collections::{HashSet, VecDeque};

use tokio::sync::watch;

use super::law::{IterationLoad, PREFILL_CHUNK, SpeedLaw};

/// One request in the engine.
#[derive(Debug)]
pub struct Sequence {
    pub id: u64,
    pub prompt_tokens: u32,
    /// Tokens it will emit.
    pub length: u32,
    /// Tokens it might have emitted, for which the KV cache is reserved.
    pub reserve: u32,
    /// After so many tokens it keeps its place and emits no more.
    pub stall_after: Option<u32>,
    /// It emits one token in so many iterations; 1 is healthy.
    pub slowness: f64,
    progress: Progress,
}

#[derive(Debug)]
struct Progress {
    prefilled: u32,
    emitted: u32,
    /// Share of the next token that a slow sequence has done.
    credit: f64,
    emits_now: bool,
    outlet: watch::Sender<u32>,
}

impl Sequence {
    /// A healthy request and the place where its count of tokens appears.
    pub fn new(
        id: u64,
        prompt_tokens: u32,
        length: u32,
        reserve: u32,
    ) -> (Self, watch::Receiver<u32>) {
        let (outlet, emitted) = watch::channel(0);
        let sequence = Self {
            id,
            prompt_tokens: prompt_tokens.max(1),
            length,
            reserve: reserve.max(length),
            stall_after: None,
            slowness: 1.0,
            progress: Progress {
                prefilled: 0,
                emitted: 0,
                credit: 0.0,
                emits_now: false,
                outlet,
            },
        };
        (sequence, emitted)
    }

    /// Most tokens it can ever hold in the KV cache.
    fn claim(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.reserve)
    }

    fn held(&self) -> u64 {
        u64::from(self.progress.prefilled) + u64::from(self.progress.emitted)
    }

    fn is_stalled(&self) -> bool {
        self.stall_after
            .is_some_and(|after| self.progress.emitted >= after)
    }

    fn is_done(&self) -> bool {
        self.progress.emitted >= self.length
    }

    /// Works through a piece of the prompt; returns its size.
    fn prefill(&mut self, budget: u32) -> u32 {
        let piece = (self.prompt_tokens - self.progress.prefilled).min(budget);
        self.progress.prefilled += piece;
        self.progress.emits_now = self.progress.prefilled == self.prompt_tokens;
        piece
    }

    fn emit(&mut self) -> u32 {
        if !std::mem::take(&mut self.progress.emits_now) {
            return 0;
        }
        self.progress.credit += 1.0 / self.slowness;
        // A third of a token three times is a whole one, whatever the rounding.
        if self.progress.credit < 1.0 - 1e-9 {
            return 0;
        }
        self.progress.credit -= 1.0;
        self.progress.emitted += 1;
        1
    }

    fn publish(&self) {
        if *self.progress.outlet.borrow() != self.progress.emitted {
            self.progress.outlet.send_replace(self.progress.emitted);
        }
    }
}

/// What the engine has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub running: usize,
    pub waiting: usize,
    /// Tokens in the KV cache.
    pub kv_tokens: u64,
    /// Tokens emitted since the start.
    pub tokens: u64,
    /// Prompt tokens worked through since the start.
    pub prompt_tokens: u64,
    pub iterations: u64,
    /// Time all iterations took by the law, before scaling.
    pub busy_s: f64,
}

#[derive(Debug)]
pub struct Batch {
    law: SpeedLaw,
    /// The whole machine takes so many times as long.
    pub slowness: f64,
    waiting: VecDeque<Sequence>,
    active: Vec<Sequence>,
    claimed: u64,
    totals: Figures,
}

impl Batch {
    pub fn new(law: SpeedLaw) -> Self {
        Self {
            law,
            slowness: 1.0,
            waiting: VecDeque::new(),
            active: Vec::new(),
            claimed: 0,
            totals: Figures::default(),
        }
    }

    pub fn submit(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Forgets requests whose clients left.
    pub fn remove(&mut self, ids: &HashSet<u64>) {
        self.waiting.retain(|sequence| !ids.contains(&sequence.id));
        let claimed = &mut self.claimed;
        self.active.retain(|sequence| {
            let stays = !ids.contains(&sequence.id);
            if !stays {
                *claimed -= sequence.claim();
            }
            stays
        });
    }

    /// First come, first served, while batch and KV cache have room.
    pub fn admit(&mut self) {
        while let Some(next) = self.waiting.front() {
            let fits = self.claimed + next.claim() <= self.law.kv_tokens;
            if self.active.len() >= self.law.max_batch || !fits {
                return;
            }
            self.claimed += next.claim();
            self.active.extend(self.waiting.pop_front());
        }
    }

    /// Whether an iteration would move anybody.
    pub fn has_work(&self) -> bool {
        self.active.iter().any(|sequence| !sequence.is_stalled())
    }

    /// Shares out the prefill and returns how long the iteration takes, in unscaled seconds.
    pub fn begin_iteration(&mut self) -> f64 {
        let mut load = IterationLoad::default();
        for sequence in &mut self.active {
            if !sequence.is_stalled() {
                load.prefill_tokens += sequence.prefill(PREFILL_CHUNK - load.prefill_tokens);
                load.emitting += u32::from(sequence.progress.emits_now);
            }
            load.kv_tokens += sequence.held();
        }
        let duration_s = self.law.iteration_s(load) * self.slowness;
        self.totals.prompt_tokens += u64::from(load.prefill_tokens);
        self.totals.iterations += 1;
        self.totals.busy_s += duration_s;
        duration_s
    }

    /// Emits the tokens of the iteration and lets go of who is done.
    pub fn end_iteration(&mut self) {
        let (tokens, claimed) = (&mut self.totals.tokens, &mut self.claimed);
        self.active.retain_mut(|sequence| {
            *tokens += u64::from(sequence.emit());
            if !sequence.is_done() {
                return true;
            }
            sequence.publish();
            *claimed -= sequence.claim();
            false
        });
    }

    /// Shows everybody their tokens; apart from emitting, since several iterations may pass between two looks at a clock.
    pub fn publish(&self) {
        self.active.iter().for_each(Sequence::publish);
    }

    pub fn figures(&self) -> Figures {
        Figures {
            running: self.active.len(),
            waiting: self.waiting.len(),
            kv_tokens: self.active.iter().map(Sequence::held).sum(),
            ..self.totals
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: SpeedLaw = SpeedLaw {
        a_ms: 10.0,
        c_ms: 0.5,
        k_ms: 2.0,
        prefill_tps: 1000.0,
        kv_tokens: 10_000,
        max_batch: 4,
    };

    fn iterate(batch: &mut Batch) -> f64 {
        batch.admit();
        let duration_s = batch.begin_iteration();
        batch.end_iteration();
        duration_s
    }

    fn submit(batch: &mut Batch, id: u64, prompt: u32, length: u32) -> watch::Receiver<u32> {
        let (sequence, emitted) = Sequence::new(id, prompt, length, length);
        batch.submit(sequence);
        emitted
    }

    fn assert_ms(duration_s: f64, wanted_ms: f64) {
        assert!(
            (duration_s * 1000.0 - wanted_ms).abs() < 1e-9,
            "{duration_s} s, not {wanted_ms} ms"
        );
    }

    #[test]
    fn an_iteration_takes_what_the_law_says() {
        let mut batch = Batch::new(LAW);
        let _first = submit(&mut batch, 1, 100, 50);
        let _second = submit(&mut batch, 2, 300, 50);
        assert_ms(iterate(&mut batch), 10.0 + 0.5 * 2.0 + 2.0 * 0.400 + 400.0);
        assert_ms(iterate(&mut batch), 10.0 + 0.5 * 2.0 + 2.0 * 0.402);
        assert_eq!(batch.figures().tokens, 4);
        assert_eq!(batch.figures().kv_tokens, 404);
    }

    #[test]
    fn a_long_prompt_is_worked_through_in_chunks_while_others_go_on() {
        let mut batch = Batch::new(LAW);
        let short = submit(&mut batch, 1, 10, 50);
        iterate(&mut batch);
        let long = submit(&mut batch, 2, 5000, 50);
        assert_ms(
            iterate(&mut batch),
            10.0 + 0.5 + 2.0 * (11 + 2048) as f64 / 1000.0 + 2048.0,
        );
        iterate(&mut batch);
        batch.publish();
        assert_eq!((*short.borrow(), *long.borrow()), (3, 0));
        iterate(&mut batch);
        batch.publish();
        assert_eq!((*short.borrow(), *long.borrow()), (4, 1));
    }

    #[test]
    fn who_finds_no_room_waits_in_order() {
        let mut batch = Batch::new(LAW);
        let _big = submit(&mut batch, 1, 6000, 100);
        let big_too = submit(&mut batch, 2, 6000, 3);
        let small = submit(&mut batch, 3, 10, 3);
        iterate(&mut batch);
        assert_eq!((batch.figures().running, batch.figures().waiting), (1, 2));
        batch.remove(&HashSet::from([1]));
        for _ in 0..20 {
            iterate(&mut batch);
        }
        assert_eq!((*big_too.borrow(), *small.borrow()), (3, 3));
        assert_eq!(batch.figures().running, 0);
        assert_eq!(batch.claimed, 0);
    }

    #[test]
    fn a_batch_never_exceeds_its_limit() {
        let mut batch = Batch::new(LAW);
        let _all: Vec<_> = (0..9).map(|id| submit(&mut batch, id, 10, 50)).collect();
        iterate(&mut batch);
        assert_eq!((batch.figures().running, batch.figures().waiting), (4, 5));
    }

    #[test]
    fn a_stalled_sequence_keeps_its_place_and_costs_no_iterations() {
        let mut batch = Batch::new(LAW);
        let (mut sequence, emitted) = Sequence::new(1, 10, 50, 50);
        sequence.stall_after = Some(2);
        batch.submit(sequence);
        iterate(&mut batch);
        assert!(batch.has_work());
        iterate(&mut batch);
        assert!(!batch.has_work());
        batch.publish();
        assert_eq!((*emitted.borrow(), batch.figures().running), (2, 1));
    }

    #[test]
    fn a_slow_sequence_emits_one_token_in_so_many_iterations() {
        let mut batch = Batch::new(LAW);
        let (mut sequence, emitted) = Sequence::new(1, 10, 50, 50);
        sequence.slowness = 3.0;
        batch.submit(sequence);
        for _ in 0..30 {
            iterate(&mut batch);
        }
        batch.publish();
        assert_eq!(*emitted.borrow(), 10);
    }
}
