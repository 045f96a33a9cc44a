//! The seam with a real model: llama.cpp's servers that are killed, reset or frozen in the middle of a stream, at temperature 0.
//! One stream at a time, so that no other sequence changes the shape of a batch and with it the last bits of the arithmetic.

mod engines;
mod explain;
mod findings;
mod relay;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures_util::StreamExt;
use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;

use self::engines::Engine;
use self::explain::explain;
pub use self::findings::Findings;
use super::ask::{Route, ask, hear};
use super::stage::{endpoint_of, gateway_over};
use super::told::{Match, Told};
use crate::harness::{Gateway, http_client, http_client_without_pool, wait_until};

const ANSWER_WITHIN: Duration = Duration::from_secs(120);

const PROMPTS: [&str; 12] = [
    "The capital of France is",
    "Once upon a time there was a lighthouse keeper who",
    "Name three colours and say why you like them.",
    "The recipe for a good bread begins with",
    "List the planets:",
    "A short letter to a friend about the sea:",
    "def fibonacci(n):",
    "Explain what a tide is.",
    "Write the numbers from one to twenty:",
    "Das Wetter in Hamburg ist",
    "The three most important rules of sailing are",
    "Say something with an emoji 🌊:",
];

/// Disturbed streams of a real model
#[derive(Args, Clone, Debug)]
pub struct RealOptions {
    #[arg(long, default_value_t = 200)]
    pub count: usize,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Clients that leave the real engine
    #[arg(long, default_value_t = 20)]
    pub leavers: usize,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 64)]
    pub tokens: u32,
}

impl Default for RealOptions {
    fn default() -> Self {
        Self {
            count: 200,
            seed: 1,
            leavers: 20,
            tokens: 64,
        }
    }
}

/// What is done to the serving worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Kill,
    Reset,
    /// It comes to after the stream.
    Freeze,
    /// It is killed after the stream.
    FreezeForGood,
}

impl Way {
    const ALL: [Way; 4] = [Way::Kill, Way::Reset, Way::Freeze, Way::FreezeForGood];

    fn name(self) -> &'static str {
        match self {
            Way::Kill => "SIGKILL",
            Way::Reset => "reset",
            Way::Freeze => "SIGSTOP, then SIGCONT",
            Way::FreezeForGood => "SIGSTOP, then SIGKILL",
        }
    }
}

struct Stage {
    gateway: Gateway,
    engines: Vec<Engine>,
    client: Client,
    _logs: TempDir,
}

/// One stream to be disturbed.
#[derive(Clone, Debug)]
struct Case {
    route: Route,
    prompt: &'static str,
    tokens: u32,
    way: Way,
    /// Events the client has when the worker is struck.
    after: usize,
}

impl Case {
    fn body(&self) -> Value {
        let mut body = self.route.body(self.prompt, self.tokens);
        if !self.route.is_tgi() {
            body["model"] = "model".into();
        }
        body
    }
}

impl Stage {
    async fn set(engines_wanted: usize) -> Result<Self> {
        engines::set_up().await?;
        let (client, logs) = (http_client()?, tempfile::tempdir()?);
        let mut engines = Vec::new();
        for _ in 0..engines_wanted {
            engines.push(Engine::start(&client, &logs).await?);
        }
        let urls: Vec<String> = engines
            .iter()
            .map(|engine| engine.relay.url.clone())
            .collect();
        let endpoint = endpoint_of(
            "llamacpp",
            &urls,
            "retry_attempts: 5\nretry_budget: 1\ntimeouts: {silence: 1.5, probe: 2}\n",
        );
        Ok(Self {
            gateway: gateway_over(&endpoint, "", engines_wanted).await?,
            engines,
            client,
            _logs: logs,
        })
    }

    async fn undisturbed(&self, case: &Case) -> Result<Told> {
        let base = &self.gateway.base_url;
        let told = ask(&self.client, base, case.route, &case.body(), ANSWER_WITHIN).await;
        let flaws = told.flaws(case.route);
        ensure!(flaws.is_empty(), "undisturbed {case:?}: {flaws:?}");
        Ok(told)
    }

    /// The answer, and whether its worker was struck before its end.
    async fn disturbed(&mut self, case: &Case) -> Result<(Told, bool)> {
        self.engines.iter().for_each(|engine| engine.relay.forget());
        let (mut told, now) = (Told::default(), Notify::new());
        let url = format!("{}{}", self.gateway.base_url, case.route.path());
        let request = self.client.post(url).json(&case.body());
        let hearing = async {
            match request.send().await {
                Ok(answer) => {
                    let heard = |events| {
                        if events == case.after {
                            now.notify_one();
                        }
                    };
                    hear(&mut told, answer, heard).await;
                }
                Err(error) => told.broken = Some(format!("no answer: {error:?}")),
            }
            Instant::now()
        };
        let engines = &mut self.engines;
        let striking = async {
            now.notified().await;
            let struck = strike(engines, case.way);
            (struck, Instant::now())
        };
        let both = async {
            tokio::pin!(hearing, striking);
            tokio::select! {
                ended = &mut hearing => (ended, None),
                struck = &mut striking => (hearing.await, Some(struck)),
            }
        };
        let Ok((ended, struck)) = tokio::time::timeout(ANSWER_WITHIN, both).await else {
            told.broken = Some(format!("no end within {ANSWER_WITHIN:?}"));
            return Ok((told, true));
        };
        match struck {
            Some((result, at)) => result.map(|()| (told, at < ended)),
            None => Ok((told, false)),
        }
    }

