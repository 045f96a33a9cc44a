//! What the gateway believes of its workers' capacity beside what they are: the real gateway before stand-in workers of
//! known laws, at low and at high demand, and how soon it notices that one of them, or all, have slowed.

mod beliefs;
mod machines;
mod report;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use beliefs::Belief;
use machines::MACHINES;
use report::{Found, Report, Slowed};
use stage::{Measurement, Stage};

/// Demand as shares of capacity: little, much, and more than can be done.
const SHARES: [(&str, f64); 3] = [("low", 0.15), ("high", 0.8), ("over", 1.3)];
/// Workers of a group in which one slows, and of one in which all do.
const GROUP: usize = 4;
const GROUP_SHARE: f64 = 0.5;
/// Seconds before something slows, in real time: then the past is known.
const KNOWN_AFTER_S: f64 = 240.0;
/// Seconds that are watched afterwards.
const WATCHED_S: f64 = 210.0;
/// A slowdown by 30 %.
const SLOWER: f64 = 1.0 / 0.7;
/// The same for a whole group: longer answers of another engine's settings would do that.
const ALL_SLOWER: f64 = 1.6;

/// Compares capacities as the gateway estimates them with those of its stand-in workers; takes eight minutes.
#[derive(Debug, clap::Args)]
pub struct CapacityCommand {
    /// Everything takes so many times as long as on the machines, so that this one keeps up.
    #[arg(long, default_value_t = 4.0)]
    slower: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long)]
    out: Option<PathBuf>,
}

impl CapacityCommand {
    pub async fn execute(self) -> Result<ExitCode> {
        let slower = self.slower;
        ensure!(
            slower.is_finite() && slower > 0.0,
            "--slower must be above 0"
        );
        let alone = MACHINES.iter().flat_map(|machine| {
            SHARES.map(|(purpose, share)| Measurement {
                machine: *machine,
                workers: 1,
                share,
                purpose,
            })
        });
        let mut measurements: Vec<Measurement> = alone.collect();
        let group = |purpose| Measurement {
            machine: MACHINES[0],
            workers: GROUP,
            share: GROUP_SHARE,
            purpose,
        };
        measurements.extend([group("one-slows"), group("all-slow")]);
        let mut stage = Stage::start(&measurements, slower, self.seed).await?;
        for (n, measurement) in measurements.iter().enumerate() {
            let seed = self.seed.wrapping_mul(1_000) + n as u64;
            stage.load(measurement, KNOWN_AFTER_S + WATCHED_S, slower, seed);
        }
        let report = self.watch(&stage, &measurements).await?;
        println!("{}", report.document());
        if let Some(path) = &self.out {
            report.write(path)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn watch(&self, stage: &Stage, measurements: &[Measurement]) -> Result<Report> {
        let begin = Instant::now();
        let slowing = begin + Duration::from_secs_f64(KNOWN_AFTER_S);
        tokio::time::sleep_until(slowing).await;
        let mut report = Report::new(self.slower, self.seed);
        let alone = &measurements[..measurements.len() - 2];
        for measurement in alone {
            let seen = self.beliefs(stage, &measurement.endpoint()).await?;
            let belief = seen.into_iter().next().context("no worker")?;
            let truth = measurement.truth(self.seed);
            report.found.push(Found::new(
                measurement,
                truth,
                &belief.capacity,
                self.slower,
            ));
        }
        let groups = &measurements[alone.len()..];
        let members = &stage.workers[alone.len()..];
        stage.slow_down(&members[0][0], SLOWER).await?;
        for worker in &members[1] {
            stage.slow_down(worker, ALL_SLOWER).await?;
        }
        let one = format!("127.0.0.1:{}", members[0][0].port);
        report.slowed = vec![
            Slowed::new("one of four", SLOWER, groups[0].truth(self.seed)),
            Slowed::new("all of four", ALL_SLOWER, groups[1].truth(self.seed)),
        ];
        let end = slowing + Duration::from_secs_f64(WATCHED_S);
        while Instant::now() < end {
            let after_s = slowing.elapsed().as_secs_f64();
            for (slowed, measurement) in report.slowed.iter_mut().zip(groups) {
                let seen = self.beliefs(stage, &measurement.endpoint()).await?;
                let is_one = |belief: &Belief| belief.address.as_deref() == Some(&one);
                let watched = seen.iter().find(|belief| is_one(belief)).or(seen.first());
                slowed.see(watched.context("no worker")?, &seen, after_s, self.slower);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(report)
    }

    async fn beliefs(&self, stage: &Stage, endpoint: &str) -> Result<Vec<Belief>> {
        beliefs::of(&stage.client, &stage.gateway.admin_url, endpoint).await
    }
}
