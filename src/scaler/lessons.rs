//! What a worker's life tells of its machine: events that only the market's words bring, verdicts on benchmarks, and
//! what is remembered of hosts and speeds, here and in the ledger.

use std::sync::Arc;

use super::Scaler;
use crate::domain::{
    Alternative, BenchmarkResult, BenchmarkSettings, FailureReason, Instance, InstanceState,
    OfferChoice, Timestamp, WorkerEvent, WorkerId, WorkerPhase,
};
use crate::fleet::{EndpointFleet, Worker};
use crate::ledger::LedgerError;
use crate::policy::benchmark::{judge, speed_at};
use crate::policy::ejection::GivenUp;
use crate::policy::lifecycle::{cannot_start, ends_soon};
use crate::policy::offers::gpu::is_same_gpu;
use crate::policy::reputation::{HostEvent, hours};
use crate::telemetry::now;

/// Longer words of a market say no more.
const WORDS_MAX: usize = 200;

impl Scaler {
    /// What a report means for a worker that may have to be measured, or was.
    pub(super) fn meaning(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        event: WorkerEvent,
    ) -> WorkerEvent {
        let settings = endpoint.settings();
        match (event, &settings.benchmark) {
            (WorkerEvent::ProbeSucceeded, Some(_))
                if worker.phase().0 == WorkerPhase::Starting
                    && worker.origin.benchmark().is_none() =>
            {
                WorkerEvent::BenchmarkDue
            }
            (WorkerEvent::BenchmarkPassed, Some(benchmark)) => match worker.origin.benchmark() {
                Some(result) => self.verdict(endpoint, worker, &result, benchmark),
                None => event,
            },
            _ => event,
        }
    }

    fn verdict(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        result: &BenchmarkResult,
        asked: &BenchmarkSettings,
    ) -> WorkerEvent {
        let at = result.at;
        let believed = speed_at(worker.gap(), result.concurrency);
        let expected = self.experience.expected(endpoint, worker, believed, at);
        let passed = judge(result, expected, asked.share_min);
        tracing::info!(
            endpoint = %endpoint.name, worker = %worker.id(), tokens_per_second = result.tokens_per_second.0,
            expected = expected.tokens_per_second.0, took_s = result.took_s, passed = passed.is_ok(), "benchmark"
        );
        self.remember("benchmark", worker.id().as_str(), result, at);
        match passed {
            Ok(()) => {
                worker.take_benchmark(result, Some(asked));
                self.learn_speed(endpoint, worker, at);
                WorkerEvent::BenchmarkPassed
            }
            Err(reason) => WorkerEvent::BenchmarkFailed(reason),
        }
    }

    /// Events that a listing brings besides the state itself.
    pub(super) fn look_closer(
        &self,
        endpoint: &Arc<EndpointFleet>,
        worker: &Arc<Worker>,
        instance: &Instance,
        listed_at: Timestamp,
    ) {
        let state = instance.state;
        let since = worker.origin.see(state, listed_at);
        if matches!(state, InstanceState::Scheduling | InstanceState::Offline) {
            self.advance(
                endpoint,
                worker,
                WorkerEvent::InstanceLasts { state, since },
            );
        }
        self.mind_end(endpoint, worker, instance);
        if let Some(reason) = unfit(worker, instance) {
            let words: String = instance.message.chars().take(WORDS_MAX).collect();
            tracing::warn!(
                endpoint = %endpoint.name, worker = %worker.id(), reason = reason.as_str(), said = words, "unfit machine"
            );
            self.advance(endpoint, worker, WorkerEvent::InstanceUnfit(reason));
        }
    }

    /// Its market says when the rental ends whatever we do.
    fn mind_end(&self, endpoint: &Arc<EndpointFleet>, worker: &Arc<Worker>, instance: &Instance) {
        let times = &endpoint.settings().times;
        let ends = instance.ends_at;
        let soon = ends.is_some_and(|ends_at| ends_soon(ends_at, times, now()));
        let was = worker.origin.set_ends_soon(soon);
        if !soon {
            return;
        }
        if !was {
            worker.set_last_reason("its rental ends");
            tracing::info!(
                endpoint = %endpoint.name, worker = %worker.id(), "the rental ends soon: the machine is left"
            );
        }
        self.advance(endpoint, worker, WorkerEvent::EndsSoon);
    }

    /// It was ejected too often, or stays slow: another takes its place. One that still serves does so until its
    /// replacement is there and it is surplus, as no demand is covered with it.
    pub(super) fn give_up(&self, endpoint: &Arc<EndpointFleet>, id: &WorkerId, why: GivenUp) {
        let Some(worker) = endpoint.worker(id) else {
            return;
        };
        if !self.is_rented(endpoint) || !worker.phase().0.is_ready() {
            return;
        }
        let said = why.to_string();
        if worker.last_reason() != said {
            tracing::warn!(endpoint = %endpoint.name, worker = %id, why = said, "worker given up");
            worker.set_last_reason(said);
            let fault = why.fault().as_str();
            let labels = [endpoint.name.as_str(), fault];
            self.metrics.given_up.with_label_values(&labels).inc();
        }
        if worker.weight() <= 0.0 {
            self.advance(endpoint, &worker, WorkerEvent::GivenUp);
        }
    }