    /// All engines healthy, in their own eyes and the gateway's.
    async fn restore(&mut self, way: Way) -> Result<()> {
        for engine in &mut self.engines {
            if way == Way::FreezeForGood && engine.is_frozen() {
                engine.kill()?;
            }
            engine.restore(&self.client).await?;
        }
        let count = self.engines.len();
        let ready = wait_until(Duration::from_secs(60), || async {
            self.gateway
                .fleet()
                .await
                .is_ok_and(|fleet| fleet.ready() == count && fleet.is_idle())
        });
        ensure!(
            ready.await,
            "the workers are not ready again\n{}",
            self.gateway.child.log_tail()
        );
        Ok(())
    }

    /// Seconds that an engine goes on after a client left its stream.
    async fn leave(&self, dice: &mut fastrand::Rng) -> Result<Duration> {
        let client = http_client_without_pool()?;
        let route = Route::STREAMED[dice.usize(0..Route::STREAMED.len())];
        let mut body = route.body(PROMPTS[dice.usize(0..PROMPTS.len())], 1_500);
        if !route.is_tgi() {
            body["model"] = "model".into();
            body["ignore_eos"] = true.into();
        }
        let url = format!("{}{}", self.gateway.base_url, route.path());
        let mut pieces = client.post(url).json(&body).send().await?.bytes_stream();
        for _ in 0..dice.usize(1..20) {
            if pieces.next().await.is_none() {
                break;
            }
        }
        drop(pieces);
        let left = Instant::now();
        let freed = wait_until(Duration::from_secs(30), || async {
            for engine in &self.engines {
                if !engine
                    .processing(&self.client)
                    .await
                    .is_ok_and(|count| count == 0.0)
                {
                    return false;
                }
            }
            true
        });
        ensure!(freed.await, "an engine never stops");
        Ok(left.elapsed())
    }
}

/// Does it to the worker that was asked last.
fn strike(engines: &mut [Engine], way: Way) -> Result<()> {
    let serving = engines
        .iter_mut()
        .max_by_key(|engine| engine.relay.last_asked());
    let serving = serving.context("no engine")?;
    match way {
        Way::Kill => serving.kill(),
        Way::Reset => {
            serving.relay.reset();
            Ok(())
        }
        Way::Freeze | Way::FreezeForGood => serving.freeze(),
    }
}

pub async fn run(options: &RealOptions) -> Result<Findings> {
    let mut stage = Stage::set(3).await?;
    let mut dice = fastrand::Rng::with_seed(options.seed);
    let mut findings = Findings::new(options);
    let mut undisturbed: HashMap<(Route, &str, u32), Told> = HashMap::new();
    let began = Instant::now();
    for nth in 0..options.count {
        let mut case = case(nth, options, &mut dice);
        let key = (case.route, case.prompt, case.tokens);
        let whole = match undisturbed.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(stage.undisturbed(&case).await?),
        };
        case.after = dice.usize(1..whole.events.len().saturating_sub(2).max(2));
        let (told, struck) = stage.disturbed(&case).await?;
        let asked: Vec<Value> = asked_by(&stage.engines);
        stage.restore(case.way).await?;
        let difference = match told.compare(whole) {
            Match::Equal | Match::TextOnly(_) if told.counts() == whole.counts() => None,
            Match::Equal | Match::TextOnly(_) => {
                let (told, whole) = (told.counts(), whole.counts());
                Some(format!(
                    "the same text, but end and tokens {told:?} instead of {whole:?}"
                ))
            }
            Match::Differs(how) => {
                let why = explain(&stage.engines[0], &stage.client, &case, whole, &asked).await;
                let why = why.unwrap_or_else(|error| format!("not explained: {error:#}"));
                Some(format!("{how}; {why}"))
            }
        };
        findings.take(&case, &told, struck, difference);
    }
    for _ in 0..options.leavers {
        findings.leaver(stage.leave(&mut dice).await?);
    }
    stage
        .restore(Way::Kill)
        .await
        .context("nothing may be in flight in the end")?;
    findings.took = began.elapsed();
    Ok(findings)
}

/// Every route with every way in turn; the rest by chance.
fn case(nth: usize, options: &RealOptions, dice: &mut fastrand::Rng) -> Case {
    const ROUTES: [Route; 3] = [Route::GenerateStream, Route::Completions, Route::Chat];
    // Few different requests, so that their undisturbed texts need not be made again and again.
    let prompts = PROMPTS.len().min(options.count.div_ceil(9));
    Case {
        route: ROUTES[nth % ROUTES.len()],
        prompt: PROMPTS[dice.usize(0..prompts)],
        tokens: if dice.bool() {
            options.tokens
        } else {
            options.tokens / 2
        },
        way: Way::ALL[(nth / ROUTES.len()) % Way::ALL.len()],
        after: 0,
    }
}

/// What the gateway asked of all engines, in order.
fn asked_by(engines: &[Engine]) -> Vec<Value> {
    let mut asked: Vec<_> = engines
        .iter()
        .flat_map(|engine| engine.relay.bodies())
        .collect();
    asked.sort_by_key(|(at, _)| *at);
    asked.into_iter().map(|(_, body)| body).collect()
}
