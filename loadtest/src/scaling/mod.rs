//! `loadtest scaling`: what policies cost and how late they are in simulated worlds, beside what whoever knew the load
//! in advance would have paid.

mod loads;
mod markets;
mod pictures;
mod planners;
mod play;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use loads::Loads;
use planners::Planned;
use play::{Task, play_all};
use report::Report;

/// Compares scaling policies in virtual time.
#[derive(Debug, clap::Args)]
pub struct ScalingCommand {
    /// Where whole traces are; without it the fortnight in loadtest/scenarios is all there is.
    #[arg(long)]
    traces: Option<PathBuf>,
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Only these loads, by name
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only policies whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    policies: Vec<String>,
    /// Leave out the market of several kinds and the one with slow hosts
    #[arg(long)]
    plain: bool,
    /// Seeds of the runs that go request by request
    #[arg(long, default_value_t = 1)]
    request_seeds: u64,
    /// Runs at once
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    #[arg(long)]
    out: Option<PathBuf>,
}

impl ScalingCommand {
    pub fn execute(self) -> Result<ExitCode> {
        ensure!(self.seeds > 0, "--seeds must be at least 1");
        let loads = Loads::read(self.traces.as_deref(), &self.only)?;
        ensure!(!loads.is_empty(), "no load has one of the names given");
        let mut tasks = Vec::new();
        for load in loads.iter() {
            for planned in planners::all(load) {
                if self.wants(&planned) {
                    let seeds = 1..=self.seeds;
                    tasks.extend(seeds.map(|seed| Task::plain(load, planned.clone(), seed)));
                }
            }
            let mut by_requests = planners::by_requests(load);
            by_requests.retain(|planned| load.has_requests() && self.wants(planned));
            for planned in by_requests {
                let seeds = 1..=self.request_seeds;
                tasks.extend(seeds.map(|seed| Task::by_requests(load, planned.clone(), seed)));
            }
            if !self.plain && load.is_of_aims() {
                let tasks_of = |seed| markets::tasks(load, seed);
                let more = (1..=self.seeds).flat_map(tasks_of);
                tasks.extend(more.filter(|task| self.wants(&task.planned)));
            }
        }
        let results = play_all(tasks, self.at_once);
        let report = Report::new(&self, &results);
        print!("{report}");
        if let Some(out) = &self.out {
            report.write(out)?;
            pictures::draw(&results, out)?;
            println!("written to {}", out.display());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn wants(&self, planned: &Planned) -> bool {
        let fits = |part: &String| planned.name.contains(part.as_str());
        self.policies.is_empty() || self.policies.iter().any(fits)
    }
}