    /// A worker went from one phase, which it was in since `since`, to another.
    pub(super) fn learn_from(
        &self,
        endpoint: &EndpointFleet,
        worker: &Worker,
        (from, since): (WorkerPhase, Timestamp),
        to: WorkerPhase,
        at: Timestamp,
    ) {
        let served = matches!(
            from,
            WorkerPhase::Ready | WorkerPhase::Unhealthy { .. } | WorkerPhase::Draining { .. }
        );
        let event = match to {
            WorkerPhase::Ready if from.is_starting() => Some(HostEvent::CameUp),
            WorkerPhase::Failed { reason } => HostEvent::of(reason, served),
            WorkerPhase::Draining { .. } if worker.given_up().is_some() => Some(HostEvent::Died),
            _ => None,
        };
        let survived = from.is_ready().then(|| HostEvent::Survived {
            hours: hours(at.since(since)),
        });
        let events: Vec<HostEvent> = survived.into_iter().chain(event).collect();
        self.learn_of_host(worker, &events, at);
        if from.is_ready() && worker.meter.totals().requests > 0 {
            self.learn_speed(endpoint, worker, at);
        }
    }

    pub(super) fn learn_of_host(&self, worker: &Worker, events: &[HostEvent], at: Timestamp) {
        let rented = worker.origin.rented_as();
        if let Some(machine) = rented.and_then(|rented| rented.machine.clone())
            && !events.is_empty()
        {
            let host = self.experience.learn_of_host(&machine, events, at);
            let key = format!("{}/{}", machine.host, machine.machine);
            self.remember("host", &key, &(&machine, host), at);
        }
    }

    fn learn_speed(&self, endpoint: &EndpointFleet, worker: &Worker, at: Timestamp) {
        let group = &worker.spec.group;
        if let Some(speeds) = self.experience.learn_speed(endpoint, worker, at) {
            let key = format!("{}/{group}", endpoint.name);
            self.remember("speed", &key, &(&endpoint.name, group, speeds), at);
        }
    }

    /// What earlier gateways learned. What cannot be read any more is learned again.
    pub(super) fn recall_lessons(&self) -> Result<(), LedgerError> {
        for (_, value) in self.ledger.recall("host")? {
            if let Ok((machine, host)) = serde_json::from_value(value) {
                self.experience.recall_host(machine, host);
            }
        }
        for (_, value) in self.ledger.recall("speed")? {
            if let Ok((endpoint, group, speeds)) = serde_json::from_value(value) {
                self.experience.recall_speeds(endpoint, group, speeds);
            }
        }
        let choices = self.ledger.recall("choice")?;
        let benchmarks = self.ledger.recall("benchmark")?;
        for endpoint in self.fleet.endpoints().values() {
            let settings = endpoint.settings();
            for worker in endpoint.workers().iter() {
                let id = worker.id().as_str();
                let mut of_worker = choices.iter().filter(|(key, _)| key == id);
                let choice = of_worker.next().map(|(_, value)| value.clone());
                if let Some(best) = choice.and_then(chosen) {
                    worker.recall_rented(best);
                }
                let mut of_worker = benchmarks.iter().filter(|(key, _)| key == id);
                let result = of_worker.next().map(|(_, value)| value.clone());
                if let Some(result) = result.and_then(|value| serde_json::from_value(value).ok()) {
                    worker.recall_benchmark(result, settings.benchmark.as_ref());
                }
            }
        }
        Ok(())
    }
}

fn chosen(choice: serde_json::Value) -> Option<Alternative> {
    let choice: OfferChoice = serde_json::from_value(choice).ok()?;
    choice.best().cloned()
}

/// It is not what was rented, or its market says twice that it cannot start.
fn unfit(worker: &Worker, instance: &Instance) -> Option<FailureReason> {
    let phase = worker.phase().0;
    if phase.is_ending() {
        return None;
    }
    if let (Some(rented), Some(gpu)) = (worker.origin.rented_as(), &instance.gpu_name)
        && !is_same_gpu(&rented.gpu_name, gpu)
    {
        return Some(FailureReason::WrongHardware);
    }
    let starting = phase == WorkerPhase::Starting && instance.state != InstanceState::Running;
    let said = (starting && cannot_start(&instance.message)).then_some(&*instance.message);
    worker
        .origin
        .says_again(said)
        .then_some(FailureReason::MarketError)
}
