//! The gateway's books on each worker, kept as the fleet keeps them.

use crate::domain::{Candidate, KvRoom, PredictedCost, Tokens};
use crate::policy::routing::hold::Hold;
use crate::policy::speed::SpeedEstimate;

use super::Machine;

/// The first gaps of a stream tell of prefill and are not measured.
const GAPS_SKIPPED: u32 = 2;

#[derive(Clone, Debug)]
pub(super) struct Book {
    machine: Machine,
    estimate: SpeedEstimate,
    work: u64,
    prefilling: u64,
    kv: u64,
    in_flight: u32,
    decoding: u32,
    gap_s: f64,
    gap_tokens: u32,
    gap_streams_s: f64,
}

/// One request at a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) slot: usize,
    hold: Hold,
    last_s: Option<f64>,
    tokens: u32,
}

impl Book {
    pub(super) fn new(machine: &Machine) -> Self {
        Self {
            machine: machine.clone(),
            estimate: SpeedEstimate::new(machine.speed_prior, machine.max_concurrency),
            work: 0,
            prefilling: 0,
            kv: 0,
            in_flight: 0,
            decoding: 0,
            gap_s: 0.0,
            gap_tokens: 0,
            gap_streams_s: 0.0,
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
            gap: self.estimate.law(),
            kv: self.machine.kv_tokens.map(|capacity| KvRoom {
                used: self.kv as f64,
                capacity: f64::from(capacity),
            }),
            usd_per_hour: self.machine.usd_per_hour,
            prefix_held: 0.0,
        }
    }

    pub(super) fn sent(&mut self, slot: usize, cost: &PredictedCost) -> Stream {
        let hold = Hold::new(cost);
        self.work += hold.work();
        self.prefilling += hold.prompt();
        self.kv += hold.kv();
        self.in_flight += 1;
        Stream {
            slot,
            hold,
            last_s: None,
            tokens: 0,
        }
    }

    pub(super) fn token(&mut self, stream: &mut Stream, now_s: f64) {
        stream.tokens += 1;
        match stream.last_s.replace(now_s) {
            None => {
                let read = stream.hold.prefilled();
                self.work -= read.work;
                self.prefilling -= read.prompt;
                self.decoding += 1;
            }
            Some(last_s) if stream.tokens > GAPS_SKIPPED + 1 => {
                let gap_s = now_s - last_s;
                self.gap_s += gap_s;
                self.gap_tokens += 1;
                self.gap_streams_s += gap_s * f64::from(self.decoding);
            }
            Some(_) => {}
        }
        let made = stream.hold.produced(1);
        self.work = self.work + made.more_work - made.work;
        self.kv += made.more_kv;
    }

    pub(super) fn ended(&mut self, stream: &Stream) {
        self.work -= stream.hold.work();
        self.prefilling -= stream.hold.prompt();
        self.kv -= stream.hold.kv();
        self.in_flight -= 1;
        self.decoding -= 1;
    }

    /// Once a second.
    pub(super) fn measure(&mut self) {
        let tokens = std::mem::take(&mut self.gap_tokens);
        let gap_s = std::mem::take(&mut self.gap_s);
        let streams_s = std::mem::take(&mut self.gap_streams_s);
        if tokens > 0 && gap_s > 0.0 {
            self.estimate
                .observe(gap_s / f64::from(tokens), streams_s / gap_s, tokens);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.work == 0 && self.prefilling == 0 && self.kv == 0 && self.in_flight == 0
    }
}
