//! Clients that leave at random moments: before the header, while they are held, in the middle of a stream. Within a second of
//! each leaving no engine may still work for it, and in the end the gateway believes nothing to be in flight.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use futures_util::StreamExt;
use reqwest::Client;
use serde_json::json;

use super::ask::Route;
use super::report::{Section, Times};
use super::stage::{fixed_endpoint, gateway_over};
use crate::fakes::worker::{self, Settings, SpeedLaw, Worker};
use crate::harness::{Gateway, http_client_without_pool, wait_until};

/// An engine may work for a client that left no longer than this.
const FREED_WITHIN: Duration = Duration::from_secs(1);

/// How long after a leaving the engines are watched: a request that was on its way could still arrive.
const WATCHED_FOR: Duration = Duration::from_millis(1_300);

/// Tokens nobody waits for to the end.
const TOKENS: u32 = 50_000;

/// Clients that leave at random moments
#[derive(Args, Clone, Debug)]
pub struct LeaversOptions {
    #[arg(long, default_value_t = 2_000)]
    pub count: usize,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Clients at once; half of them find a place with a worker
    #[arg(long, default_value_t = 64)]
    pub at_once: usize,
}

impl Default for LeaversOptions {
    fn default() -> Self {
        Self {
            count: 2_000,
            seed: 1,
            at_once: 64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// So long after the request was sent, whatever has come by then.
    After(Duration),
    /// After so many events.
    Events(usize),
}

struct Leaver {
    user: String,
    route: Route,
    moment: Moment,
}

/// Where a client was when it left, and how long an engine went on for it.
struct Left {
    user: String,
    with_events: bool,
    freed_after: Duration,
}

#[derive(Default)]
pub struct Findings {
    options: LeaversOptions,
    held: Times,
    streaming: Times,
    late: Vec<String>,
    /// What was believed to be left when everybody had gone.
    remains: Option<String>,
}

struct Stage {
    gateway: Gateway,
    workers: Vec<Worker>,
    client: Client,
}

impl Stage {
    async fn set(options: &LeaversOptions) -> Result<Arc<Self>> {
        let law = SpeedLaw {
            a_ms: 10.0,
            ..SpeedLaw::TINY
        };
        let mut workers = Vec::new();
        for _ in 0..2 {
            let settings = Settings {
                law,
                ..Settings::default()
            };
            workers.push(worker::start("127.0.0.1:0", settings).await?);
        }
        let urls: Vec<String> = workers.iter().map(Worker::url).collect();
        let places = options.at_once.div_ceil(4).max(1);
        let endpoint = fixed_endpoint(
            &urls,
            &format!(
                "worker_groups: [{{name: given, engine: fake, max_concurrency: {places}}}]\n\
                 max_queue_time: 86400\n"
            ),
        );
        let gateway = gateway_over(&endpoint, "", urls.len()).await?;
        Ok(Arc::new(Self {
            gateway,
            workers,
            client: http_client_without_pool()?,
        }))
    }

    async fn leave(&self, leaver: Leaver) -> Left {
        let mut body = leaver.route.body("a river", TOKENS);
        if leaver.route.is_tgi() {
            body["parameters"]["user"] = json!(leaver.user);
        } else {
            body["user"] = json!(leaver.user);
        }
        let url = format!("{}{}", self.gateway.base_url, leaver.route.path());
        let sent = self.client.post(url).json(&body).send();
        let mut events = 0;
        let listening = async {
            let Ok(answer) = sent.await else { return };
            let mut pieces = answer.bytes_stream();
            while let Some(Ok(_)) = pieces.next().await {
                events += 1;
                if leaver.moment == Moment::Events(events) {
                    return;
                }
            }
        };
        let patience = match leaver.moment {
            Moment::After(time) => time,
            // Who is held for long leaves unheard.
            Moment::Events(_) => Duration::from_secs(5),
        };
        // Either way the connection closes here.
        let _ = tokio::time::timeout(patience, listening).await;
        Left {
            with_events: events > 0,
            freed_after: self.watch(&leaver.user).await,
            user: leaver.user,
        }
    }

    /// When an engine was last seen at work for this user, from now on.
    async fn watch(&self, user: &str) -> Duration {
        let left = Instant::now();
        let mut last_seen = Duration::ZERO;
        while left.elapsed() < WATCHED_FOR {
            if self.workers.iter().any(|worker| worker.serves(user)) {
                last_seen = left.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        last_seen
    }

    /// What is still believed to be in flight, if anything is after a while.
    async fn remains(&self) -> Result<Option<String>> {
        let nothing = wait_until(Duration::from_secs(5), || async {
            let idle = self.workers.iter().all(|worker| {
                let figures = worker.figures();
                figures.running + figures.waiting == 0
            });
            idle && self
                .gateway
                .fleet()
                .await
                .is_ok_and(|fleet| fleet.is_idle())
        });
        if nothing.await {
            return Ok(None);
        }
        let figures: Vec<_> = self.workers.iter().map(Worker::figures).collect();
        Ok(Some(format!(
            "{:?}; {figures:?}",
            self.gateway.fleet().await?
        )))
    }
}

pub async fn run(options: &LeaversOptions) -> Result<Findings> {
    let stage = Stage::set(options).await?;
    let mut dice = fastrand::Rng::with_seed(options.seed);
    let leavers: Vec<Leaver> = (0..options.count)
        .map(|nth| leaver(nth, &mut dice))
        .collect();
    let mut left = futures_util::stream::iter(leavers)
        .map(|leaver| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move { stage.leave(leaver).await })
        })
        .buffer_unordered(options.at_once.max(1));
    let mut findings = Findings {
        options: options.clone(),
        ..Findings::default()
    };
    while let Some(left) = left.next().await {
        findings.take(left.context("a client of the test panicked")?);
    }
    findings.remains = stage.remains().await?;
    Ok(findings)
}

fn leaver(nth: usize, dice: &mut fastrand::Rng) -> Leaver {
    let moment = match dice.u32(0..3) {
        0 => Moment::After(Duration::from_micros(dice.u64(0..30_000))),
        1 => Moment::After(Duration::from_millis(dice.u64(0..1_000))),
        _ => Moment::Events(dice.usize(1..60)),
    };
    Leaver {
        user: format!("leaver-{nth}"),
        route: Route::ALL[dice.usize(0..Route::ALL.len())],
        moment,
    }
}

impl Findings {
    fn take(&mut self, left: Left) {
        if left.with_events {
            self.streaming.add(left.freed_after);
        } else {
            self.held.add(left.freed_after);
        }
        if left.freed_after > FREED_WITHIN {
            let (user, ms) = (left.user, left.freed_after.as_millis());
            self.late.push(format!(
                "an engine worked for {user} {ms} ms after it had left"
            ));
        }
    }

    pub fn section(&self) -> Section {
        let mut text = format!(
            "{} clients leave, {} at once, half of whom find a place; the two engines themselves tell for whom they work.\n\n\
             | left | clients | an engine still at work for it, ms, p50 / p99 / max |\n|---|---|---|\n",
            self.options.count, self.options.at_once,
        );
        for (when, times) in [
            ("before the first event", &self.held),
            ("in the middle of the stream", &self.streaming),
        ] {
            let _ = writeln!(text, "| {when} | {} | {times} |", times.count());
        }
        let remains = self.remains.as_deref();
        let _ = writeln!(
            text,
            "\nLeft over when all had gone (in flight, outstanding cost, waiting): {}",
            remains.unwrap_or("exactly nothing")
        );
        let mut complaints = self.late.clone();
        complaints.extend(remains.map(|remains| format!("left over: {remains}")));
        Section {
            title: "Clients that leave".to_owned(),
            command: format!(
                "loadtest soak leavers --count {} --seed {} --at-once {}",
                self.options.count, self.options.seed, self.options.at_once
            ),
            text,
            complaints,
        }
    }
}
