//! A key that sends 20 times its share beside one that sends its own: what the second one's clients feel of it, against the same
//! with both at their shares. Open loop: requests are sent when it is their time, whatever became of those before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use futures_util::StreamExt;
use reqwest::Client;
use serde_json::json;
use tokio::task::JoinSet;

use super::report::{Section, Times};
use super::stage::{fixed_endpoint, gateway_over};
use crate::fakes::worker::{self, Settings, SpeedLaw, Worker};
use crate::harness::{Gateway, http_client};

/// Where the quiet key's p99 may go, as a multiple of its quiet value.
const RATIO_MAX: f64 = 1.5;
/// Each key's share is this part of what the workers can do: together they leave some.
const SHARE: f64 = 0.35;

/// Many places in all, so that one is freed every few milliseconds even when all are taken.
const WORKERS: usize = 24;
const PLACES: usize = 8;
/// Read in 0.3 s, as a prompt of ordinary length on a small card.
const PROMPT_TOKENS: usize = 300;
/// Mean; lengths are spread by half of it to both sides.
const OUTPUT_TOKENS: u32 = 100;
const LAW: SpeedLaw = SpeedLaw {
    a_ms: 40.0,
    c_ms: 0.5,
    k_ms: 0.0,
    prefill_tps: 1_000.0,
    kv_tokens: 400_000,
    max_batch: 64,
};

const KEYS: [(&str, &str, &str); 2] = [
    (
        "loud",
        "loud-secret-000001",
        "bc8d72b81fffa0a90bedf8df8a512bfcaecbaa54637d972fc4463b003c739837",
    ),
    (
        "quiet",
        "quiet-secret-00001",
        "2854336ab188a7fa41088b56426db5a4e1706bba54f3a1c553f543cfc460c2fb",
    ),
];
const LOUD: usize = 0;
const QUIET: usize = 1;

/// A key at many times its share beside another at its own
#[derive(Args, Clone, Debug)]
pub struct NoisyOptions {
    /// Of each of the two phases
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// Of the noise before it is measured
    #[arg(long, default_value_t = 20.0)]
    pub onset_seconds: f64,
    /// The noisy key's load in shares
    #[arg(long, default_value_t = 20.0)]
    pub shares: f64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for NoisyOptions {
    fn default() -> Self {
        Self {
            seconds: 60.0,
            onset_seconds: 20.0,
            shares: 20.0,
            seed: 1,
        }
    }
}

/// What one phase brought to each key.
#[derive(Default)]
pub struct Phase {
    ttft: [Times; 2],
    sent: [usize; 2],
    served: [usize; 2],
    refused: [usize; 2],
    failed: Vec<String>,
}

pub struct Findings {
    options: NoisyOptions,
    pub calm: Phase,
    /// The first moments of the noise, in which it takes all places that were free.
    pub onset: Phase,
    pub noisy: Phase,
}

enum Told {
    Served(Duration),
    Refused,
    Failed(String),
}

/// Runs both phases.
pub async fn run(options: &NoisyOptions) -> Result<Findings> {
    ensure!(options.seconds > 0.0 && options.shares >= 1.0);
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let settings = Settings {
            law: LAW,
            ..Settings::default()
        };
        workers.push(worker::start("127.0.0.1:0", settings).await?);
    }
    let gateway = gateway(&workers).await?;
    let mut dice = fastrand::Rng::with_seed(options.seed);
    // Speeds and lengths are learned from a moment of ordinary load.
    play(&gateway, 1.0, options.seconds.min(5.0), &mut dice).await?;
    let calm = play(&gateway, 1.0, options.seconds, &mut dice).await?;
    let (onset, noisy) = play_on(&gateway, options, &mut dice).await?;
    Ok(Findings {
        options: options.clone(),
        calm,
        onset,
        noisy,
    })
}

