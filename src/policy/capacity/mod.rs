//! What a worker could do, from how fast its streams flow: capacity, never the work it happened to get.
//!
//! An engine with continuous batching gives each of `b` streams a token every `a + c b + k KV + m P` seconds. That law
//! is learned apart from the mix of requests (`mix`): capacity is the law at the concurrency the worker can reach with
//! such requests (`operating`). While it surely has more than it can do, what it serves counts too (`saturation`).

mod law;
mod mix;
mod operating;
mod saturation;
mod second;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::domain::{
    BenchmarkResult, BenchmarkSettings, CapacityView, GapLaw, IterationLaw, IterationLoad,
    Preference, RoutingSettings, SpeedPrior, TokensPerSecond,
};
use law::LawEstimate;
use mix::Mix;
use operating::OperatingPoint;
use saturation::Saturation;
pub use second::{GapSample, Second, Served, Told};

/// Standard deviation, as a share, of a capacity that was only stated. `policy::offers` knows better where such machines
/// were measured.
pub const PRIOR_SD_UNSEEN: f64 = 0.35;
/// What no law of this form can know of an engine.
const MISFIT_SD: f64 = 0.05;
/// The most that doubt takes from the capacity demand is covered with.
pub const DOUBT_MAX: f64 = 0.15;
/// All of it counts where so much of the capacity is used, less where less is: where little flows the doubt stays, and
/// must not keep more machines for ever.
const DOUBT_WHOLE_AT: f64 = 0.5;
/// Over this the used part is averaged.
const USE_MEMORY_S: f64 = 60.0;
/// Seconds of full traffic before which doubt takes nothing: it is dispelled sooner than a machine could start.
const DOUBT_AFTER_S: f64 = 10.0;

/// What capacity is stated for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Streams at once that the worker is given at most.
    pub full_concurrency: u32,
    /// Tokens its KV cache holds, where that is known.
    pub kv_tokens: Option<u32>,
    /// Longest time between two tokens, where one is promised.
    pub gap_max_s: Option<f64>,
    /// Prompt tokens that count as one output token.
    pub kappa: f64,
}

impl Terms {
    /// A latency aim binds where workers are chosen by it.
    pub fn new(
        prior: SpeedPrior,
        max_concurrency: Option<u32>,
        kv_tokens: Option<u32>,
        routing: &RoutingSettings,
    ) -> Self {
        let aims = routing.prefer == Preference::Cost;
        Self {
            full_concurrency: max_concurrency.unwrap_or(prior.concurrency).max(1),
            kv_tokens,
            gap_max_s: aims.then_some(routing.latency_aim.gap.as_secs_f64()),
            kappa: sane_kappa(routing.kappa),
        }
    }
}

fn sane_kappa(kappa: f64) -> f64 {
    if kappa.is_finite() && kappa > 0.0 {
        kappa
    } else {
        RoutingSettings::default().kappa
    }
}

/// A running estimate for one worker. Pure data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapacityEstimate {
    terms: Terms,
    prior: SpeedPrior,
    prior_sd: f64,
    law: LawEstimate,
    mix: Mix,
    saturation: Saturation,
    /// Streams of late as a share of those at the operating point.
    used: f64,
}

/// Output-equivalent tokens a second and their standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Believed {
    mean: f64,
    sd: f64,
}

impl CapacityEstimate {
    /// `prior_sd` is that of the stated speed, as a share of it.
    pub fn new(prior: SpeedPrior, prior_sd: f64, terms: Terms) -> Self {
        Self {
            terms,
            prior,
            prior_sd,
            law: LawEstimate::of_prior(prior, prior_sd, terms.kappa),
            mix: Mix::default(),
            saturation: Saturation::default(),
            used: 0.0,
        }
    }

    /// What was learned, with capacity stated on other terms.
    pub fn state_on(&mut self, terms: Terms) {
        if terms.kappa != self.terms.kappa && !self.law.has_seen() {
            self.law = LawEstimate::of_prior(self.prior, self.prior_sd, terms.kappa);
        }
        if terms != self.terms {
            self.saturation = Saturation::default();
        }
        self.terms = terms;
    }

    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// One worker's last second.
    pub fn observe(&mut self, second: &Second) {
        self.mix.observe(second);
        if let Some(mut sample) = second.gaps {
            sample.load.prompt_tokens *= self.mix.prompt_scale();
            self.law.observe(&sample);
        }
        let believed = self.by_law();
        let point = self.point();
        let step = (second.seconds / USE_MEMORY_S).clamp(0.0, 1.0);
        self.used += step * (f64::from(second.decoding) / point.streams - self.used);
        let prompts = self.mix.prompt_scale() * second.served.prompt_tokens;
        let served = second.served.output_tokens + prompts / self.terms.kappa;
        let reading_s = self.mix.prompt_scale()
            * second.prefilling.0
            * self.terms.kappa
            * self.law.law().per_prompt_token_s;
        self.saturation
            .observe(second, served, reading_s, believed.mean, &point);
    }

