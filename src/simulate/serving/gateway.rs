//! The gateway's books on each worker, kept as the fleet keeps them.

use crate::domain::{
    Candidate, CapacityView, IterationLaw, IterationLoad, KvRoom, PredictedCost, RoutingSettings,
    Tokens,
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
}

/// Sums over the gaps of a second.
#[derive(Clone, Copy, Debug, Default)]
struct Gaps {
    seconds: f64,
    tokens: u32,
    streams_s: f64,
    resident_s: f64,
    /// Prompt tokens, each as often as a stream waited for it.
    prompts: f64,
}

/// One request at a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) slot: usize,
    hold: Hold,
    sent_s: f64,
    last_s: Option<f64>,
    tokens: u32,
    prompt_tokens: u64,
}

impl Book {
    pub(super) fn new(machine: &Machine, settings: &RoutingSettings) -> Self {
        let prior = machine.speed_prior;
        let terms = Terms::new(prior, machine.max_concurrency, machine.kv_tokens, settings);
        Self {
            machine: machine.clone(),
            estimate: CapacityEstimate::new(prior, PRIOR_SD_UNSEEN, terms),
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
            full_concurrency: self.estimate.full_concurrency(),
            speed: self.estimate.speed(),
            weight: 1.0,
            outstanding: Tokens(self.work as f64 / 1_000.0),
            prefilling: Tokens(self.prefilling as f64 / 1_000.0),
            gap: self.estimate.gap(),
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

    pub(super) fn sent(&mut self, slot: usize, cost: &PredictedCost, now_s: f64) -> Stream {
        let hold = Hold::new(cost);
        self.work += hold.work();
        self.prefilling += hold.prompt();
        self.kv += hold.kv();
        self.in_flight += 1;
        self.unread += 1;
        self.unread_since_s += now_s;
        Stream {
            slot,
            hold,
            sent_s: now_s,
            last_s: None,
            tokens: 0,
            prompt_tokens: cost.prompt_tokens.max(0.0) as u64,
        }
    }

    pub(super) fn token(&mut self, stream: &mut Stream, now_s: f64) {
        stream.tokens += 1;
        match stream.last_s.replace(now_s) {
            None => self.first_token(stream),
            Some(last_s) if stream.tokens > GAPS_SKIPPED + 1 => {
                let gap_s = now_s - last_s;
                self.gaps.seconds += gap_s;
                self.gaps.tokens += 1;
                self.gaps.streams_s += gap_s * f64::from(self.decoding);
                self.gaps.resident_s += gap_s * self.resident as f64;
            }
            Some(_) => {}
        }
        let made = stream.hold.produced(1);
        self.work = self.work + made.more_work - made.work;
        self.kv += made.more_kv;
        self.resident += 1;
        self.served.output_tokens += 1.0;
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

    pub(super) fn ended(&mut self, stream: &Stream) {
        self.work -= stream.hold.work();
        self.prefilling -= stream.hold.prompt();
        self.kv -= stream.hold.kv();
        self.resident -= stream.prompt_tokens + u64::from(stream.tokens);
        self.in_flight -= 1;
        self.decoding -= 1;
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
        (self.tokens > 0 && self.seconds > 0.0).then(|| GapSample {
            mean_gap_s: self.seconds / f64::from(self.tokens),
            load: IterationLoad {
                streams: self.streams_s / self.seconds,
                kv_kilotokens: self.resident_s / self.seconds / 1_000.0,
                prompt_tokens: self.prompts / f64::from(self.tokens),
            },
            tokens: self.tokens,
        })
    }
}
