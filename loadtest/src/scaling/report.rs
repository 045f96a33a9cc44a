//! The document of the comparison.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Result;
use tidegate::simulate::report::SLOT_S;

use super::planners::Kind;
use super::play::Played;
use super::{ScalingCommand, pictures};
use crate::harness::write_document;

pub struct Report {
    traces: bool,
    seeds: u64,
    /// In order of first play.
    rows: Vec<Row>,
    bounds: Vec<String>,
}

/// All seeds of one policy on one load in one world.
struct Row {
    world: String,
    load: String,
    what: String,
    policy: String,
    kind: Kind,
    played: Vec<Figures>,
}

#[derive(Clone, Copy)]
struct Figures {
    fractional: f64,
    ratio: f64,
    late: f64,
    wait_p99_s: f64,
    wait_max_s: f64,
    utilisation: f64,
    idle: f64,
    starts: f64,
    storage: f64,
    cold: f64,
    restarts: f64,
    flaps: f64,
    ready: f64,
    stopped: f64,
    plan_us: f64,
}

impl Figures {
    fn of(played: &Played) -> Self {
        let totals = &played.run.totals;
        let bill = &totals.bill;
        let share = |usd: f64| usd / bill.total();
        Self {
            fractional: bill.total() / played.bounds.fractional_usd,
            ratio: played.ratio(),
            late: totals.late_share,
            wait_p99_s: totals.wait_p99_s,
            wait_max_s: totals.wait_max_s,
            utilisation: totals.utilisation,
            idle: share(bill.idle),
            starts: share(bill.cold + bill.restart),
            storage: share(bill.storage),
            cold: totals.starts.cold as f64,
            restarts: totals.starts.restart as f64,
            flaps: totals.flaps as f64,
            ready: totals.ready_mean,
            stopped: totals.stopped_mean,
            plan_us: played.took_s * 1e6 / totals.plans.max(1) as f64,
        }
    }
}

impl Report {
    pub fn new(command: &ScalingCommand, played: &[Played]) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        let mut places: BTreeMap<(String, String, String), usize> = BTreeMap::new();
        let mut bounds: Vec<String> = Vec::new();
        for played in played {
            let key = (
                played.world.clone(),
                played.load.name.clone(),
                played.planned.name.clone(),
            );
            let place = *places.entry(key).or_insert_with(|| {
                rows.push(Row {
                    world: played.world.clone(),
                    load: played.load.name.clone(),
                    what: played.load.what.clone(),
                    policy: played.planned.name.clone(),
                    kind: played.planned.kind,
                    played: Vec::new(),
                });
                rows.len() - 1
            });
            rows[place].played.push(Figures::of(played));
            if played.seed == 1 {
                let line = bound_of(played);
                if !bounds.contains(&line) {
                    bounds.push(line);
                }
            }
        }
        Self {
            traces: command.traces.is_some(),
            seeds: command.seeds,
            rows,
            bounds,
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        write_document(path, &self.to_string())
    }
}

fn bound_of(played: &Played) -> String {
    let bounds = &played.bounds;
    let (prices, level, fixed) = (&bounds.prices, &bounds.level, &bounds.fixed);
    format!(
        "| {} | {} | {:.1} | {:.4} / {:.4} / {:.4} / {:.4} | {:.2} | {:.2} | {:.2} ({} / {} / {}) | {} machines, {:.2}, {:.2}% |",
        played.world,
        played.load.name,
        prices.speed,
        prices.running_usd_per_hour,
        prices.stopped_usd_per_hour,
        prices.cold_usd,
        prices.restart_usd,
        played.run.totals.work / played.run.totals.seconds.max(1.0) / prices.speed,
        played.bounds.fractional_usd,
        level.usd,
        level.run_through,
        level.stopped,
        level.destroyed,
        fixed.machines,
        fixed.usd / level.usd,
        100.0 * fixed.late_share,
    )
}

impl Row {
    fn mean(&self, of: fn(&Figures) -> f64) -> f64 {
        self.played.iter().map(of).sum::<f64>() / self.played.len().max(1) as f64
    }

