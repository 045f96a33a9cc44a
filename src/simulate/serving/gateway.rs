//! The gateway's books on each worker, kept as the fleet keeps them.

use crate::domain::{
    BenchmarkResult, BenchmarkSettings, Candidate, CapacityView, GapLaw, IterationLaw,
    IterationLoad, KvRoom, Outlook, PredictedCost, RoutingSettings, Tokens, TokensPerSecond,
};
use crate::policy::capacity::{
    CapacityEstimate, GapSample, PRIOR_SD_UNSEEN, Second, Served, Terms,
};
use crate::policy::ejection::PaceSample;
use crate::policy::routing::hold::Hold;

use super::Machine;

/// The first gaps of a stream tell of prefill and are not measured.
const GAPS_SKIPPED: u32 = 2;

#[derive(Clone, Debug)]
pub(super) struct Book {
    machine: Machine,
    estimate: CapacityEstimate,
    work: u64,
    prefilling: u64,
    kv: u64,
    /// Tokens that streams hold by now.
    resident: u64,
    in_flight: u32,
    decoding: u32,
    /// Prompts without a first token, and when they were sent, added up.
    unread: u32,
    unread_since_s: f64,
    gaps: Gaps,
    served: Served,
    shown: Shown,
}

/// What the estimate says, found out once a second as in the fleet.
#[derive(Clone, Copy, Debug)]
struct Shown {
    speed: TokensPerSecond,
    gap: GapLaw,
    full_concurrency: u32,
}

impl Shown {
    fn of(estimate: &CapacityEstimate) -> Self {
        Self {
            speed: estimate.speed(),
            gap: estimate.gap(),
            full_concurrency: estimate.full_concurrency(),
        }
    }
}

/// Sums over the gaps of a second. Whole numbers, so that many gaps at once add up as they do one by one.
#[derive(Clone, Copy, Debug, Default)]
struct Gaps {
    ns: u64,
    tokens: u32,
    streams_ns: u128,
    resident_ns: u128,
    /// Prompt tokens, each as often as a stream waited for it.
    prompts: f64,
}

/// One request at a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    hold: Hold,
    sent_s: f64,
    last_ns: Option<u64>,
    tokens: u32,
    prompt_tokens: u64,
}

impl Stream {
    /// Nothing has come yet.
    pub(super) fn is_first(&self) -> bool {
        self.tokens == 0
    }
}

impl Book {
    pub(super) fn new(machine: &Machine, settings: &RoutingSettings) -> Self {
        let prior = machine.speed_prior;
        let terms = Terms::new(prior, machine.max_concurrency, machine.kv_tokens, settings);
        let estimate = CapacityEstimate::new(prior, PRIOR_SD_UNSEEN, terms);
        Self {
            machine: machine.clone(),
            shown: Shown::of(&estimate),
            estimate,
            work: 0,
            prefilling: 0,
            kv: 0,
            resident: 0,
            in_flight: 0,
            decoding: 0,
            unread: 0,
            unread_since_s: 0.0,
            gaps: Gaps::default(),
            served: Served::default(),
        }
    }

    pub(super) fn candidate(&self, slot: usize) -> Candidate {
        Candidate {
            slot,
            ready: true,
            tried: false,
            in_flight: self.in_flight,
            max_concurrency: self.machine.max_concurrency,
            full_concurrency: self.shown.full_concurrency,
            speed: self.shown.speed,
            weight: 1.0,
            outstanding: Tokens(self.work as f64 / 1_000.0),
            prefilling: Tokens(self.prefilling as f64 / 1_000.0),
            gap: self.shown.gap,
            kv: self.machine.kv_tokens.map(|capacity| KvRoom {
                used: self.kv as f64,
                capacity: f64::from(capacity),
            }),
            usd_per_hour: self.machine.usd_per_hour,
            prefix_held: 0.0,
        }
    }

    pub(super) fn capacity(&self) -> CapacityView {
        self.estimate.view()
    }

    pub(super) fn sent(&mut self, cost: &PredictedCost, now_s: f64) -> Stream {
        let hold = Hold::new(cost);
        self.work += hold.work();
        self.prefilling += hold.prompt();
        self.kv += hold.kv();
        self.in_flight += 1;
        self.unread += 1;
        self.unread_since_s += now_s;
        Stream {
            hold,
            sent_s: now_s,
            last_ns: None,
            tokens: 0,
            prompt_tokens: cost.prompt_tokens.max(0.0) as u64,
        }
    }

    pub(super) fn token(&mut self, stream: &mut Stream, now_ns: u64) {
        stream.tokens += 1;
        match stream.last_ns.replace(now_ns) {
            None => self.first_token(stream),
            Some(last_ns) if stream.tokens > GAPS_SKIPPED + 1 => {
                let gap_ns = now_ns - last_ns;
                self.gaps.ns += gap_ns;
                self.gaps.tokens += 1;
                self.gaps.streams_ns += u128::from(gap_ns) * u128::from(self.decoding);
                self.gaps.resident_ns += u128::from(gap_ns) * u128::from(self.resident);
            }
            Some(_) => {}
        }
        self.produced(stream, 1);
        self.resident += 1;
    }

    fn produced(&mut self, stream: &mut Stream, tokens: u32) {
        let made = stream.hold.produced(tokens);
        self.work = self.work + made.more_work - made.work;
        self.kv += made.more_kv;
        self.served.output_tokens += f64::from(tokens);
    }

