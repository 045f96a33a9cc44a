//! Playing many worlds, several at once, each by itself exactly repeatable.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tidegate::simulate::report::Bounds;
use tidegate::simulate::world::{Run, Scenario, run};

use super::loads::{NamedLoad, WORKERS};
use super::planners::Planned;

pub struct Task {
    pub world: String,
    pub load: NamedLoad,
    pub planned: Planned,
    pub seed: u64,
    pub scenario: Box<dyn Fn() -> Scenario + Send>,
}

impl Task {
    /// As [`Task::plain`], request by request.
    pub fn by_requests(load: &NamedLoad, planned: Planned, seed: u64) -> Self {
        let plain = Self::plain(load, planned, seed);
        let water = plain.scenario;
        Self {
            world: "one kind, request by request".to_owned(),
            scenario: Box::new(move || water().by_requests()),
            ..plain
        }
    }

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
    pub bounds: Bounds,
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
    let bounds = Bounds::of(&scenario, task.load.late_share);
    Played {
        bounds: bounds.expect("a scenario of ours has machines and a load"),
        world: task.world,
        load: task.load,
        planned: task.planned,
        seed: task.seed,
        run,
        took_s: begun.elapsed().as_secs_f64(),
    }
}

impl Played {
    pub fn usd(&self) -> f64 {
        self.run.totals.bill.total()
    }

    pub fn ratio(&self) -> f64 {
        self.usd() / self.bounds.level.usd
    }
}
