//! Requests on a fleet of modelled workers in virtual time: the production choice of workers, its predictions, its
//! measuring of speed and its order of waiting, or another router in its place.

#[cfg(test)]
mod capacity_tests;
mod gateway;
mod judge;
#[cfg(test)]
mod tests;
mod worker;
mod world;

use crate::domain::{
    Candidate, Contention, PredictedCost, Preference, RoutingSettings, SpeedPrior, UsdPerHour,
};
use crate::policy::choose_worker;

pub use crate::simulate::load::Arrival;
pub use judge::Watched;
pub use worker::MachineLaw;
pub use world::{run, run_watched};

#[derive(Clone, Debug)]
pub struct Machine {
    pub law: MachineLaw,
    /// What its group's configuration says.
    pub speed_prior: SpeedPrior,
    pub kv_tokens: Option<u32>,
    pub max_concurrency: Option<u32>,
    pub usd_per_hour: UsdPerHour,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub machines: Vec<Machine>,
    pub settings: RoutingSettings,
    /// Output tokens the engines keep room for when they admit a request; the maximum: all of them.
    pub reserve_tokens: u32,
    /// Requests belong to one of so many clients by chance.
    pub clients: u32,
    pub slowdowns: Vec<Slowdown>,
    pub seed: u64,
}

/// From some moment on a machine takes so many times as long for everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slowdown {
    pub machine: usize,
    pub at_s: f64,
    pub times: f64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    pub machine: usize,
    /// From arrival to first token, waiting included.
    pub first_token_s: f64,
    /// Mean time between tokens; zero for one token.
    pub per_token_s: f64,
    /// Waited at the gateway.
    pub held_s: f64,
}

/// What a router may know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub predicted: PredictedCost,
    /// The truth, for those that know it.
    pub actual: PredictedCost,
}

/// Who decides where a request goes.
pub trait Router {
    /// What the gateway counts the request as.
    fn cost(&self, asked: &Asked) -> PredictedCost {
        asked.predicted
    }

    /// The slot of a worker, or `None` to hold the request.
    fn choose(
        &mut self,
        cost: &PredictedCost,
        workers: &[Candidate],
        contention: Contention,
    ) -> Option<usize>;
}

/// The one in production.
#[derive(Clone, Debug)]
pub struct Production {
    pub settings: RoutingSettings,
    /// Counts requests as what they will really cost.
    pub knows_lengths: bool,
}

impl Production {
    pub fn new(settings: &RoutingSettings) -> Self {
        Self {
            settings: settings.clone(),
            knows_lengths: false,
        }
    }

    pub fn cheapest(settings: &RoutingSettings) -> Self {
        let mut production = Self::new(settings);
        production.settings.prefer = Preference::Cost;
        production
    }
}

impl Router for Production {
    fn cost(&self, asked: &Asked) -> PredictedCost {
        if self.knows_lengths {
            asked.actual
        } else {
            asked.predicted
        }
    }

    fn choose(
        &mut self,
        cost: &PredictedCost,
        workers: &[Candidate],
        contention: Contention,
    ) -> Option<usize> {
        choose_worker(cost, workers.iter().copied(), &self.settings, contention)
            .ok()
            .map(|choice| choice.slot)
    }
}
