//! Routers compared on a mixed fleet in virtual time: the production one, one that knows lengths, and yardsticks.

mod fleet;
pub(crate) mod live;
pub(crate) mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tidegate::simulate::chance::SplitMix;
use tidegate::simulate::serving::{Arrival, Production, Router, Scenario, run};

use crate::trace::{Trace, TraceRequest};
use crate::yardsticks::routing::{LeastConnections, PowerOfTwo, RoundRobin};
use report::{Figures, LiveReport, Report, Row};

/// The load as a share of what the fleet can do with requests of the trace's mean size.
const LOAD: f64 = 0.75;
const CUTS: [(&str, &str); 2] = [
    ("azure2023_conv", "azure2023_conv_cut.csv"),
    ("servegen_mlarge_1d", "servegen_mlarge_cut.csv"),
];

/// Compares routers on 1 fast, 2 middle and 6 slow modelled workers.
#[derive(Debug, clap::Args)]
pub struct RoutingCommand {
    /// Where whole traces are; without it the cuts in loadtest/scenarios are played.
    #[arg(long)]
    traces: Option<PathBuf>,
    /// Requests of each run; default 8000, and 1500 in real time.
    #[arg(long)]
    requests: Option<usize>,
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Clients whose requests these are, by chance.
    #[arg(long, default_value_t = 1)]
    clients: u32,
    /// In real time instead: our gateway and nine stand-in workers, beside the simulator.
    #[arg(long, conflicts_with_all = ["seeds", "reserve"])]
    live: bool,
    /// In real time everything takes so many times as long.
    #[arg(long, default_value_t = 4.0)]
    slower: f64,
    /// Play the part that settings were tuned on instead of the rest.
    #[arg(long)]
    tuning: bool,
    /// Engines keep room for so many output tokens when they admit a request; unset: for all, and never preempt.
    #[arg(long)]
    reserve: Option<u32>,
    /// The share of the fleet's capacity that the load takes.
    #[arg(long, default_value_t = LOAD)]
    load: f64,
    #[arg(long)]
    out: Option<PathBuf>,
}

const ROUTERS: [&str; 6] = [
    "ours",
    "knows lengths",
    "least connections",
    "power of two choices",
    "round robin",
    "ours, by cost",
];

impl RoutingCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        if self.live {
            return self.execute_live().await;
        }
        let mut report = Report::new(&self);
        for (name, cut) in CUTS {
            let trace = self.trace(name, cut)?;
            let part = self.part(&trace);
            for router in ROUTERS {
                let runs: Vec<Figures> = (1..=self.seeds)
                    .map(|seed| self.play(part, router, seed))
                    .collect::<Result<_>>()?;
                let row = Row::new(name, router, runs);
                eprintln!("{row}");
                report.rows.push(row);
            }
        }
        println!("{}", report.document());
        if let Some(path) = &self.out {
            report.write(path)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn execute_live(self) -> Result<ExitCode> {
        let mut report = LiveReport::new(self.slower, self.load, self.traces.is_some());
        for (name, cut) in CUTS {
            let trace = self.trace(name, cut)?;
            let arrivals = self.arrivals(self.part(&trace), 1)?;
            let compared = live::compare(name, &arrivals, 1, self.slower).await?;
            report.add(compared);
        }
        println!("{}", report.section());
        if let Some(path) = &self.out {
            report.write(path)?;
        }
        Ok(if report.failed() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    fn requests(&self) -> usize {
        let default = if self.live { 1_500 } else { 8_000 };
        self.requests.unwrap_or(default)
    }

    fn trace(&self, name: &str, cut: &str) -> Result<Trace> {
        match &self.traces {
            Some(folder) => Trace::read(&folder.join(format!("{name}.csv"))),
            None => Trace::read(
                &Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("scenarios")
                    .join(cut),
            ),
        }
    }

    /// The first sixth is for tuning, the rest for judging. Cuts are too short to part.
    fn part<'t>(&self, trace: &'t Trace) -> &'t [TraceRequest] {
        let (tuning, judging) = trace.requests.split_at(trace.requests.len() / 6);
        match (&self.traces, self.tuning) {
            (None, _) => &trace.requests,
            (Some(_), true) => tuning,
            (Some(_), false) => judging,
        }
    }

    fn play(&self, part: &[TraceRequest], router: &str, seed: u64) -> Result<Figures> {
        let arrivals = self.arrivals(part, seed)?;
        let scenario = Scenario {
            machines: fleet::machines(),
            settings: fleet::settings(),
            reserve_tokens: self.reserve.unwrap_or(u32::MAX),
            clients: self.clients,
            slowdowns: Vec::new(),
            seed,
        };
        let mut router = router_named(router, &scenario, seed)?;
        let served = run(&scenario, &arrivals, router.as_mut());
        Ok(Figures::of(&served, &arrivals))
    }

    fn arrivals(&self, part: &[TraceRequest], seed: u64) -> Result<Vec<Arrival>> {
        arrivals(part, self.requests(), self.load, seed)
    }
}

/// A piece of a trace that begins where the seed says, played at such a share of what the fleet can do.
pub(crate) fn arrivals(
    part: &[TraceRequest],
    requests: usize,
    load: f64,
    seed: u64,
) -> Result<Vec<Arrival>> {
    let count = requests.min(part.len());
    ensure!(count > 1, "the trace is too short");
    let room = part.len() - count;
    let begin = (SplitMix(seed).unit() * room as f64) as usize;
    let piece = &part[begin..begin + count];
    let mean = |pick: fn(&TraceRequest) -> u32| {
        piece
            .iter()
            .map(|request| f64::from(pick(request)))
            .sum::<f64>()
            / count as f64
    };
    let (prompt, output) = (mean(|r| r.input_tokens), mean(|r| r.output_tokens));
    let rate = load * fleet::capacity(prompt, output);
    let (first, last) = (piece[0].arrival_s, piece[count - 1].arrival_s);
    let speedup = rate * (last - first) / count as f64;
    ensure!(speedup > 0.0, "the trace stands still");
    Ok(piece
        .iter()
        .map(|request| Arrival {
            at_s: (request.arrival_s - first) / speedup,
            prompt_tokens: request.input_tokens.max(1),
            output_tokens: request.output_tokens.max(1),
        })
        .collect())
}
fn router_named(name: &str, scenario: &Scenario, seed: u64) -> Result<Box<dyn Router>> {
    let ours = Production::new(&scenario.settings);
    Ok(match name {
        "ours" => Box::new(ours),
        "knows lengths" => Box::new(Production {
            knows_lengths: true,
            ..ours
        }),
        "ours, by cost" => Box::new(Production::cheapest(&scenario.settings)),
        "least connections" => Box::new(LeastConnections),
        "power of two choices" => Box::new(PowerOfTwo {
            chance: SplitMix(seed),
        }),
        "round robin" => Box::new(RoundRobin::default()),
        other => None.with_context(|| format!("no router named {other}"))?,
    })
}
