//! Judging workers by how their requests end and how fast their streams flow: who is passed over for a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::endpoint::EndpointFleet;
use super::worker::Worker;
use crate::domain::{GroupName, IterationLaw, RequestOutcome, Timestamp, WorkerId};
use crate::policy::ejection::{Fault, GivenUp, Member, PaceSample, Review, middle, review};

/// What a review of all workers found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reviewed {
    pub ejected: Vec<(WorkerId, Fault)>,
    /// They slowed together: their speeds are learned anew.
    pub other_work: Vec<WorkerId>,
    /// To be replaced, told at each review.
    pub given_up: Vec<(WorkerId, GivenUp)>,
}

impl EndpointFleet {
    /// A request at the worker is over.
    pub fn note_outcome(&self, worker: &WorkerId, outcome: RequestOutcome) {
        let Some(worker) = self.worker(worker) else {
            return;
        };
        worker.health.lock().note(outcome);
        if outcome == RequestOutcome::Succeeded {
            worker.request_succeeded();
        }
    }

    /// Once a second: folds what streams told into capacities, judges, and sets weights.
    pub fn review(&self, now: Timestamp) -> Reviewed {
        let settings = self.settings.load();
        let routing = &settings.routing;
        let before = self.reviewed_ms.swap(now.as_millis(), Relaxed);
        let seconds = now.seconds_since(Timestamp::from_millis(before));
        let table = self.table.load();
        let ready: Vec<&Arc<Worker>> = table
            .iter()
            .filter(|worker| worker.phase().0.is_ready())
            .collect();
        let awake = ready
            .iter()
            .filter(|worker| !worker.health.lock().is_resting());
        let laws = laws_by_group(&awake.copied().collect::<Vec<_>>());
        for worker in table.iter() {
            let Some(sample) = worker.update_estimate(seconds, now).gaps else {
                worker.health.lock().rest(seconds);
                continue;
            };
            let sample = PaceSample {
                mean_gap_s: sample.mean_gap_s,
                load: sample.load,
                seconds,
            };
            let mut group = laws.get(&worker.spec.group).cloned().unwrap_or_default();
            let peers = middle(&mut group, sample.load);
            let mut health = worker.health.lock();
            health.watch(sample, worker.law(), peers, &routing.ejection);
        }
        let found = self.judge(&ready, now);
        for place in &found.other_work {
            ready[*place].learn_anew();
        }
        for worker in table.iter() {
            worker.reweigh(routing.slow_start, now);
        }
        let id = |place: usize| ready[place].id().clone();
        Reviewed {
            ejected: found
                .ejected
                .iter()
                .map(|(at, why)| (id(*at), *why))
                .collect(),
            other_work: found.other_work.iter().map(|at| id(*at)).collect(),
            given_up: found
                .given_up
                .iter()
                .map(|(at, why)| (id(*at), *why))
                .collect(),
        }
    }

    fn judge(&self, ready: &[&Arc<Worker>], now: Timestamp) -> Review {
        let settings = self.settings.load();
        let mut guards: Vec<_> = ready.iter().map(|worker| worker.health.lock()).collect();
        let mut members: Vec<Member<'_>> = guards
            .iter_mut()
            .zip(ready)
            .map(|(health, worker)| Member {
                health,
                group: &worker.spec.group,
                capacity: worker.speed(),
            })
            .collect();
        review(&mut members, &settings.routing.ejection, now)
    }
}

fn laws_by_group(ready: &[&Arc<Worker>]) -> BTreeMap<GroupName, Vec<IterationLaw>> {
    let mut laws: BTreeMap<GroupName, Vec<IterationLaw>> = BTreeMap::new();
    for worker in ready {
        let group = laws.entry(worker.spec.group.clone()).or_default();
        group.push(worker.law());
    }
    laws
}