    /// Iterations of `streams` sequences that ended at `ends_ns`, the one before at `last_ns`: the same as
    /// [`Self::token`] for each stream at each end, but for what [`Self::tokens`] does.
    pub(super) fn iterations(&mut self, streams: u32, last_ns: u64, ends_ns: &[u64]) {
        let streams = u128::from(streams);
        let mut last_ns = last_ns;
        for &end_ns in ends_ns {
            let gap_ns = u128::from(end_ns - last_ns);
            last_ns = end_ns;
            // Resident tokens as each stream in turn finds them.
            let found = streams * u128::from(self.resident) + streams * (streams - 1) / 2;
            self.gaps.ns += (gap_ns * streams) as u64;
            self.gaps.tokens += streams as u32;
            self.gaps.streams_ns += gap_ns * streams * u128::from(self.decoding);
            self.gaps.resident_ns += gap_ns * found;
            self.resident += streams as u64;
        }
    }

    /// What a stream got in them.
    pub(super) fn tokens(&mut self, stream: &mut Stream, tokens: u32, now_ns: u64) {
        stream.last_ns = Some(now_ns);
        let mut left = tokens;
        while left > 0 {
            // As far as something new is known of its length, as if they had come one by one.
            let made = u64::from(stream.tokens);
            let look = Outlook::next_look(made).saturating_sub(made).max(1);
            let piece = left.min(u32::try_from(look).unwrap_or(u32::MAX));
            self.produced(stream, piece);
            stream.tokens += piece;
            left -= piece;
        }
    }

    /// Whether all gaps of the stream are measured from now on.
    pub(super) fn is_measured(stream: &Stream) -> bool {
        stream.tokens > GAPS_SKIPPED
    }

    fn first_token(&mut self, stream: &mut Stream) {
        let read = stream.hold.prefilled();
        self.work -= read.work;
        self.prefilling -= read.prompt;
        self.unread -= 1;
        self.unread_since_s -= stream.sent_s;
        let prompt = stream.prompt_tokens as f64;
        // Those that flow already have waited for the prompt.
        self.gaps.prompts += prompt * f64::from(self.decoding);
        self.served.prompt_tokens += prompt;
        self.resident += stream.prompt_tokens;
        self.decoding += 1;
    }

    /// Its engine says how long its prompt was.
    pub(super) fn told(&mut self, stream: &Stream, prompt_tokens: u32) {
        self.served.told.predicted += stream.prompt_tokens as f64;
        self.served.told.actual += f64::from(prompt_tokens);
    }

    pub(super) fn ended(&mut self, stream: &Stream) {
        self.work -= stream.hold.work();
        self.prefilling -= stream.hold.prompt();
        self.kv -= stream.hold.kv();
        self.resident -= stream.prompt_tokens + u64::from(stream.tokens);
        self.in_flight -= 1;
        self.decoding -= 1;
    }

    /// It goes elsewhere, wherever it is.
    pub(super) fn left(&mut self, stream: &Stream) {
        if stream.tokens > 0 {
            self.ended(stream);
            return;
        }
        self.work -= stream.hold.work();
        self.prefilling -= stream.hold.prompt();
        self.kv -= stream.hold.kv();
        self.in_flight -= 1;
        self.unread -= 1;
        self.unread_since_s -= stream.sent_s;
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn outstanding(&self) -> Tokens {
        Tokens(self.work as f64 / 1_000.0)
    }

    pub(super) fn speed(&self) -> TokensPerSecond {
        self.shown.speed
    }

    pub(super) fn dependable(&self) -> TokensPerSecond {
        self.estimate.dependable()
    }

    /// What it showed before it serves.
    pub(super) fn take_benchmark(&mut self, result: &BenchmarkResult, asked: &BenchmarkSettings) {
        self.estimate.take_benchmark(result, Some(asked));
        self.shown = Shown::of(&self.estimate);
    }

    /// Once a second.
    pub(super) fn measure(&mut self, now_s: f64) -> Option<PaceSample> {
        let gaps = std::mem::take(&mut self.gaps);
        let unread = f64::from(self.unread.max(1));
        let second = Second {
            seconds: 1.0,
            gaps: gaps.sample(),
            served: std::mem::take(&mut self.served),
            decoding: self.decoding,
            in_flight: self.in_flight,
            kv_reserved_tokens: self.kv as f64,
            outstanding: Tokens(self.work as f64 / 1_000.0),
            prefilling: Tokens(self.prefilling as f64 / 1_000.0),
            unread_for_s: if self.unread > 0 {
                now_s - self.unread_since_s / unread
            } else {
                0.0
            },
        };
        self.estimate.observe(&second);
        self.shown = Shown::of(&self.estimate);
        second.gaps.map(|gaps| PaceSample {
            mean_gap_s: gaps.mean_gap_s,
            load: gaps.load,
            seconds: 1.0,
        })
    }

    pub(super) fn law(&self) -> IterationLaw {
        self.estimate.law()
    }

    /// The work changed, not the worker.
    pub(super) fn learn_anew(&mut self) {
        self.estimate.widen();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.work == 0
            && self.prefilling == 0
            && self.kv == 0
            && self.resident == 0
            && self.in_flight == 0
    }
}

impl Gaps {
    fn sample(self) -> Option<GapSample> {
        let ns = self.ns as f64;
        (self.tokens > 0 && self.ns > 0).then(|| GapSample {
            mean_gap_s: ns / 1e9 / f64::from(self.tokens),
            load: IterationLoad {
                streams: self.streams_ns as f64 / ns,
                kv_kilotokens: self.resident_ns as f64 / ns / 1_000.0,
                prompt_tokens: self.prompts / f64::from(self.tokens),
            },
            tokens: self.tokens,
        })
    }
}
