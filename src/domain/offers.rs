//! Choosing among offers: what the endpoint allows, and the choice with all it was made from.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GroupName, MachineKey, Offer, OfferId, Timestamp, TokensPerSecond, UsdPerHour};

/// Which workers may be machines that others can bid away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruptible {
    Never,
    /// Those above `min_load`.
    Burst,
    All,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfferSettings {
    pub interruptible: Interruptible,
    /// Machines rented beyond what is needed while a start is doubtful; the first ready one stays. 0 or 1.
    pub race: u32,
    /// A start is doubtful when its chance is below.
    pub race_below: f64,
    /// Time over which the cost of a machine is reckoned.
    #[serde(with = "super::time::seconds")]
    pub horizon: Duration,
}

/// A few requests sent to a new worker before it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkSettings {
    /// The operator's own; else words are made up.
    pub prompts: Vec<String>,
    /// Length of a made-up prompt.
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    /// Requests at once; `None`: the group's `concurrency`.
    pub concurrency: Option<u32>,
    /// It ends after this, wherever it is.
    #[serde(with = "super::time::seconds")]
    pub length: Duration,
    /// A worker with less than this share of the speed believed of it is given up.
    pub share_min: f64,
}

/// What a benchmark measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkResult {
    pub at: Timestamp,
    /// With `concurrency` requests at once.
    pub tokens_per_second: TokensPerSecond,
    pub concurrency: u32,
    /// Of one request alone; `None` where it was not measured.
    pub tokens_per_second_alone: Option<TokensPerSecond>,
    /// Until the first token of the request that was alone.
    pub first_token_s: Option<f64>,
    pub output_tokens: u64,
    pub failed_requests: u32,
    pub took_s: f64,
}

/// Which offer to rent, and why not the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfferChoice {
    pub group: GroupName,
    pub rule: ChoiceRule,
    pub chosen: Option<OfferId>,
    /// What chance it was made with; `None`: from expectations alone.
    pub draw: Option<u64>,
    /// How many offers there were; the list may hold fewer.
    pub offers: usize,
    /// The best first.
    pub alternatives: Vec<Alternative>,
    /// Where nothing was chosen: the least that would have to be set aside for an offer that only money forbids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_dear: Option<UsdPerHour>,
}

impl OfferChoice {
    pub fn best(&self) -> Option<&Alternative> {
        let chosen = self.chosen.as_ref()?;
        self.alternatives
            .iter()
            .find(|other| other.offer == *chosen)
    }
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChoiceRule {
    /// The market does not tell machines apart.
    NoDifference,
    /// Least expected dollars a token.
    CheapestPerToken,
    /// Drawn from what it might be: little is known of such machines, and knowing is worth a try.
    Explored,
    /// All had something against them; the least dear of them.
    LeastObjection,
    /// No offer may be rented.
    NoneFits,
}

/// One offer as it was judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    pub offer: OfferId,
    pub machine: Option<MachineKey>,
    pub gpu_name: String,
    pub gpu_count: u32,
    pub location: String,
    pub interruptible: bool,
    /// What would be paid while it runs, storage included.
    pub usd_per_hour: UsdPerHour,
    /// For its GPUs, storage not included; `None` on demand.
    pub bid: Option<UsdPerHour>,
    /// Of a bid: what the same GPUs cost on demand, where that is offered too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<UsdPerHour>,
    /// Expected, with all that was learned.
    pub tokens_per_second: TokensPerSecond,
    /// Standard deviation of that, as a share of it.
    #[serde(default = "unseen")]
    pub speed_sd: f64,
    /// The same from its description alone; what is measured is learned as a factor to it.
    pub stated_tokens_per_second: TokensPerSecond,
    /// Expected over the horizon: starts that fail, downloads, traffic and early ends included.
    pub usd_per_million_tokens: f64,
    /// Of coming up at all.
    pub chance: f64,
    /// Expected from rental to ready.
    pub start_s: f64,
    /// Expected to serve, within the horizon.
    pub life_s: f64,
    /// `None` for the one chosen.
    pub why_not: Option<WhyNot>,
}

impl Alternative {
    /// An offer that says nothing of its machine.
    pub fn plain(offer: &Offer, speed: TokensPerSecond) -> Self {
        let tokens_per_hour = speed.0 * 3_600.0;
        Self {
            offer: offer.id.clone(),
            machine: None,
            gpu_name: String::new(),
            gpu_count: 0,
            location: String::new(),
            interruptible: offer.interruptible,
            usd_per_hour: offer.usd_per_hour,
            bid: None,
            on_demand: None,
            tokens_per_second: speed,
            speed_sd: unseen(),
            stated_tokens_per_second: speed,
            usd_per_million_tokens: if tokens_per_hour > 0.0 {
                offer.usd_per_hour.0 / tokens_per_hour * 1e6
            } else {
                0.0
            },
            chance: 1.0,
            start_s: 0.0,
            life_s: 0.0,
            why_not: None,
        }
    }

