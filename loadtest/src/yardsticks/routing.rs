//! Other ways to choose workers, to measure our own by.

use tidegate::domain::{Candidate, Contention, PredictedCost};
use tidegate::simulate::chance::SplitMix;
use tidegate::simulate::serving::Router;

/// Each in turn.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl Router for RoundRobin {
    fn choose(&mut self, _: &PredictedCost, workers: &[Candidate], _: Contention) -> Option<usize> {
        let slot = self.next % workers.len().max(1);
        self.next = slot + 1;
        workers.get(slot).map(|worker| worker.slot)
    }
}

/// Whoever has the fewest requests, the first of equals.
#[derive(Debug, Default)]
pub struct LeastConnections;

impl Router for LeastConnections {
    fn choose(&mut self, _: &PredictedCost, workers: &[Candidate], _: Contention) -> Option<usize> {
        let least = workers.iter().min_by_key(|worker| worker.in_flight);
        least.map(|worker| worker.slot)
    }
}

/// The less loaded of two drawn at random.
#[derive(Debug)]
pub struct PowerOfTwo {
    pub chance: SplitMix,
}

impl Router for PowerOfTwo {
    fn choose(&mut self, _: &PredictedCost, workers: &[Candidate], _: Contention) -> Option<usize> {
        let mut draw = || workers.get((self.chance.unit() * workers.len() as f64) as usize);
        let (one, other) = (draw()?, draw()?);
        let less = if other.in_flight < one.in_flight {
            other
        } else {
            one
        };
        Some(less.slot)
    }
}