    fn range(&self, of: fn(&Figures) -> f64) -> (f64, f64) {
        let values = self.played.iter().map(of);
        values.fold(
            (f64::INFINITY, f64::NEG_INFINITY),
            |(least, most), value| (least.min(value), most.max(value)),
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.range(|figures| figures.ratio);
        let (late_least, late_most) = self.range(|figures| 100.0 * figures.late);
        let name = if self.kind == Kind::Ours {
            format!("**{}**", self.policy)
        } else {
            self.policy.clone()
        };
        writeln!(
            f,
            "| {name} | **{:.3}** ({least:.3}-{most:.3}) | {:.2} | **{:.2}** ({late_least:.2}-{late_most:.2}) | {:.1} / {:.0} | {:.0} | {:.1} / {:.1} / {:.1} | {:.0} / {:.0} | {:.0} | {:.1} / {:.1} |",
            self.mean(|figures| figures.ratio),
            self.mean(|figures| figures.fractional),
            self.mean(|figures| 100.0 * figures.late),
            self.mean(|figures| figures.wait_p99_s),
            self.mean(|figures| figures.wait_max_s),
            self.mean(|figures| 100.0 * figures.utilisation),
            self.mean(|figures| 100.0 * figures.idle),
            self.mean(|figures| 100.0 * figures.starts),
            self.mean(|figures| 100.0 * figures.storage),
            self.mean(|figures| figures.cold),
            self.mean(|figures| figures.restarts),
            self.mean(|figures| figures.flaps),
            self.mean(|figures| figures.ready),
            self.mean(|figures| figures.stopped),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Scaling in simulated worlds\n")?;
        writeln!(
            f,
            "`{}`; production policy, lives of workers and choice of offers in virtual time (`src/simulate/`). Work flows like water, first in first out, by the second, where *request by request* is not said; decisions every 5 s. Seeds 1 to {}: mean, and least and most in brackets. Market: cold start 300 s (log-normal, cv 0.35), 60% of it billed, restart 60 s failing 15%, storage 6% of the price, mean load 8 workers of the first kind. *Late*: work that waited over 10 s.\n",
            concat!("tidegate ", env!("CARGO_PKG_VERSION")),
            self.seeds,
        )?;
        let traces = if self.traces { " TRACES=DIR" } else { "" };
        writeln!(f, "```\nmake simulate{traces}\n```\n")?;
        let mut section: Option<(&str, &str)> = None;
        for row in &self.rows {
            if section != Some((&row.world, &row.load)) {
                section = Some((&row.world, &row.load));
                writeln!(f, "\n## {}: {}\n\n{}\n", row.world, row.load, row.what)?;
                if let Some(picture) = pictures::name_of(&row.world, &row.load) {
                    writeln!(f, "![ours, seed 1]({picture})\n")?;
                }
                writeln!(
                    f,
                    "| policy | cost / level bound | cost / B0 | late, % | wait p99 / most, s | utilisation, % | idle / starts / storage, % of cost | cold starts / restarts | flaps | ready / stopped, mean |\n|---|---|---|---|---|---|---|---|---|---|"
                )?;
            }
            write!(f, "{row}")?;
        }
        writeln!(
            f,
            "\n## The bounds and what they are made from\n\nDollars of seed 1, over the time counted. *Level bound*: slots of {SLOT_S} s, each level's gaps bridged in the cheapest way (in brackets: gaps run through, stopped, destroyed); *B0*: all work at the price of machines that always work; *best fixed fleet*: the smallest that keeps the promise, its cost over the level bound, its late share. Formulas: `src/simulate/bound.rs`.\n"
        )?;
        writeln!(
            f,
            "| world | load | tokens/s of a machine | $/h running / stopped, $ cold start / restart | mean load, machines | B0, $ | level bound, $ | best fixed fleet |\n|---|---|---|---|---|---|---|---|"
        )?;
        for line in &self.bounds {
            writeln!(f, "{line}")?;
        }
        let longest = self
            .rows
            .iter()
            .map(|row| row.mean(|figures| figures.plan_us));
        writeln!(
            f,
            "\nA plan, the world around it included, took {:.0} microseconds at most (mean of a row).",
            longest.fold(0.0, f64::max)
        )
    }
}