    /// What it showed before it served. It weighs more than what was believed of it and less than traffic.
    pub fn take_benchmark(&mut self, result: &BenchmarkResult, asked: Option<&BenchmarkSettings>) {
        let of = |count: fn(&BenchmarkSettings) -> u32| asked.map_or(0.0, |a| f64::from(count(a)));
        let prompt = of(|asked| asked.prompt_tokens);
        let context = (prompt + of(|asked| asked.output_tokens) / 2.0) / 1_000.0;
        let load = |streams: f64| IterationLoad {
            streams,
            kv_kilotokens: streams * context,
            prompt_tokens: 0.0,
        };
        if let Some(alone) = result.tokens_per_second_alone {
            self.law.measure(1.0 / alone.0, load(1.0));
            if let (Some(first_s), true) = (result.first_token_s, prompt > 0.0) {
                let read = IterationLoad {
                    prompt_tokens: prompt,
                    ..load(1.0)
                };
                self.law.measure_roughly(first_s, read);
            }
        }
        let streams = f64::from(result.concurrency.max(1));
        self.law
            .measure(streams / result.tokens_per_second.0, load(streams));
    }

    /// The work changed, not the worker: what was learned is doubted and learned again.
    pub fn widen(&mut self) {
        self.law.widen();
        self.saturation = Saturation::default();
    }

    /// Output-equivalent tokens a second at the operating point.
    pub fn speed(&self) -> TokensPerSecond {
        TokensPerSecond(self.believed().mean)
    }

    /// What of it demand may be covered with: a standard deviation less, once traffic had a chance to tell and as far as
    /// it is used.
    pub fn dependable(&self) -> TokensPerSecond {
        let Believed { mean, sd } = self.believed();
        if self.law.seconds_seen() < DOUBT_AFTER_S {
            return TokensPerSecond(mean);
        }
        let counted = (self.used / DOUBT_WHOLE_AT).min(1.0);
        TokensPerSecond(mean - counted * sd.min(DOUBT_MAX * mean))
    }

    pub fn law(&self) -> IterationLaw {
        self.law.law()
    }

    /// The law by streams alone, with requests as they were of late.
    pub fn gap(&self) -> GapLaw {
        self.mix.fold(self.law.law())
    }

    /// Streams at once that the worker is given at most.
    pub fn full_concurrency(&self) -> u32 {
        self.terms.full_concurrency
    }

    pub fn view(&self) -> CapacityView {
        let Believed { mean, sd } = self.believed();
        CapacityView {
            mean: TokensPerSecond(mean),
            sd: TokensPerSecond(sd),
            law: self.law.law(),
            at_streams: self.point().streams,
            prompt_per_output: self.mix.prompt_per_output(),
            context_kilotokens: self.mix.context_kilotokens(),
            seconds_seen: self.law.seconds_seen(),
            saturated: self.saturation.is_certain(),
        }
    }

    fn point(&self) -> OperatingPoint {
        OperatingPoint::of(self.law.law(), &self.mix, &self.terms)
    }

    fn by_law(&self) -> Believed {
        let point = self.point();
        let mean = point.capacity(self.law.law());
        let sd = self.law.relative_sd(point.work()).hypot(MISFIT_SD);
        Believed {
            mean,
            sd: sd * mean,
        }
    }

    fn believed(&self) -> Believed {
        let by_law = self.by_law();
        match self.saturation.served() {
            Some(served) => by_law.and(served),
            None => by_law,
        }
    }
}

impl Believed {
    /// Two independent opinions, each by its precision.
    fn and(self, other: Self) -> Self {
        let (own, others) = (self.sd.powi(-2), other.sd.powi(-2));
        Self {
            mean: (self.mean * own + other.mean * others) / (own + others),
            sd: (own + others).powf(-0.5),
        }
    }
}
