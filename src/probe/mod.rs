//! Health checks of workers, spoken in their engine's language; results go to `fleet`.

mod benchmark;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::domain::{FailureReason, TimeLimits, WorkerEvent, WorkerId, WorkerPhase};
use crate::engines;
use crate::fleet::{Contact, EndpointFleet, Fleet, Worker};
use crate::telemetry::Metrics;

/// How often the prober looks for workers that are due.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Probes of a worker that is not ready yet come this often: every moment of boot counts.
const STARTING_INTERVAL: Duration = Duration::from_millis(200);
/// Model lists longer than this are not a model list.
const MODELS_BYTES_MAX: usize = 1 << 20;

pub struct Prober {
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    due: Mutex<HashMap<WorkerId, Instant>>,
    /// Workers being asked now: a slow answer is waited for, not asked for again.
    asking: Arc<Mutex<HashSet<WorkerId>>>,
    /// Workers that are being measured or were, until they leave that phase.
    measured: Mutex<HashSet<WorkerId>>,
}

impl Prober {
    pub fn new(fleet: Arc<Fleet>, metrics: Arc<Metrics>) -> Self {
        Self {
            fleet,
            metrics,
            due: Mutex::default(),
            asking: Arc::default(),
            measured: Mutex::default(),
        }
    }

    /// Probes until dropped.
    pub async fn run(&self) {
        let client = match reqwest::Client::builder().no_proxy().build() {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "no HTTP client for probes");
                return;
            }
        };
        let mut probes = JoinSet::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            for (endpoint, worker, contact) in self.take_due() {
                let (client, metrics) = (client.clone(), Arc::clone(&self.metrics));
                let asking = Asking(Arc::clone(&self.asking), worker.id().clone());
                probes.spawn(async move {
                    probe(&client, &metrics, &endpoint, &worker, &contact).await;
                    drop(asking);
                });
            }
            for (endpoint, worker, contact) in self.take_unmeasured() {
                let (client, metrics) = (client.clone(), Arc::clone(&self.metrics));
                probes.spawn(async move {
                    measure(&client, &metrics, &endpoint, &worker, &contact).await;
                });
            }
            while probes.try_join_next().is_some() {}
        }
    }

    /// Workers that are to be measured and are not yet.
    fn take_unmeasured(&self) -> Vec<(Arc<EndpointFleet>, Arc<Worker>, Arc<Contact>)> {
        let mut measured = self.measured.lock();
        let mut waiting = HashSet::new();
        let mut out = Vec::new();
        for endpoint in self.fleet.endpoints().values() {
            for worker in endpoint.workers().iter() {
                if worker.phase().0 != WorkerPhase::Benchmarking {
                    continue;
                }
                waiting.insert(worker.id().clone());
                if let Some(contact) = worker.contact()
                    && measured.insert(worker.id().clone())
                {
                    out.push((Arc::clone(endpoint), Arc::clone(worker), contact));
                }
            }
        }
        measured.retain(|id| waiting.contains(id));
        out
    }

    fn take_due(&self) -> Vec<(Arc<EndpointFleet>, Arc<Worker>, Arc<Contact>)> {
        let now = Instant::now();
        let mut due = self.due.lock();
        let mut next = HashMap::with_capacity(due.len());
        let mut out = Vec::new();
        for endpoint in self.fleet.endpoints().values() {
            let times = endpoint.settings().times.clone();
            for worker in endpoint.workers().iter() {
                let (Some(interval), Some(contact)) = (interval(worker, &times), worker.contact())
                else {
                    continue;
                };
                // A worker that became doubted is probed at once, not when its old turn comes.
                let at = due.remove(worker.id()).unwrap_or(now).min(now + interval);
                if at <= now && self.asking.lock().insert(worker.id().clone()) {
                    next.insert(worker.id().clone(), now + interval);
                    out.push((Arc::clone(endpoint), Arc::clone(worker), contact));
                } else {
                    next.insert(worker.id().clone(), at);
                }
            }
        }
        *due = next;
        out
    }
}