async fn gateway(workers: &[Worker]) -> Result<Gateway> {
    let urls: Vec<String> = workers.iter().map(Worker::url).collect();
    let endpoint = fixed_endpoint(
        &urls,
        &format!(
            "worker_groups: [{{name: given, engine: fake, max_concurrency: {PLACES}}}]\n\
             max_waiting_requests: 200\nmax_wait_time_busy: 20\n"
        ),
    );
    let keys: Vec<String> = KEYS
        .iter()
        .map(|(name, _, sha256)| format!("{{name: {name}, sha256: {sha256}}}"))
        .collect();
    let server = format!("api_keys: [{}]\n", keys.join(", "));
    gateway_over(&endpoint, &server, urls.len()).await
}

/// Requests a second that all workers together can answer: a full batch decodes while prompts are read.
fn capacity() -> f64 {
    let decode_s = (LAW.a_ms + LAW.c_ms * PLACES as f64) / 1e3 * f64::from(OUTPUT_TOKENS);
    let prefill_s = PROMPT_TOKENS as f64 / LAW.prefill_tps;
    WORKERS as f64 / (decode_s / PLACES as f64 + prefill_s)
}

async fn play(
    gateway: &Gateway,
    loud_shares: f64,
    seconds: f64,
    dice: &mut fastrand::Rng,
) -> Result<Phase> {
    let [phase] = send(gateway, loud_shares, [seconds], dice).await?;
    Ok(phase)
}

/// The noise without a pause between its onset and what is measured.
async fn play_on(
    gateway: &Gateway,
    options: &NoisyOptions,
    dice: &mut fastrand::Rng,
) -> Result<(Phase, Phase)> {
    let ends = [
        options.onset_seconds,
        options.onset_seconds + options.seconds,
    ];
    let [onset, noisy] = send(gateway, options.shares, ends, dice).await?;
    Ok((onset, noisy))
}

/// One load, sorted into phases by when requests were sent; `ends` are those of the phases.
async fn send<const PHASES: usize>(
    gateway: &Gateway,
    loud_shares: f64,
    ends: [f64; PHASES],
    dice: &mut fastrand::Rng,
) -> Result<[Phase; PHASES]> {
    let rate = capacity() * SHARE;
    let client = http_client()?;
    let url: Arc<str> = format!("{}/generate_stream", gateway.base_url).into();
    let mut plan = arrivals(LOUD, rate * loud_shares, ends[PHASES - 1], dice);
    plan.extend(arrivals(QUIET, rate, ends[PHASES - 1], dice));
    plan.sort_by(|a, b| a.0.total_cmp(&b.0));
    let begin = tokio::time::Instant::now();
    let mut phases = std::array::from_fn(|_| Phase::default());
    let mut asked = JoinSet::new();
    for (n, (at, key)) in plan.into_iter().enumerate() {
        tokio::time::sleep_until(begin + Duration::from_secs_f64(at)).await;
        let phase = ends.iter().filter(|end| at > **end).count();
        phases[phase].sent[key] += 1;
        let (client, url) = (client.clone(), Arc::clone(&url));
        let tokens = dice.u32(OUTPUT_TOKENS / 2..=OUTPUT_TOKENS * 3 / 2);
        asked.spawn(async move { (phase, key, ask(&client, &url, key, n, tokens).await) });
    }
    while let Some(told) = asked.join_next().await {
        let (phase, key, told) = told?;
        let phase = &mut phases[phase];
        match told {
            Told::Served(ttft) => {
                phase.served[key] += 1;
                phase.ttft[key].add(ttft);
            }
            Told::Refused => phase.refused[key] += 1,
            Told::Failed(why) => phase.failed.push(format!("{}: {why}", KEYS[key].0)),
        }
    }
    Ok(phases)
}

/// Poisson arrivals.
fn arrivals(key: usize, rate: f64, until: f64, dice: &mut fastrand::Rng) -> Vec<(f64, usize)> {
    let mut at = 0.0;
    std::iter::from_fn(|| {
        at -= (1.0 - dice.f64()).ln() / rate;
        (at <= until).then_some((at, key))
    })
    .collect()
}

