//! What every choice reads of a worker, side by side in memory: a thousand of them are read for one request.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use super::load::Load;
use super::ramp::Ramp;
use crate::domain::{Candidate, GapLaw, KvRoom, Tokens, TokensPerSecond, UsdPerHour};
use crate::policy::admission::Places;
use crate::policy::capacity::CapacityEstimate;
use crate::policy::routing::affinity::Incarnation;

#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Scanned {
    pub(super) load: Load,
    pub(super) ramp: Ramp,
    /// What another gateway, which is ending, still has in flight there.
    elsewhere: AtomicU32,
    /// Thousandths of a token: prompts sent and not read.
    prefilling: AtomicU64,
    /// Tokens of requests in flight, those included that they are expected to add.
    kv_used: AtomicU64,
    speed: AtomicU64,
    gap_base_s: AtomicU64,
    gap_per_stream_s: AtomicU64,
    usd_per_hour: AtomicU64,
    /// 0 without an address.
    incarnation: AtomicU64,
    /// 0: not known.
    kv_capacity: AtomicU32,
    /// Requests at once; 0: its own queue decides.
    max_concurrency: AtomicU32,
    full_concurrency: AtomicU32,
    weight: AtomicU32,
    takes_requests: AtomicBool,
}

impl Scanned {
    pub(super) fn new(
        estimate: &CapacityEstimate,
        max_concurrency: Option<u32>,
        kv_tokens: Option<u32>,
        price: UsdPerHour,
        ramp: Ramp,
    ) -> Self {
        let scanned = Self {
            load: Load::default(),
            ramp,
            elsewhere: AtomicU32::new(0),
            prefilling: AtomicU64::new(0),
            kv_used: AtomicU64::new(0),
            speed: AtomicU64::new(0),
            gap_base_s: AtomicU64::new(0),
            gap_per_stream_s: AtomicU64::new(0),
            usd_per_hour: AtomicU64::new(price.0.to_bits()),
            incarnation: AtomicU64::new(0),
            kv_capacity: AtomicU32::new(kv_tokens.unwrap_or(0)),
            max_concurrency: AtomicU32::new(max_concurrency.unwrap_or(0)),
            full_concurrency: AtomicU32::new(0),
            weight: AtomicU32::new(1.0_f32.to_bits()),
            takes_requests: AtomicBool::new(false),
        };
        scanned.set_estimate(estimate);
        scanned
    }

    /// What a choice needs; `prefix_held` is given the worker's incarnation.
    pub(super) fn candidate(
        &self,
        slot: usize,
        tried: bool,
        prefix_held: impl FnOnce(Incarnation) -> f64,
    ) -> Candidate {
        let load = self.load.view();
        Candidate {
            slot,
            ready: self.takes_requests(),
            tried,
            in_flight: load.in_flight() + self.elsewhere(),
            max_concurrency: self.ramp.places(self.max_concurrency()),
            full_concurrency: self.full_concurrency.load(Relaxed),
            speed: self.speed(),
            weight: self.weight(),
            outstanding: load.outstanding(),
            prefilling: self.prefilling(),
            gap: self.gap(),
            kv: self.kv(),
            usd_per_hour: self.price(),
            prefix_held: prefix_held(self.incarnation.load(Relaxed)),
        }
    }

    /// Places of a worker that is chosen from now; `None` where its own queue decides.
    pub(super) fn places(&self) -> Option<Places> {
        if !self.takes_requests() || self.weight() <= 0.0 {
            return Some(Places::default());
        }
        let all = self.ramp.places(self.max_concurrency())?;
        let taken = self.load.view().in_flight() + self.elsewhere();
        Some(Places {
            free: all.saturating_sub(taken),
            all,
        })
    }

    pub(super) fn takes_requests(&self) -> bool {
        self.takes_requests.load(SeqCst)
    }

    pub(super) fn set_takes_requests(&self, takes: bool) -> bool {
        self.takes_requests.swap(takes, SeqCst)
    }

    pub(super) fn weight(&self) -> f64 {
        f64::from(f32::from_bits(self.weight.load(Relaxed)))
    }

    pub(super) fn set_weight(&self, weight: f64) {
        self.weight.store((weight as f32).to_bits(), Relaxed);
    }

    pub(super) fn speed(&self) -> TokensPerSecond {
        TokensPerSecond(f64::from_bits(self.speed.load(Relaxed)))
    }

    pub(super) fn set_speed(&self, speed: TokensPerSecond) {
        self.speed.store(speed.0.to_bits(), Relaxed);
    }

    pub(super) fn elsewhere(&self) -> u32 {
        self.elsewhere.load(Relaxed)
    }

    pub(super) fn set_elsewhere(&self, in_flight: u32) -> u32 {
        self.elsewhere.swap(in_flight, Relaxed)
    }

    pub(super) fn gap(&self) -> GapLaw {
        GapLaw {
            base_s: f64::from_bits(self.gap_base_s.load(Relaxed)),
            per_stream_s: f64::from_bits(self.gap_per_stream_s.load(Relaxed)),
        }
    }

    pub(super) fn set_estimate(&self, estimate: &CapacityEstimate) {
        let gap = estimate.gap();
        self.full_concurrency
            .store(estimate.full_concurrency(), Relaxed);
        self.set_speed(estimate.speed());
        self.gap_base_s.store(gap.base_s.to_bits(), Relaxed);
        self.gap_per_stream_s
            .store(gap.per_stream_s.to_bits(), Relaxed);
    }

    pub(super) fn price(&self) -> UsdPerHour {
        UsdPerHour(f64::from_bits(self.usd_per_hour.load(Relaxed)))
    }

    pub(super) fn set_price(&self, price: UsdPerHour) {
        self.usd_per_hour.store(price.0.to_bits(), Relaxed);
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation.load(Relaxed)
    }

    pub(super) fn set_incarnation(&self, incarnation: Incarnation) {
        self.incarnation.store(incarnation, Relaxed);
    }

    pub(super) fn kv(&self) -> Option<KvRoom> {
        given(self.kv_capacity.load(Relaxed)).map(|capacity| KvRoom {
            used: self.kv_used(),
            capacity: f64::from(capacity),
        })
    }

    /// Tokens that its requests are counted for.
    pub(super) fn kv_used(&self) -> f64 {
        self.kv_used.load(Relaxed) as f64
    }

    pub(super) fn set_kv_capacity(&self, tokens: Option<u32>) {
        self.kv_capacity.store(tokens.unwrap_or(0), Relaxed);
    }

    pub(super) fn max_concurrency(&self) -> Option<u32> {
        given(self.max_concurrency.load(Relaxed))
    }

    pub(super) fn set_max_concurrency(&self, most: Option<u32>) {
        self.max_concurrency.store(most.unwrap_or(0), Relaxed);
    }

    /// Prompts sent and not read, output-equivalent.
    pub(super) fn prefilling(&self) -> Tokens {
        Tokens(self.prefilling.load(Relaxed) as f64 / 1_000.0)
    }

    pub(super) fn prompt_sent(&self, work: u64) {
        self.prefilling.fetch_add(work, Relaxed);
    }

    pub(super) fn prompt_read(&self, work: u64) {
        self.prefilling.fetch_sub(work, Relaxed);
    }

    pub(super) fn kv_taken(&self, tokens: u64) {
        self.kv_used.fetch_add(tokens, Relaxed);
    }

    pub(super) fn kv_freed(&self, tokens: u64) {
        self.kv_used.fetch_sub(tokens, Relaxed);
    }
}

fn given(count: u32) -> Option<u32> {
    (count > 0).then_some(count)
}