/// Removes its worker from those being asked, however the probe ends.
struct Asking(Arc<Mutex<HashSet<WorkerId>>>, WorkerId);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

fn interval(worker: &Worker, times: &TimeLimits) -> Option<Duration> {
    match worker.phase().0 {
        // The first failure may be one broken connection: asked again at once, it costs nothing.
        WorkerPhase::Starting | WorkerPhase::Unhealthy { failed_probes: 1 } => {
            Some(STARTING_INTERVAL.min(times.probe_interval))
        }
        // The benchmark says how it is.
        WorkerPhase::Benchmarking => None,
        WorkerPhase::Ready if !worker.takes_requests() => Some(STARTING_INTERVAL),
        WorkerPhase::Ready | WorkerPhase::Unhealthy { .. } | WorkerPhase::Draining { .. } => {
            Some(times.probe_interval)
        }
        WorkerPhase::Stopping
        | WorkerPhase::Stopped
        | WorkerPhase::Failed { .. }
        | WorkerPhase::Destroying
        | WorkerPhase::Gone => None,
    }
}

async fn probe(
    client: &reqwest::Client,
    metrics: &Metrics,
    endpoint: &EndpointFleet,
    worker: &Worker,
    contact: &Contact,
) {
    let limit = endpoint.settings().times.probe;
    let asked = tokio::time::timeout(limit, ask(client, worker, contact)).await;
    let healthy = asked.unwrap_or(false);
    // The worker may have been restarted elsewhere meanwhile.
    if worker
        .contact()
        .is_none_or(|now| now.incarnation != contact.incarnation)
    {
        return;
    }
    let (event, outcome) = if healthy {
        (WorkerEvent::ProbeSucceeded, "ok")
    } else {
        (WorkerEvent::ProbeFailed, "failed")
    };
    metrics
        .probes
        .with_label_values(&[endpoint.name.as_str(), outcome])
        .inc();
    let starting = matches!(worker.phase().0, WorkerPhase::Starting);
    let news = if healthy {
        !worker.takes_requests()
    } else {
        !starting
    };
    if news {
        endpoint.report(worker.id(), event);
    }
}

async fn measure(
    client: &reqwest::Client,
    metrics: &Metrics,
    endpoint: &EndpointFleet,
    worker: &Worker,
    contact: &Contact,
) {
    let settings = endpoint.settings();
    let event = match &settings.benchmark {
        // Switched off meanwhile.
        None => WorkerEvent::BenchmarkPassed,
        Some(benchmark) => match benchmark::run(client, worker, contact, benchmark).await {
            Some(result) => {
                worker.origin.set_benchmark(result);
                WorkerEvent::BenchmarkPassed
            }
            None => WorkerEvent::BenchmarkFailed(FailureReason::BenchmarkFailed),
        },
    };
    let outcome = match event {
        WorkerEvent::BenchmarkPassed => "measured",
        _ => "not_measured",
    };
    metrics
        .probes
        .with_label_values(&[endpoint.name.as_str(), outcome])
        .inc();
    endpoint.report(worker.id(), event);
}

async fn ask(client: &reqwest::Client, worker: &Worker, contact: &Contact) -> bool {
    let engine = worker.spec.engine;
    let get = |path: &str| {
        let request = client.get(format!("http://{}{}", contact.address, path));
        match &contact.api_key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    };
    let healthy = get(engines::health_path(engine))
        .send()
        .await
        .is_ok_and(|answer| answer.status().is_success());
    if healthy
        && contact.served_model.is_none()
        && let Some(path) = engines::models_path(engine)
        && let Some(model) = first_model(get(path)).await
    {
        worker.set_served_model(contact, model);
    }
    healthy
}

/// The name the engine gives its first model; some engines refuse requests under another.
async fn first_model(list: reqwest::RequestBuilder) -> Option<String> {
    let mut answer = list.send().await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > MODELS_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    let list: serde_json::Value = serde_json::from_slice(&body).ok()?;
    list.pointer("/data/0/id")?.as_str().map(str::to_owned)
}
