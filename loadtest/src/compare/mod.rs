//! `loadtest compare`: the gateway beside plain proxies and other routers, all before the same stand-in engines, in one run.
//! The proxy at work has one CPU, clients and engines the other; rounds go through everybody, and only ratios within a
//! round are compared.

mod case;
mod clients;
mod cost;
mod death;
mod delay;
mod delays;
mod figures;
pub(crate) mod machine;
mod memory;
pub(crate) mod peers;
pub(crate) mod processes;
mod report;
mod result;
pub mod routing;
mod stamp;
mod subject;
mod wire;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use self::case::Case;
use self::cost::Failed;
use self::machine::{Machine, Pinning};
use self::peers::Recipe;
use self::result::{Findings, Missing};
use self::subject::Subject;
use self::workers::Workers;

/// A router that compares loads needs two to choose from.
const WORKERS: usize = 2;

/// CPU, delay and memory beside other proxies and routers
#[derive(Clone, Debug, Args)]
pub struct CompareCommand {
    /// Peers by name, separated by commas; default all
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// At least 5 for a result worth writing down
    #[arg(long)]
    rounds: Option<usize>,
    /// Measured seconds of each case, proxy and round
    #[arg(long)]
    seconds: Option<f64>,
    /// A short look: fewer cases, two short rounds
    #[arg(long)]
    quick: bool,
    /// What is measured, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
    /// Folder of compare.md, compare.json and pictures
    #[arg(long, default_value = "docs/results")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU time and delay, in rounds
    Cpu,
    Memory,
    Death,
}

impl Part {
    const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Death];
}

/// Those that are installed.
fn had<'r>(recipes: &'r [&'static Recipe]) -> impl Iterator<Item = &'static Recipe> + 'r {
    recipes
        .iter()
        .copied()
        .filter(|recipe| (recipe.program)().is_ok())
}

impl CompareCommand {
    /// On a thread of its own: clients, workers and what watches them are to share one CPU without changing threads.
    pub fn execute(self) -> Result<ExitCode> {
        if cfg!(debug_assertions) {
            eprintln!(
                "loadtest: a debug build of the measuring side; run `make compare` for figures"
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let measuring = std::thread::spawn(move || runtime.block_on(self.measure()));
        let findings = measuring.join().ok().context("the measuring panicked")??;
        print!("{}", report::document(&findings));
        Ok(ExitCode::SUCCESS)
    }

    async fn measure(self) -> Result<Findings> {
        let (rounds, seconds) = (self.rounds(), self.seconds());
        ensure!(rounds > 0 && seconds > 0.0, "nothing to measure");
        let recipes = peers::chosen(&self.peers)?;
        let pinning = Pinning::of_this_machine();
        pinning.pin_this_process()?;
        let (begin, machine) = (Instant::now(), Machine::of_this_run(pinning));
        let workers = Workers::start(WORKERS).await?;
        let (subjects, missing) = subject::start_all(&recipes, &workers.ports, pinning).await?;
        let not_had = peers::NOT_HAD
            .iter()
            .map(|(name, why)| Missing::new(name, why));
        let mut findings = Findings {
            command: self.command(),
            seed: 1,
            rounds,
            window_s: seconds,
            took_s: 0.0,
            machine,
            peers: subjects
                .iter()
                .filter_map(Subject::setup)
                .cloned()
                .collect(),
            missing: missing.into_iter().chain(not_had).collect(),
            costs: Vec::new(),
            delays: Vec::new(),
            memory: Vec::new(),
            deaths: Vec::new(),
            failed: Vec::new(),
        };
        let window = Duration::from_secs_f64(seconds);
        let mut failed = Failed::default();
        if self.parts.contains(&Part::Cpu) {
            self.in_rounds(&mut findings, &subjects, &workers, window, &mut failed)
                .await;
        }
        drop(subjects);
        if self.parts.contains(&Part::Memory) {
            let steps = if self.quick {
                memory::QUICK
            } else {
                memory::WHOLE
            };
            for recipe in had(&recipes) {
                for pace in steps.paces {
                    match memory::measure(recipe, *pace, steps, &workers, pinning).await {
                        Ok(found) => findings.memory.extend(found),
                        Err(error) => failed.note(recipe.name, "memory", &error),
                    }
                }
            }
        }
        if self.parts.contains(&Part::Death) {
            for recipe in had(&recipes) {
                match death::measure(recipe, pinning).await {
                    Ok(death) => {
                        eprintln!("{death}");
                        findings.deaths.push(death);
                    }
                    Err(error) => failed.note(recipe.name, "death", &error),
                }
            }
        }
        findings.failed = failed.into_list();
        findings.machine.ended();
        findings.took_s = begin.elapsed().as_secs_f64();
        report::write(&findings, &self.out)?;
        Ok(findings)
    }

    async fn in_rounds(
        &self,
        findings: &mut Findings,
        subjects: &[Subject],
        workers: &Workers,
        window: Duration,
        failed: &mut Failed,
    ) {
        for round in 0..findings.rounds {
            let costs = cost::round(round, self.cases(), subjects, workers, window, failed).await;
            findings.costs.extend(costs);
            let costs = &findings.costs;
            let ours = subjects
                .iter()
                .map(|subject| subject.name)
                .nth(1)
                .unwrap_or(subject::FLOOR);
            let delays = delay::round(round, subjects, workers, window, costs, ours, failed).await;
            findings.delays.extend(delays);
        }
    }

    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 0.5 } else { 2.5 })
    }

    fn cases(&self) -> &'static [Case] {
        if self.quick { &case::QUICK } else { &case::ALL }
    }

    fn command(&self) -> String {
        let mut command = "make compare".to_owned();
        if self.quick {
            command += " QUICK=1";
        }
        if !self.peers.is_empty() {
            command += &format!(" PEERS={}", self.peers.join(","));
        }
        command
    }
}
