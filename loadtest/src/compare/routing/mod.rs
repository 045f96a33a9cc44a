//! `loadtest compare-routing`: real routers and the gateway before nine unequal stand-in workers, on the same requests. Who
//! sends what where is all that differs: everything is slowed down so far that no proxy's own speed shows.

mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream;
use tidegate::simulate::serving::Arrival;

use super::machine::{Machine, Pinning};
use super::peers::{self, Kind, Recipe, Running};
use super::processes::Busy;
use super::result::{Missing, in_short};
use crate::routing::arrivals;
use crate::routing::live::{Workers, play};
use crate::trace::{Trace, TraceCut, TraceRequest};
use report::{Report, Run, Seen};

const TRACES: [&str; 2] = ["azure2023_conv", "mooncake_conversation"];
/// The smallest machine's cache holds 31,000 tokens, and no engine takes more than it can hold.
const PROMPT_TOKENS_MAX: u32 = 14_000;
const SECONDS: f64 = 40.0;
/// After the last arrival, in the machines' own time; what is not answered by then has failed.
const FINISH_WITHIN_S: f64 = 60.0;
const SLOWER: f64 = 1.0;
/// Of each trace's own time.
const CUT_S: f64 = 300.0;

/// First tokens, gaps and goodput of real routers on an unequal fleet
#[derive(Clone, Debug, Args)]
pub struct RoutingCompareCommand {
    /// Folder of whole traces; without it the cuts in loadtest/scenarios are played
    #[arg(long)]
    traces: Option<PathBuf>,
    /// Peers by name, separated by commas; default all routers
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Shares of the fleet's capacity, in percent
    #[arg(long, value_delimiter = ',', default_values_t = [50, 75, 90])]
    loads: Vec<u32>,
    /// Longest time over which requests of one run arrive, in the machines' own time
    #[arg(long, default_value_t = SECONDS)]
    seconds: f64,
    /// Everything takes so many times as long
    #[arg(long, default_value_t = SLOWER)]
    slower: f64,
    /// Runs that share this machine
    #[arg(long, default_value_t = 3)]
    at_once: usize,
    #[arg(long, default_value = "docs/results/compare-routing.md")]
    out: PathBuf,
}

/// Who chooses, and by what.
#[derive(Clone, Copy)]
struct Entrant {
    recipe: &'static Recipe,
    policy: &'static str,
}

/// The gateway as an operator sets it up who knows his machines.
const TOLD: &str = "told its machines";

impl Entrant {
    fn name(self) -> String {
        format!("{}, {}", self.recipe.name, self.policy)
    }

    /// A slow proxy gets a slower world, so that it too is judged by where it sends requests.
    fn slower(self, slower: f64) -> f64 {
        slower * if self.recipe.slower > 1 { 4.0 } else { 1.0 }
    }
}

impl RoutingCompareCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        ensure!(
            self.slower > 0.0 && self.seconds > 0.0,
            "times must be above 0"
        );
        let (entrants, missing) = self.entrants()?;
        let mut report = Report::new(
            Machine::of_this_run(Pinning::none()),
            self.command(),
            missing,
        );
        let busy = Busy::now();
        for trace in TRACES {
            let requests = self.requests(trace)?;
            for &load in &self.loads {
                let all = arrivals(&requests, requests.len(), f64::from(load) / 100.0, 0)?;
                let in_time = all
                    .into_iter()
                    .take_while(|arrival| arrival.at_s <= self.seconds);
                let arrivals: Arc<[Arrival]> = in_time.collect();
                let runs = stream::iter(entrants.clone()).map(|entrant| {
                    let arrivals = Arc::clone(&arrivals);
                    async move {
                        let slower = entrant.slower(self.slower);
                        let seen = run(entrant, &arrivals, slower).await;
                        Run {
                            trace,
                            load,
                            router: entrant.name(),
                            requests: arrivals.len(),
                            slower,
                            seen: seen.map_err(|error| in_short(&format!("{error:#}"))),
                        }
                    }
                });
                let mut runs = runs.buffered(self.at_once.max(1));
                while let Some(run) = runs.next().await {
                    eprintln!("{run}");
                    report.runs.push(run);
                }
            }
        }
        report.ended(busy.since());
        let text = report.document();
        println!("{text}");
        crate::harness::write_document(&self.out, &text)?;
        Ok(ExitCode::SUCCESS)
    }

    fn entrants(&self) -> Result<(Vec<Entrant>, Vec<Missing>)> {
        let (mut entrants, mut missing) = (Vec::new(), Vec::new());
        for recipe in peers::chosen(&self.peers)? {
            if recipe.kind == Kind::Proxy && self.peers.is_empty() {
                continue;
            }
            if let Err(error) = (recipe.program)() {
                missing.push(Missing::new(recipe.name, &format!("{error:#}")));
                continue;
            }
            let told = (recipe.kind == Kind::Ours).then_some(&TOLD);
            let policies = told.into_iter().chain(recipe.policies);
            entrants.extend(policies.map(|&policy| Entrant { recipe, policy }));
        }
        missing.extend(
            peers::NOT_HAD
                .iter()
                .map(|(name, why)| Missing::new(name, why)),
        );
        Ok((entrants, missing))
    }

    /// Of a whole trace a part that no setting was tuned on; prompts longer than a machine can take are cut.
    fn requests(&self, name: &str) -> Result<Vec<TraceRequest>> {
        let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let trace = match &self.traces {
            Some(folder) => Trace::read(&folder.join(format!("{name}.csv"))),
            None => Trace::read(&scenarios.join(format!("{name}_cut.csv"))),
        }?;
        let skip_s = if self.traces.is_some() {
            trace.length_s() / 6.0
        } else {
            0.0
        };
        let cut = trace.cut(&TraceCut {
            skip_s,
            duration_s: Some(CUT_S),
            input_tokens_max: Some(PROMPT_TOKENS_MAX),
            ..TraceCut::default()
        });
        Ok(cut.requests)
    }

    /// As somebody would have to say it to have the same.
    fn command(&self) -> String {
        let traces = self.traces.is_some();
        let loads: Vec<String> = self.loads.iter().map(u32::to_string).collect();
        let loads = loads.join(",");
        if (self.seconds, self.slower, loads.as_str()) == (SECONDS, SLOWER, "50,75,90") {
            return format!(
                "make compare-routing{}",
                if traces { " TRACES=DIR" } else { "" }
            );
        }
        format!(
            "target/release/loadtest compare-routing{} --seconds {} --slower {} --loads {loads} --at-once {}",
            if traces { " --traces DIR" } else { "" },
            self.seconds,
            self.slower,
            self.at_once,
        )
    }
}

async fn run(entrant: Entrant, arrivals: &[Arrival], slower: f64) -> Result<Seen> {
    let workers = Workers::start(slower).await?;
    if entrant.policy == TOLD {
        let gateway = workers.gateway().await?;
        let (outcomes, lag) = play(&gateway.base_url, arrivals, slower, FINISH_WITHIN_S).await?;
        return Ok(Seen::of(&outcomes, lag, slower));
    }
    let ports = workers.ports();
    let running = Running::start(entrant.recipe, entrant.policy, &ports, Pinning::none())
        .await
        .with_context(|| entrant.name())?;
    let (outcomes, lag) = play(&running.url(""), arrivals, slower, FINISH_WITHIN_S).await?;
    Ok(Seen::of(&outcomes, lag, slower))
}
