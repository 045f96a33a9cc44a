//! The same fleet in real time: the real gateway before nine stand-in workers with the machines' laws, beside the
//! simulator on the very same requests and settings. Everything is slowed down alike, so that two cores keep up.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate::domain::RoutingSettings;
use tidegate::simulate::serving::{Arrival, Production, Scenario, Served, run};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fleet::{self, BATCH_MAX};
use super::report::Figures;
use crate::compare::processes::Busy;
use crate::harness::{ConfigDir, FakeWorker, Gateway, http_client, wait_until};
use crate::replay::Api;
use crate::replay::client::{Target, send_body};
use crate::replay::outcome::{Outcome, Quantiles, Times};
use crate::trace::TraceRequest;

/// After the last arrival, in the machines' own time.
const FINISH_WITHIN_S: f64 = 120.0;

/// What requests ask for; routers that look at names find it.
const MODEL: &str = "bench";

/// One piece of a trace, played by the simulator and in real time.
pub(super) struct Comparison {
    pub(super) trace: &'static str,
    pub(super) requests: usize,
    /// At the machines' own speed, and as slow as the real run.
    pub(super) simulated: Figures,
    pub(super) simulated_slow: Figures,
    pub(super) live: Figures,
    pub(super) failed: Vec<String>,
    pub(super) send_lag: Option<Quantiles>,
    /// Share of this machine's processors that was busy, whoever with.
    pub(super) busy: f64,
}

/// `slower`: how many times everything takes as long as on the machines.
pub(super) async fn compare(
    trace: &'static str,
    arrivals: &[Arrival],
    seed: u64,
    slower: f64,
) -> Result<Comparison> {
    ensure!(
        slower > 0.0 && slower.is_finite(),
        "--slower must be above 0"
    );
    let largest = arrivals.iter().map(|a| a.prompt_tokens + a.output_tokens);
    let least_cache = fleet::machines().iter().map(|m| m.law.kv_tokens).min();
    ensure!(
        largest.max() < least_cache.map(|tokens| tokens / 2),
        "a request is too large for the smallest machine"
    );
    let busy = Busy::now();
    let workers = Workers::start(slower).await?;
    let gateway = workers.gateway().await?;
    let (outcomes, send_lag) = play(&gateway.base_url, arrivals, slower, FINISH_WITHIN_S).await?;
    let failed = outcomes.iter().filter_map(|outcome| {
        let failure = outcome.failure.as_ref()?;
        Some(format!("{}: {}", failure.kind, failure.detail))
    });
    let live: Vec<Served> = outcomes.iter().map(|o| served(o, slower)).collect();
    Ok(Comparison {
        trace,
        requests: arrivals.len(),
        simulated: simulated(arrivals, seed, 1.0),
        simulated_slow: simulated(arrivals, seed, slower),
        live: Figures::of(&live, arrivals),
        failed: failed.collect(),
        send_lag,
        busy: busy.since(),
    })
}

/// Figures in the machines' own time.
fn simulated(arrivals: &[Arrival], seed: u64, slower: f64) -> Figures {
    let later = |arrival: &Arrival| Arrival {
        at_s: arrival.at_s * slower,
        ..*arrival
    };
    let slow_arrivals: Vec<Arrival> = arrivals.iter().map(later).collect();
    let machines = fleet::machines().into_iter();
    let scenario = Scenario {
        machines: machines.map(|m| fleet::slowed(m, slower)).collect(),
        settings: fleet::settings_for(slower),
        reserve_tokens: u32::MAX,
        clients: 1,
        slowdowns: Vec::new(),
        seed,
    };
    let mut ours = Production::new(&scenario.settings);
    let mut served = run(&scenario, &slow_arrivals, &mut ours);
    for one in &mut served {
        one.first_token_s /= slower;
        one.per_token_s /= slower;
    }
    Figures::of(&served, arrivals)
}

/// What the client saw. Who got no whole answer waited for ever.
pub(crate) fn served(outcome: &Outcome, slower: f64) -> Served {
    let first = outcome.first_token.filter(|_| outcome.failure.is_none());
    let decoding: Duration = outcome.gaps.iter().sum();
    let gaps = outcome.output_tokens.max(2) - 1;
    Served {
        machine: 0,
        // A request that left late because this side was busy has waited all the same.
        first_token_s: first.map_or(f64::INFINITY, |first| {
            (first + outcome.send_lag).as_secs_f64() / slower
        }),
        per_token_s: decoding.as_secs_f64() / gaps as f64 / slower,
        held_s: 0.0,
    }
}

