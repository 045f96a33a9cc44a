//! Renting one machine more than needed while a start is doubtful: the first that is ready stays.

use crate::domain::{Alternative, OfferSettings, WorkerPhase};

/// Whether one more is worth its boot.
pub fn is_doubtful(rented: &Alternative, settings: &OfferSettings) -> bool {
    settings.race > 0 && rented.machine.is_some() && rented.chance < settings.race_below
}

/// Where a race stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Race {
    On,
    /// The spare was first: the other one is let go.
    SpareWon,
    /// The other one was: the spare is let go.
    SpareLost,
    /// The other one is out of the race: the spare stands in for it.
    StandsIn,
}

/// `rival`: the worker that the spare was rented beside; `None` where it is no more.
pub fn settle(spare: WorkerPhase, rival: Option<WorkerPhase>) -> Race {
    match rival {
        None => Race::StandsIn,
        Some(rival) if rival.is_ending() => Race::StandsIn,
        Some(rival) if spare.is_starting() && rival.is_starting() => Race::On,
        Some(rival) if rival.is_starting() && spare.is_ready() => Race::SpareWon,
        Some(_) if spare.is_starting() => Race::SpareLost,
        // Both have served: nobody lost.
        Some(_) => Race::StandsIn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FailureReason, Release, Timestamp};
    use WorkerPhase as P;

    #[test]
    fn the_first_that_is_ready_stays_and_the_other_goes() {
        assert_eq!(settle(P::Starting, Some(P::Starting)), Race::On);
        assert_eq!(settle(P::Benchmarking, Some(P::Starting)), Race::On);
        assert_eq!(settle(P::Ready, Some(P::Benchmarking)), Race::SpareWon);
        assert_eq!(settle(P::Starting, Some(P::Ready)), Race::SpareLost);
        let draining = P::Draining {
            then: Release::Stop,
            since: Timestamp::default(),
        };
        assert_eq!(settle(P::Benchmarking, Some(draining)), Race::SpareLost);
    }

    #[test]
    fn a_spare_stands_in_for_a_worker_that_failed() {
        let failed = P::Failed {
            reason: FailureReason::BootDeadline,
        };
        assert_eq!(settle(P::Starting, Some(failed)), Race::StandsIn);
        assert_eq!(settle(P::Starting, None), Race::StandsIn);
        assert_eq!(settle(P::Ready, Some(P::Ready)), Race::StandsIn);
    }
}
