//! One gateway with an endpoint for each measurement, stand-in workers behind it, and their requests.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate::simulate::serving::{Arrival, saturated};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::machines::{KAPPA, Machine, traffic, work_of_one};
use crate::harness::{ConfigDir, FakeWorker, Gateway, http_client, wait_until};
use crate::replay::Api;
use crate::replay::client::{Target, send_body};
use crate::trace::TraceRequest;

/// One endpoint: workers of one kind under a steady load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measurement {
    pub(super) machine: Machine,
    pub(super) workers: usize,
    /// The load as a share of what they can do.
    pub(super) share: f64,
    pub(super) purpose: &'static str,
}

impl Measurement {
    pub(super) fn endpoint(&self) -> String {
        format!("{}-{}", self.machine.name, self.purpose)
    }

    /// What one worker can do with such requests, in the machine's own time.
    pub(super) fn truth(&self, seed: u64) -> f64 {
        saturated(self.machine.modelled(), &traffic(100.0, 40.0, seed), KAPPA)
    }
}

pub(super) struct Stage {
    pub(super) gateway: Gateway,
    pub(super) client: reqwest::Client,
    /// Those of each measurement.
    pub(super) workers: Vec<Vec<FakeWorker>>,
    open: JoinSet<()>,
}

impl Stage {
    pub(super) async fn start(
        measurements: &[Measurement],
        slower: f64,
        seed: u64,
    ) -> Result<Self> {
        let config = ConfigDir::new("scaler_interval: 0.2\nlog: warn\n")?;
        let mut all = Vec::new();
        for measurement in measurements {
            let flags = measurement.machine.flags(slower);
            let mut workers = Vec::new();
            for _ in 0..measurement.workers {
                workers.push(FakeWorker::start(&flags, config.path()).await?);
            }
            let name = measurement.endpoint();
            let text = endpoint(measurement, &workers, slower, seed);
            config.write_endpoint(&name, &text)?;
            all.push(workers);
        }
        let gateway = Gateway::start(config).await?;
        let wanted: usize = all.iter().map(Vec::len).sum();
        let ready = wait_until(Duration::from_secs(60), || async {
            gateway.fleet().await.is_ok_and(|f| f.ready() == wanted)
        });
        ensure!(
            ready.await,
            "not all workers are ready\n{}",
            gateway.child.log_tail()
        );
        Ok(Self {
            gateway,
            client: http_client()?,
            workers: all,
            open: JoinSet::new(),
        })
    }

    /// Sends what comes within `seconds` of the real time, from now on.
    pub(super) fn load(&mut self, measurement: &Measurement, seconds: f64, slower: f64, seed: u64) {
        let fleet = measurement.truth(seed) * measurement.workers as f64;
        let rate = measurement.share * fleet / work_of_one();
        let arrivals = traffic(rate, seconds / slower, seed);
        let model = measurement.endpoint();
        let target = Target {
            client: self.client.clone(),
            url: format!("{}{}", self.gateway.base_url, Api::Chat.path()),
            api: Api::Chat,
            model: Some(model.clone()),
            api_key: None,
            timeout: Duration::from_secs(600),
        };
        self.open.spawn(async move {
            let begin = Instant::now();
            let mut open = JoinSet::new();
            for (id, arrival) in arrivals.iter().enumerate() {
                let due = begin + Duration::from_secs_f64(arrival.at_s * slower);
                let body = body(arrival, id as u64, &model);
                let target = target.clone();
                tokio::time::sleep_until(due).await;
                open.spawn(async move { send_body(&target, body, due).await });
                while open.try_join_next().is_some() {}
            }
            open.shutdown().await;
        });
    }

    /// From now on the worker takes so many times as long for everything.
    pub(super) async fn slow_down(&self, worker: &FakeWorker, times: f64) -> Result<()> {
        let order = json!({ "slow": times });
        let url = format!("{}/control", worker.url);
        let answer = self.client.post(url).json(&order).send().await?;
        answer.error_for_status()?;
        Ok(())
    }
}

/// The answer's length is told to the engine alone: the gateway has to predict it.
fn body(arrival: &Arrival, seed: u64, model: &str) -> String {
    let request = TraceRequest {
        arrival_s: arrival.at_s,
        input_tokens: arrival.prompt_tokens,
        output_tokens: arrival.output_tokens,
    };
    let mut body = Api::Chat.body(request, seed, Some(model));
    if let Some(fields) = body.as_object_mut() {
        fields.remove("max_tokens");
    }
    body["user"] = json!(format!("length:{}", arrival.output_tokens));
    body.to_string()
}

fn endpoint(measurement: &Measurement, workers: &[FakeWorker], slower: f64, seed: u64) -> String {
    let machine = &measurement.machine;
    let stated = measurement.truth(seed) * machine.stated_wrong / slower;
    let urls: Vec<String> = workers
        .iter()
        .map(|worker| format!("{{url: \"{}\"}}", worker.url))
        .collect();
    format!(
        "endpoint_name: {}\nmarket: fixed\nkappa: {KAPPA}\nslow_start: 0\nhedge_share: 0\nmax_queue_time: 60\n\
         timeouts: {{silence: 120}}\nprobe_interval: 1\nmax_wait_time_busy: 3600\nworker_groups:\n  \
         - {{name: {}, engine: fake, tokens_per_second: {stated:.3}, concurrency: {}, kv_tokens: {}, workers: [{}]}}\n",
        measurement.endpoint(),
        machine.name,
        machine.law.max_batch,
        machine.law.kv_tokens,
        urls.join(", "),
    )
}