/// Sends each when it is due, whatever became of those before; also how late this side was.
pub(crate) async fn play(
    base_url: &str,
    arrivals: &[Arrival],
    slower: f64,
    finish_within_s: f64,
) -> Result<(Vec<Outcome>, Option<Quantiles>)> {
    let length_s = arrivals.last().map_or(0.0, |last| last.at_s);
    let finish = Duration::from_secs_f64((length_s + finish_within_s) * slower);
    let target = Target {
        client: http_client()?,
        url: format!("{base_url}{}", Api::Chat.path()),
        api: Api::Chat,
        model: Some(MODEL.to_owned()),
        api_key: None,
        timeout: finish,
    };
    let begin = Instant::now();
    let mut open = JoinSet::new();
    for (id, arrival) in arrivals.iter().enumerate() {
        let due = begin + Duration::from_secs_f64(arrival.at_s * slower);
        let (target, body) = (target.clone(), body(arrival, id as u64));
        tokio::time::sleep_until(due).await;
        open.spawn(async move { (id, send_body(&target, body, due).await) });
    }
    let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(arrivals.len());
    while let Some(ended) = open.join_next().await {
        outcomes.push(ended?);
    }
    outcomes.sort_by_key(|(id, _)| *id);
    let mut lags = Times::default();
    let outcomes = outcomes.into_iter().map(|(_, outcome)| outcome);
    let outcomes: Vec<Outcome> = outcomes.inspect(|o| lags.record(o.send_lag)).collect();
    Ok((outcomes, lags.quantiles()))
}

/// The answer's length is told to the engine alone: the gateway has to predict it, as in the simulator.
fn body(arrival: &Arrival, seed: u64) -> String {
    let request = TraceRequest {
        arrival_s: arrival.at_s,
        input_tokens: arrival.prompt_tokens,
        output_tokens: arrival.output_tokens,
    };
    let mut body = Api::Chat.body(request, seed, Some(MODEL));
    if let Some(fields) = body.as_object_mut() {
        fields.remove("max_tokens");
    }
    body["user"] = json!(format!("length:{}", arrival.output_tokens));
    body.to_string()
}

/// Nine stand-ins with the machines' laws, all so many times as slow.
pub(crate) struct Workers {
    kinds: Vec<(fleet::Kind, Vec<FakeWorker>)>,
    slower: f64,
    _folder: tempfile::TempDir,
}

impl Workers {
    pub(crate) async fn start(slower: f64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut kinds = Vec::new();
        for kind in fleet::kinds() {
            let flags = [
                "--speed-profile".to_owned(),
                kind.name.to_owned(),
                format!("--max-batch={BATCH_MAX}"),
                format!("--time-scale={}", 1.0 / slower),
                format!("--model={MODEL}"),
            ];
            let mut workers = Vec::new();
            for _ in 0..kind.count {
                workers.push(FakeWorker::start(&flags, folder.path()).await?);
            }
            kinds.push((kind, workers));
        }
        Ok(Self {
            kinds,
            slower,
            _folder: folder,
        })
    }

    /// In an order that tells nothing about speeds.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let all = self.kinds.iter().flat_map(|(_, workers)| workers);
        let mut ports: Vec<u16> = all.map(|worker| worker.port).collect();
        ports.rotate_right(4);
        ports
    }

    /// The gateway before them, told what an operator knows of each kind of machine.
    pub(crate) async fn gateway(&self) -> Result<Gateway> {
        let config = ConfigDir::new("scaler_interval: 0.1\nlog: warn\n")?;
        let (slower, mut groups, mut count) = (self.slower, String::new(), 0);
        for (kind, workers) in &self.kinds {
            let urls = workers
                .iter()
                .map(|worker| format!("{{url: \"{}\"}}", worker.url));
            groups += &group(kind, slower, &urls.collect::<Vec<_>>().join(", "));
            count += workers.len();
        }
        config.write_endpoint(MODEL, &endpoint(&fleet::settings_for(slower), &groups))?;
        let gateway = Gateway::start(config).await?;
        let all_ready = wait_until(Duration::from_secs(60), || async {
            let fleet = gateway.fleet().await;
            fleet.is_ok_and(|fleet| fleet.ready() == count)
        });
        ensure!(
            all_ready.await,
            "not all workers are ready\n{}",
            gateway.child.log_tail()
        );
        Ok(gateway)
    }
}

fn group(kind: &fleet::Kind, slower: f64, urls: &str) -> String {
    let name = kind.name;
    let machine = fleet::slowed(kind.machine.clone(), slower);
    format!(
        "  - {{name: {name}, engine: fake, tokens_per_second: {}, concurrency: {}, max_concurrency: {BATCH_MAX}, \
         kv_tokens: {}, usd_per_hour: {}, workers: [{urls}]}}\n",
        machine.speed_prior.tokens_per_second.0,
        machine.speed_prior.concurrency,
        machine.law.kv_tokens,
        machine.usd_per_hour.0,
    )
}

/// What the simulator has no model of is off: hedging, ejection, slow start.
fn endpoint(settings: &RoutingSettings, groups: &str) -> String {
    let seconds = |time: Duration| time.as_secs_f64();
    format!(
        "endpoint_name: {MODEL}\nmarket: fixed\nmax_queue_time: {}\nkappa: {}\nlatency_aim: {{wait: {}, gap: {}}}\n\
         prefix_affinity: {{bound: {}}}\nslow_start: 0\nhedge_share: 0\nejection: {{consecutive_errors: 0}}\n\
         timeouts: {{silence: 120}}\nprobe_interval: 0.5\nmax_wait_time_busy: 3600\nworker_groups:\n{groups}",
        seconds(settings.max_queue_time),
        settings.kappa,
        seconds(settings.latency_aim.wait),
        seconds(settings.latency_aim.gap),
        seconds(settings.affinity.bound),
    )
}
