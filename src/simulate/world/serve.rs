//! Who serves the load: water or requests, by the scenario.

use super::fleet::Fleet;
use super::record::Counted;
use super::requests::Requests;
use super::water::Water;
use super::{Scenario, Serving};
use crate::domain::{DemandView, Timestamp, WaitingView};

pub(super) enum Server<'a> {
    Water(Box<Water<'a>>),
    Requests(Box<Requests<'a>>),
}

impl<'a> Server<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        match &scenario.serving {
            Serving::Water => Self::Water(Box::new(Water::new(scenario))),
            Serving::Requests(rules) => Self::Requests(Box::new(Requests::new(scenario, rules))),
        }
    }

    /// One second, from `now` on.
    pub fn pass(&mut self, fleet: &mut Fleet, now: Timestamp) {
        match self {
            Self::Water(water) => water.pass(fleet, now),
            Self::Requests(requests) => requests.pass(fleet, now),
        }
    }

    pub fn demand(&self) -> DemandView {
        match self {
            Self::Water(water) => water.demand(),
            Self::Requests(requests) => requests.demand(),
        }
    }

    pub fn waiting(&self, now: Timestamp) -> WaitingView {
        match self {
            Self::Water(water) => water.waiting(now),
            Self::Requests(requests) => requests.waiting(),
        }
    }

    /// How long the oldest work that waits has waited, seconds.
    pub fn oldest_s(&self) -> f64 {
        match self {
            Self::Water(water) => water.oldest_s(),
            Self::Requests(requests) => requests.oldest_s(),
        }
    }

    pub fn counted(&self) -> Counted {
        match self {
            Self::Water(water) => water.counted(),
            Self::Requests(requests) => requests.counted(),
        }
    }
}
