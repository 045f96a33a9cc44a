//! Playing many worlds, several at once, each by itself exactly repeatable.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tidegate::simulate::bound::{
    FixedFleet, LevelBound, Prices, best_fixed, fractional_usd, level,
};
use tidegate::simulate::world::{Run, Scenario, run};

use super::loads::{NamedLoad, WORKERS};
use super::planners::Planned;

/// Seconds of the level bound's slots.
pub const SLOT_S: usize = 60;

pub struct Task {
    pub world: String,
    pub load: NamedLoad,
    pub planned: Planned,
    pub seed: u64,
    pub scenario: Box<dyn Fn() -> Scenario + Send>,
}

impl Task {
    /// In the market of the aims.
    pub fn plain(load: &NamedLoad, planned: Planned, seed: u64) -> Self {
        let of = load.clone();
        Self {
            world: "one kind".to_owned(),
            load: load.clone(),
            planned,
            seed,
            scenario: Box::new(move || {
                let scenario = Scenario::of_aims(of.of(seed), WORKERS, seed);
                let mut scenario = scenario.counting_from(of.count_from);
                scenario.scaling.slo.late_share = of.late_share;
                scenario
            }),
        }
    }
}

pub struct Played {
    pub world: String,
    pub load: NamedLoad,
    pub planned: Planned,
    pub seed: u64,
    pub run: Run,
    pub prices: Prices,
    pub fractional_usd: f64,
    pub level: LevelBound,
    pub fixed: FixedFleet,
    pub took_s: f64,
}

pub fn play_all(tasks: Vec<Task>, at_once: usize) -> Vec<Played> {
    let count = tasks.len();
    let tasks = Mutex::new(tasks.into_iter().enumerate());
    let results = Mutex::new(Vec::with_capacity(count));
    let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(|| {
                while let Some((index, task)) = next() {
                    let played = play(task);
                    eprintln!("{}/{count}  {played}", index + 1);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((index, played));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, played)| played).collect()
}

impl fmt::Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}, {}, seed {}: {:.3} of the level bound, {:.2}% late, {:.1} s",
            self.world,
            self.load.name,
            self.planned.name,
            self.seed,
            self.ratio(),
            100.0 * self.run.totals.late_share,
            self.took_s,
        )
    }
}

fn play(task: Task) -> Played {
    let begun = Instant::now();
    let scenario = (task.scenario)();
    let mut planner = task.planned.planner(&scenario);
    let mut run = run(&scenario, planner.as_mut());
    run.orders = Vec::new();
    let from = scenario.count_from.as_secs() as usize;
    let work = &scenario.load.work[from.min(scenario.load.length_s())..];
    let prices = Prices::of_market(&scenario.kinds, downloads_gb(&scenario));
    let prices = prices.unwrap_or(Prices::of_kind(&scenario.kinds[0], 0.0));
    Played {
        level: level(work, SLOT_S, &prices),
        fractional_usd: fractional_usd(work, &prices),
        fixed: best_fixed(work, 10, task.load.late_share, &prices),
        prices,
        world: task.world,
        load: task.load,
        planned: task.planned,
        seed: task.seed,
        run,
        took_s: begun.elapsed().as_secs_f64(),
    }
}

fn downloads_gb(scenario: &Scenario) -> f64 {
    let each = scenario
        .groups
        .iter()
        .map(|group| group.image_gb + group.model_gb);
    each.fold(f64::INFINITY, f64::min)
}

impl Played {
    pub fn usd(&self) -> f64 {
        self.run.totals.bill.total()
    }

    pub fn ratio(&self) -> f64 {
        self.usd() / self.level.usd
    }
}
