//! Judging workers by how their requests end and how fast their streams flow: who is passed over for a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::endpoint::EndpointFleet;
use super::worker::Worker;
use crate::domain::{GapLaw, GroupName, RequestOutcome, Timestamp, WorkerId};
use crate::policy::ejection::{Fault, Member, PaceSample, middle, review};

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

    /// Once a second: folds what streams told into speeds, judges, and sets weights. Returns whom it ejected.
    pub fn review(&self, now: Timestamp) -> Vec<(WorkerId, Fault)> {
        let settings = self.settings.load();
        let routing = &settings.routing;
        let before = self.reviewed_ms.swap(now.as_millis(), Relaxed);
        let seconds = now.seconds_since(Timestamp::from_millis(before));
        let table = self.table.load();
        let ready: Vec<&Arc<Worker>> = table
            .iter()
            .filter(|worker| worker.phase().0.is_ready())
            .collect();
        let laws = laws_by_group(&ready);
        for worker in table.iter() {
            let Some(sample) = worker.update_speed() else {
                continue;
            };
            let sample = PaceSample {
                mean_gap_s: sample.mean_gap_s,
                streams: sample.concurrency,
                seconds,
            };
            let mut group = laws.get(&worker.spec.group).cloned().unwrap_or_default();
            let peers = middle(&mut group, sample.streams);
            let mut health = worker.health.lock();
            health.watch(sample, worker.gap(), peers, &routing.ejection);
        }
        let ejected = self.eject(&ready, now);
        for worker in table.iter() {
            worker.reweigh(routing.slow_start, now);
        }
        ejected
    }

    fn eject(&self, ready: &[&Arc<Worker>], now: Timestamp) -> Vec<(WorkerId, Fault)> {
        let settings = self.settings.load();
        let mut guards: Vec<_> = ready.iter().map(|worker| worker.health.lock()).collect();
        let mut members: Vec<Member<'_>> = guards
            .iter_mut()
            .zip(ready)
            .map(|(health, worker)| Member {
                health,
                capacity: worker.speed(),
            })
            .collect();
        review(&mut members, &settings.routing.ejection, now)
            .into_iter()
            .map(|(place, fault)| (ready[place].id().clone(), fault))
            .collect()
    }
}

fn laws_by_group(ready: &[&Arc<Worker>]) -> BTreeMap<GroupName, Vec<GapLaw>> {
    let mut laws: BTreeMap<GroupName, Vec<GapLaw>> = BTreeMap::new();
    for worker in ready {
        let group = laws.entry(worker.spec.group.clone()).or_default();
        group.push(worker.gap());
    }
    laws
}
