//! Which worker gets a request: least outstanding predicted work over speed.

mod eligible;
mod pick;
mod score;

use crate::domain::{Candidate, Choice, NoWorker, RoutingSettings, Tokens};

/// Chooses among `candidates` for a request of predicted work `cost`. Equal scores go to the first
/// candidate, so a table ordered by worker id breaks ties by id.
pub fn choose_worker(
    cost: Tokens,
    candidates: &[Candidate],
    settings: &RoutingSettings,
) -> Result<Choice, NoWorker> {
    pick::least(
        candidates
            .iter()
            .filter(|candidate| eligible::may_take(candidate, settings))
            .map(|candidate| Choice {
                slot: candidate.slot,
                score_s: score::seconds_until_done(candidate, cost),
            }),
    )
    .ok_or_else(|| eligible::why_none(candidates))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::TokensPerSecond;

    fn settings() -> RoutingSettings {
        RoutingSettings {
            max_queue_time: Duration::from_secs(30),
            kappa: 5.0,
        }
    }

    fn worker(slot: usize, speed: f64, outstanding: f64) -> Candidate {
        Candidate {
            slot,
            ready: true,
            speed: TokensPerSecond(speed),
            outstanding: Tokens(outstanding),
            in_flight: 0,
            max_concurrency: None,
            tried: false,
        }
    }

    fn choose(candidates: &[Candidate]) -> Result<usize, NoWorker> {
        choose_worker(Tokens(100.0), candidates, &settings()).map(|choice| choice.slot)
    }

    #[test]
    fn a_fast_worker_with_more_work_wins_when_it_is_done_sooner() {
        assert_eq!(
            choose(&[worker(0, 50.0, 0.0), worker(1, 500.0, 300.0)]),
            Ok(1)
        );
        assert_eq!(
            choose(&[worker(0, 50.0, 0.0), worker(1, 500.0, 2_000.0)]),
            Ok(0)
        );
    }

    #[test]
    fn equal_scores_go_to_the_first() {
        assert_eq!(
            choose(&[worker(3, 50.0, 10.0), worker(4, 50.0, 10.0)]),
            Ok(3)
        );
    }

    #[test]
    fn a_worker_beyond_its_queue_time_gets_nothing_but_an_idle_one_always_may() {
        assert_eq!(choose(&[worker(0, 10.0, 301.0)]), Err(NoWorker::AllBusy));
        assert_eq!(choose(&[worker(0, 0.001, 0.0)]), Ok(0));
    }

    #[test]
    fn a_worker_at_its_concurrency_is_busy() {
        let full = Candidate {
            in_flight: 4,
            max_concurrency: Some(4),
            ..worker(0, 50.0, 10.0)
        };
        assert_eq!(choose(&[full]), Err(NoWorker::AllBusy));
    }

    #[test]
    fn tried_workers_and_workers_that_are_not_ready_are_told_apart() {
        let tried = Candidate {
            tried: true,
            ..worker(0, 50.0, 0.0)
        };
        let starting = Candidate {
            ready: false,
            ..worker(1, 50.0, 0.0)
        };
        assert_eq!(choose(&[tried, starting]), Err(NoWorker::AllTried));
        assert_eq!(choose(&[starting]), Err(NoWorker::NoneReady));
        assert_eq!(choose(&[]), Err(NoWorker::NoneReady));
    }

    prop_compose! {
        fn any_candidate()(
            speed in prop_oneof![Just(0.0), Just(f64::NAN), 0.1..5_000.0],
            outstanding in 0.0..50_000.0,
            in_flight in 0u32..64,
            max in proptest::option::of(1u32..64),
            ready: bool,
            tried: bool,
        ) -> Candidate {
            Candidate {
                slot: 0, ready, speed: TokensPerSecond(speed), outstanding: Tokens(outstanding),
                in_flight, max_concurrency: max, tried,
            }
        }
    }

    proptest! {
        #[test]
        fn the_chosen_worker_is_eligible_and_none_that_is_scores_less(
            mut candidates in proptest::collection::vec(any_candidate(), 0..40),
            cost in 1.0..10_000.0,
        ) {
            for (slot, candidate) in candidates.iter_mut().enumerate() {
                candidate.slot = slot;
            }
            let may = |c: &Candidate| eligible::may_take(c, &settings());
            match choose_worker(Tokens(cost), &candidates, &settings()) {
                Ok(choice) => {
                    prop_assert!(may(&candidates[choice.slot]));
                    for other in candidates.iter().filter(|c| may(c)) {
                        prop_assert!(
                            score::seconds_until_done(other, Tokens(cost)) >= choice.score_s
                        );
                    }
                }
                Err(_) => prop_assert!(!candidates.iter().any(may)),
            }
        }
    }
}
