//! Requests on a fleet of modelled workers in virtual time: the production choice of workers, its predictions, its
//! measuring of speed and its order of waiting, or another router in its place.

#[cfg(test)]
mod capacity_tests;
mod floor;
mod gateway;
mod judge;
mod live;
mod saturated;
mod station;
#[cfg(test)]
mod tests;
mod worker;

use std::time::Duration;

use crate::domain::{
    Candidate, Contention, PredictedCost, Preference, RoutingSettings, SpeedPrior, UsdPerHour,
};
use crate::policy::choose_worker;
use judge::Judge;
use station::Station;

pub use crate::simulate::load::Arrival;
pub use floor::{Floor, Patience, Rules, Tally};
pub use judge::Watched;
pub use saturated::saturated;
pub use worker::MachineLaw;

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

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Served,
    /// Broke off, and could not be gone on with.
    Failed,
    /// Refused: too many waited, or it waited too long.
    Shed,
}

/// A request that is over, by its index. Times are seconds from its arrival.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    pub id: usize,
    pub outcome: Outcome,
    pub machine: Option<usize>,
    pub first_token_s: f64,
    pub per_token_s: f64,
    /// Last sent to a worker.
    pub held_s: f64,
    /// First begun with by an engine.
    pub begun_s: f64,
}

/// Plays all arrivals to their end on machines that stay. The same scenario, arrivals and router give the same result.
pub fn run(scenario: &Scenario, arrivals: &[Arrival], router: &mut dyn Router) -> Vec<Served> {
    play(scenario, arrivals, router, true, |_, _| {})
}

/// The same, showing after each second what the gateway believes of its workers.
pub fn run_watched(
    scenario: &Scenario,
    arrivals: &[Arrival],
    router: &mut dyn Router,
    watch: &mut dyn FnMut(&Watched),
) -> Vec<Served> {
    let mut judge = Judge::of(scenario.machines.len());
    let settings = &scenario.settings.ejection;
    play(scenario, arrivals, router, true, |stations, now_s| {
        watch(&judge.watch(stations, settings, now_s));
    })
}

fn play(
    scenario: &Scenario,
    arrivals: &[Arrival],
    router: &mut dyn Router,
    leaps: bool,
    watch: impl FnMut(&mut [Station], f64),
) -> Vec<Served> {
    let rules = Rules {
        settings: scenario.settings.clone(),
        reserve_tokens: scenario.reserve_tokens,
        clients: scenario.clients,
        seed: scenario.seed,
        patience: None,
        late_after: Duration::MAX,
        leaps,
    };
    let mut floor = Floor::new(rules, arrivals, Box::new(router));
    for machine in &scenario.machines {
        floor.add(machine.clone(), false);
    }
    for slowdown in &scenario.slowdowns {
        floor.slow_at(*slowdown);
    }
    floor.finish(watch);
    debug_assert!(floor.books_are_empty());
    let mut ended = std::mem::take(&mut floor.ended);
    ended.sort_by_key(|ended| ended.id);
    let served = ended.into_iter().map(|ended| Served {
        machine: ended.machine.unwrap_or_default(),
        first_token_s: ended.first_token_s,
        per_token_s: ended.per_token_s,
        held_s: ended.held_s,
    });
    served.collect()
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

impl<R: Router + ?Sized> Router for &mut R {
    fn cost(&self, asked: &Asked) -> PredictedCost {
        (**self).cost(asked)
    }

    fn choose(
        &mut self,
        cost: &PredictedCost,
        workers: &[Candidate],
        contention: Contention,
    ) -> Option<usize> {
        (**self).choose(cost, workers, contention)
    }
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