    /// The most it may turn out to cost: what is bid is paid, and a price on demand may have moved by `margin` since it
    /// was shown. Who tells machines not apart has one price.
    pub fn at_most(&self, margin: f64) -> UsdPerHour {
        match (&self.machine, self.bid) {
            (Some(_), None) => UsdPerHour(self.usd_per_hour.0 * (1.0 + margin)),
            _ => self.usd_per_hour,
        }
    }
}

/// Of machines of which nothing was measured.
fn unseen() -> f64 {
    0.35
}

/// What speaks against an offer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum WhyNot {
    /// Its tokens cost so many times those of the chosen one.
    Dearer { times: f64 },
    /// As good; another was taken.
    Even,
    /// The choice was drawn, and this one drew worse.
    DrewWorse,
    /// It costs more than the spending limits leave.
    AboveLimit,
    /// Rented, or tried and refused, a moment ago.
    Tried,
    /// The machine failed too often or is not what it says.
    Banned { until: Timestamp },
    /// Others may take it away, and the endpoint wants none such.
    InterruptibleNever,
    /// Others may take it away, and `min_load` is not covered without such machines yet.
    InterruptibleFloor,
    /// The bid would be nearly what the machine costs on demand.
    BidTooHigh,
    /// Others bid more than the group's `bid_price`.
    AboveBidPrice,
    /// May be rented for too short a time.
    TooShort { available_s: f64 },
    /// For so short a time that it would be left before it is of use.
    EndsTooSoon { available_s: f64 },
    /// Image and model would not be there by `timeouts.boot`; `surely`: not even with all of its line.
    StartsTooLate { start_s: f64, surely: bool },
    /// Its host would have too great a share of the capacity.
    HostShare { share: f64 },
    /// Nothing can be said of its speed or price.
    Unreadable,
}

impl WhyNot {
    /// Stands even where nothing else is to be had.
    pub fn forbids(self) -> bool {
        matches!(
            self,
            WhyNot::AboveLimit
                | WhyNot::Tried
                | WhyNot::Banned { .. }
                | WhyNot::InterruptibleNever
                | WhyNot::InterruptibleFloor
                | WhyNot::AboveBidPrice
                | WhyNot::EndsTooSoon { .. }
                | WhyNot::StartsTooLate { surely: true, .. }
                | WhyNot::Unreadable
        )
    }
}

impl ChoiceRule {
    pub fn as_str(self) -> &'static str {
        match self {
            ChoiceRule::NoDifference => "no_difference",
            ChoiceRule::CheapestPerToken => "cheapest_per_token",
            ChoiceRule::Explored => "explored",
            ChoiceRule::LeastObjection => "least_objection",
            ChoiceRule::NoneFits => "none_fits",
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyNot::Dearer { times } => write!(f, "{times:.2} times as dear a token"),
            WhyNot::Even => f.write_str("as good as the chosen one"),
            WhyNot::DrewWorse => f.write_str("drew worse in a try of little-known machines"),
            WhyNot::AboveLimit => f.write_str("costs more than the spending limits leave"),
            WhyNot::Tried => f.write_str("tried a moment ago"),
            WhyNot::Banned { .. } => f.write_str("failed too often, or is not what it says"),
            WhyNot::InterruptibleNever => f.write_str("interruptible, which the endpoint forbids"),
            WhyNot::InterruptibleFloor => {
                f.write_str("interruptible, and min_load wants machines that stay")
            }
            WhyNot::BidTooHigh => f.write_str("a bid would cost nearly as much as on demand"),
            WhyNot::AboveBidPrice => f.write_str("its least bid is above bid_price"),
            WhyNot::TooShort { available_s } | WhyNot::EndsTooSoon { available_s } => {
                write!(f, "can be had for {:.1} h only", available_s / 3_600.0)
            }
            WhyNot::StartsTooLate { start_s, .. } => {
                write!(f, "would be ready after {start_s:.0} s, past timeouts.boot")
            }
            WhyNot::HostShare { share } => {
                write!(
                    f,
                    "its host would hold {:.0}% of the capacity",
                    share * 100.0
                )
            }
            WhyNot::Unreadable => f.write_str("says too little of itself"),
        }
    }
}