async fn ask(client: &Client, url: &str, key: usize, n: usize, tokens: u32) -> Told {
    // Prompts differ from their first word on, so that none is read from a cache.
    let body = json!({
        "inputs": format!("request{n}{}", " word".repeat(PROMPT_TOKENS - 1)),
        "parameters": {"max_new_tokens": tokens},
    });
    let sent = Instant::now();
    let request = client.post(url).bearer_auth(KEYS[key].1).json(&body);
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return Told::Failed(format!("{error:?}")),
    };
    match answer.status().as_u16() {
        200 => {}
        429 | 503 => return Told::Refused,
        status => return Told::Failed(format!("status {status}")),
    }
    let mut first = None;
    let mut body = answer.bytes_stream();
    while let Some(part) = body.next().await {
        match part {
            Ok(_) => first = first.or_else(|| Some(sent.elapsed())),
            Err(error) => return Told::Failed(format!("{error:?}")),
        }
    }
    first.map_or_else(|| Told::Failed("an empty stream".to_owned()), Told::Served)
}

impl Findings {
    /// The quiet key's p99 in the noise, as a multiple of the calm one.
    pub fn ratio(&self) -> f64 {
        let p99 = |phase: &Phase| phase.ttft[QUIET].at(0.99).unwrap_or_default().as_secs_f64();
        p99(&self.noisy) / p99(&self.calm).max(1e-9)
    }

    /// The quiet key's requests that got no answer in the noise.
    pub fn quiet_refused(&self) -> usize {
        self.onset.refused[QUIET] + self.noisy.refused[QUIET]
    }

    pub fn loud_refused(&self) -> usize {
        self.noisy.refused[LOUD]
    }

    pub fn failed(&self) -> &[String] {
        &self.noisy.failed
    }

    pub fn section(&self) -> Section {
        let mut text = format!(
            "Two keys, each with a share of {:.0}% of what {WORKERS} workers of {PLACES} places can do; prompts of {PROMPT_TOKENS} tokens, \
             answers of {OUTPUT_TOKENS}; {:.0} s each. Time to first token of served requests, ms.\n\n\
             | phase | key | sent | served | refused | p50 / p99 / max |\n|---|---|---|---|---|---|\n",
            SHARE * 100.0,
            self.options.seconds,
        );
        let phases = [
            ("both at their shares", &self.calm),
            ("noise, its onset", &self.onset),
            ("noise", &self.noisy),
        ];
        for (name, phase) in phases {
            for key in [LOUD, QUIET] {
                text.push_str(&format!(
                    "| {name} | {} | {} | {} | {} | {} |\n",
                    KEYS[key].0,
                    phase.sent[key],
                    phase.served[key],
                    phase.refused[key],
                    phase.ttft[key]
                ));
            }
        }
        text.push_str(&format!(
            "\nThe quiet key's p99 in the noise of {:.0} shares is {:.2} times its calm one; the limit is {RATIO_MAX}.\n",
            self.options.shares,
            self.ratio()
        ));
        let mut complaints = Vec::new();
        if self.ratio() > RATIO_MAX {
            complaints.push(format!(
                "the quiet key's p99 grew {:.2} times",
                self.ratio()
            ));
        }
        if self.quiet_refused() > 0 {
            complaints.push(format!(
                "{} of the quiet key's requests were refused",
                self.quiet_refused()
            ));
        }
        let failed = self.calm.failed.iter().chain(&self.noisy.failed);
        complaints.extend(failed.take(5).cloned());
        Section {
            title: "A noisy key".to_owned(),
            command: format!(
                "loadtest soak noisy --seconds {} --onset-seconds {} --shares {} --seed {}",
                self.options.seconds,
                self.options.onset_seconds,
                self.options.shares,
                self.options.seed
            ),
            text,
            complaints,
        }
    }
}
