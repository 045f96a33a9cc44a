//! What the control path would do now, shown before it is done.

use serde::{Deserialize, Serialize};

use super::{
    EndpointName, GroupName, LoadForecast, MarketKind, Offer, OfferChoice, PlannedAction,
    Timestamp, TokensPerSecond, UsdPerHour,
};

/// One endpoint's next plan, and what it is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanPreview {
    pub endpoint: EndpointName,
    pub market: MarketKind,
    pub at: Timestamp,
    /// Capacity of workers that serve.
    pub running: TokensPerSecond,
    /// Capacity of workers that boot.
    pub starting: TokensPerSecond,
    /// Capacity of workers kept without running.
    pub stopped: TokensPerSecond,
    pub predicted_load: TokensPerSecond,
    pub wanted: TokensPerSecond,
    pub prepared_wanted: TokensPerSecond,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<LoadForecast>,
    pub waiting_requests: usize,
    pub usd_per_hour: UsdPerHour,
    pub actions: Vec<PlannedAction>,
    /// By which offers its rentals would be made, in their order.
    pub choices: Vec<OfferChoice>,
    /// The spending limit that lets nothing be rented now.
    pub refused: Option<String>,
    pub offers: Vec<GroupOffers>,
}

/// What a market has for one worker group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupOffers {
    pub endpoint: EndpointName,
    pub group: GroupName,
    /// All of them, in the order of `choice`: the best first.
    pub offers: Vec<Offer>,
    /// Which would be rented next, and what speaks against the others.
    pub choice: OfferChoice,
    /// Why the market could not be asked.
    pub problem: Option<String>,
    /// Where nothing is offered and it was asked for: which filters keep everything out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded: Option<Exclusion>,
}

/// Filters of a search that finds nothing, each of which was left out once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// Without it so many offers are found; the most first.
    pub by: Vec<ExcludingFilter>,
    /// Left out in vain.
    pub in_vain: Vec<String>,
    /// Not tried: each try is a search, and there are few.
    pub untried: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludingFilter {
    pub filter: String,
    pub offers: usize,
}
