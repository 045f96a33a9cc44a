//! Plays a request trace against a running server in real time and reports what its clients saw.
//! Open loop: requests leave when the trace says so, whether or not earlier ones were answered.

pub mod api;
pub(crate) mod client;
pub mod command;
pub mod outcome;
pub mod report;
pub mod schedule;
pub(crate) mod sse;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::client::Target;
use self::outcome::{Failure, Outcome, Tally};
use self::schedule::Arrival;

pub use self::api::Api;
pub use self::report::{Figures, PhaseReport, ReplayReport};
pub use self::schedule::Phase;
use crate::harness::http_client;
use crate::trace::Trace;

#[derive(Clone, Debug)]
pub struct ReplayOptions {
    pub trace: Trace,
    /// Played one after the other over the one trace.
    pub phases: Vec<Phase>,
    /// Base URL of the server, without a path.
    pub target: String,
    pub api: Api,
    /// Put before the path: `/NAME/generate_stream`.
    pub endpoint: Option<String>,
    /// The body's `model`.
    pub model: Option<String>,
    pub api_key: Option<String>,
    pub late_after: Duration,
    pub request_timeout: Duration,
    /// From the end of the last phase; what is open then has failed.
    pub finish_within: Duration,
    /// Requests open at once; one beyond fails at once instead of slowing the sending.
    pub open_max: usize,
}

impl ReplayOptions {
    /// The whole trace at its own speed as TGI streams, every bound at its default.
    pub fn new(trace: Trace, target: impl Into<String>) -> Self {
        Self {
            phases: vec![Phase::whole(&trace, 1.0)],
            trace,
            target: target.into(),
            api: Api::GenerateStream,
            endpoint: None,
            model: None,
            api_key: None,
            late_after: Duration::from_secs(10),
            request_timeout: Duration::from_secs(300),
            finish_within: Duration::from_secs(310),
            open_max: 20_000,
        }
    }

    fn url(&self) -> String {
        let base = self.target.trim_end_matches('/');
        let prefix = self.endpoint.as_ref().map(|name| format!("/{name}"));
        format!("{base}{}{}", prefix.unwrap_or_default(), self.api.path())
    }
}

/// Returns once every phase is over and every request has an outcome. Errors are mistakes in the options only.
pub async fn run(options: ReplayOptions) -> Result<ReplayReport> {
    let arrivals = schedule::schedule(&options.trace, &options.phases)?;
    ensure!(!arrivals.is_empty(), "the phases hold no request");
    let target = Target {
        client: http_client()?,
        url: options.url(),
        api: options.api,
        model: options.model.clone(),
        api_key: options.api_key.clone(),
        timeout: options.request_timeout,
    };
    let phases_s: f64 = options.phases.iter().map(|phase| phase.duration_s).sum();
    let start = Instant::now();
    let phases_end = start + Duration::from_secs_f64(phases_s);

    let mut replay = Replay::new(&options, start);
    for (index, arrival) in arrivals.iter().enumerate() {
        replay.collect_until(start + arrival.at).await;
        replay.launch(&target, arrival, index as u64);
    }
    replay.collect_until(phases_end).await;
    replay.finish(phases_end + options.finish_within).await;
    Ok(ReplayReport::new(
        &replay.tallies,
        &replay.all,
        &options.phases,
        options.late_after.as_secs_f64(),
        start.elapsed().as_secs_f64(),
    ))
}

/// The open requests and the sums over the ended ones.
struct Replay {
    start: Instant,
    late_after: Duration,
    open_max: usize,
    open: JoinSet<(usize, Outcome)>,
    open_by_phase: Vec<u64>,
    tallies: Vec<Tally>,
    all: Tally,
}

impl Replay {
    fn new(options: &ReplayOptions, start: Instant) -> Self {
        Self {
            start,
            late_after: options.late_after,
            open_max: options.open_max,
            open: JoinSet::new(),
            open_by_phase: vec![0; options.phases.len()],
            tallies: vec![Tally::default(); options.phases.len()],
            all: Tally::default(),
        }
    }

    fn launch(&mut self, target: &Target, arrival: &Arrival, seed: u64) {
        self.open_by_phase[arrival.phase] += 1;
        if self.open.len() >= self.open_max {
            let detail = format!("{} requests are open already", self.open_max);
            self.note_failed(arrival.phase, Failure::new("client limit", detail));
            return;
        }
        let due = self.start + arrival.at;
        let (target, phase, request) = (target.clone(), arrival.phase, arrival.request);
        self.open.spawn(async move {
            let outcome = client::send(&target, request, seed, due).await;
            (phase, outcome)
        });
    }

    /// Takes in ended requests until `moment`, which is never missed for them.
    async fn collect_until(&mut self, moment: Instant) {
        let wake = sleep_until(moment);
        tokio::pin!(wake);
        loop {
            tokio::select! {
                biased;
                () = &mut wake => return,
                Some(ended) = self.open.join_next() => self.note(ended.ok()),
            }
        }
    }

    /// Waits for the open requests; what is still open at `deadline` has failed.
    async fn finish(&mut self, deadline: Instant) {
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.open.join_next()).await {
            self.note(ended.ok());
        }
        self.open.shutdown().await;
        for phase in 0..self.open_by_phase.len() {
            while self.open_by_phase[phase] > 0 {
                let failure = Failure::new("overall timeout", "still open at the end");
                self.note_failed(phase, failure);
            }
        }
    }

    fn note(&mut self, ended: Option<(usize, Outcome)>) {
        // A task that panicked stays counted as open and fails at the end.
        let Some((phase, outcome)) = ended else {
            return;
        };
        self.open_by_phase[phase] -= 1;
        self.tallies[phase].add(&outcome, self.late_after);
        self.all.add(&outcome, self.late_after);
    }

    fn note_failed(&mut self, phase: usize, failure: Failure) {
        let outcome = Outcome {
            failure: Some(failure),
            ..Outcome::default()
        };
        self.note(Some((phase, outcome)));
    }
}
