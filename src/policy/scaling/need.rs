//! What the load asks for: the running level that the surprises of one restart are covered by, and the pool that the
//! growth within one cold start is.

use std::time::Duration;

use super::supply::{Stock, sane};
use super::{Need, ScalingInputs, ScalingMemory, StartOutlook, keep};
use crate::domain::{LoadForecast, ScalingSettings, Timestamp, TokensPerSecond};
use crate::policy::forecast::Pace;

/// What waits is to be worked off within this many times the start of the worker that helps, at least: sooner would take
/// a fleet that has nothing to do when it is there.
const BACKLOG_STARTS: f64 = 2.0;
/// Share of the surprise that the pool covers beside the growth.
const POOL_SURPRISE: f64 = 0.5;

/// What a start is like for most of the workers there are, and how fast they are.
pub(super) struct Typical {
    pub starts: StartOutlook,
    pub speed: TokensPerSecond,
}

/// Means over what exists; where nothing does, over what could be rented.
pub(super) fn typical(inputs: &ScalingInputs) -> Typical {
    let workers = &inputs.snapshot.workers;
    let mut sums = [0.0; 5];
    let mut weights = 0.0;
    for supply in &inputs.groups {
        let there = workers.iter().filter(|worker| worker.group == supply.group);
        let weight = 0.01 + there.filter(|worker| !worker.phase.is_ending()).count() as f64;
        let starts = &supply.starts;
        let figures = [
            starts.cold.as_secs_f64(),
            starts.cold_usd,
            starts.restart.as_secs_f64(),
            starts.restart_fails,
            sane(supply.speed.0),
        ];
        for (sum, figure) in sums.iter_mut().zip(figures) {
            *sum += weight * sane(figure);
        }
        weights += weight;
    }
    if weights == 0.0 {
        let speed = mean_speed(inputs).unwrap_or(TokensPerSecond::ZERO);
        let starts = StartOutlook::default();
        return Typical { starts, speed };
    }
    let [cold, cold_usd, restart, restart_fails, speed] = sums.map(|sum| sum / weights);
    let seconds = |figure: f64| Duration::try_from_secs_f64(figure).unwrap_or(Duration::MAX);
    Typical {
        starts: StartOutlook {
            cold: seconds(cold),
            cold_usd,
            restart: seconds(restart),
            restart_fails,
        },
        speed: mean_speed(inputs).unwrap_or(TokensPerSecond(speed)),
    }
}

fn mean_speed(inputs: &ScalingInputs) -> Option<TokensPerSecond> {
    let workers = inputs.snapshot.workers.iter();
    let speeds = workers
        .filter(|worker| !worker.phase.is_ending())
        .map(|worker| sane(worker.speed.0))
        .filter(|speed| *speed > 0.0);
    let (sum, count) = speeds.fold((0.0, 0.0), |(sum, count), speed| (sum + speed, count + 1.0));
    (count > 0.0).then(|| TokensPerSecond(sum / count))
}

impl Typical {
    pub fn pace(&self, settings: &ScalingSettings) -> Pace {
        Pace {
            wait: settings.slo.wait,
            restart: self.starts.restart,
            cold: self.starts.cold,
        }
    }
}

impl ScalingMemory {
    pub(super) fn need(
        &mut self,
        inputs: &ScalingInputs,
        stock: &Stock,
        typical: &Typical,
        settings: &ScalingSettings,
        now: Timestamp,
    ) -> Need {
        let snapshot = &inputs.snapshot;
        let waiting = snapshot.waiting.requests;
        let first_seen = self.first_seen.unwrap_or(now);
        let last_active = snapshot.demand.last_active;
        let idle_for = now.since(last_active.unwrap_or(first_seen));
        let may_sleep = waiting == 0 && sane(settings.min_load.0) == 0.0;
        let timeout = settings.inactivity_timeout.filter(|_| may_sleep);
        let idle = timeout.is_some_and(|timeout| idle_for >= timeout);
        let expected = self.forecast.expected();

        let load = match settings.target_util {
            Some(_) => self.demand.load().0,
            None => expected.need.0,
        };
        let backlog = Backlog::new(inputs, settings);
        let starts = &typical.starts;
        let soonest = match stock.has_restartable() {
            true => starts.restart,
            false => starts.cold,
        };
        let extra = backlog.left_by(stock, load, soonest);
        let awake = !(idle || inputs.removed);
        // A smoothed load never quite reaches zero; only silence does.
        let wanted_with = |extra: f64| match awake {
            true => running(load, extra, &expected, settings),
            false => 0.0,
        };
        let wanted = wanted_with(extra);
        let wanted_cold = wanted_with(backlog.left_by(stock, load, starts.cold).min(extra));
        let pool = match settings.cold_mult {
            Some(times) => wanted_cold * sane(times).max(1.0),
            None if !awake => 0.0,
            // The surprise of the next minute is half a sign of more to come.
            None => (expected.pool.0 + POOL_SURPRISE * expected.surprise.0).max(wanted_cold),
        };
        let floor = match inputs.removed {
            true => 0.0,
            false => sane(settings.min_cold_load.0),
        };
        let prepared_wanted = pool.max(floor);
        // A machine that does not come back when asked is no reserve: what the pool is for must run.
        let one_horizon = awake
            && settings.target_util.is_none()
            && starts.restart_fails > keep::RESTARTS_FAIL_MOST;
        let least = if one_horizon { prepared_wanted } else { 0.0 };
        let (wanted, wanted_cold) = (wanted.max(least), wanted_cold.max(least));
        // While something waits, who works it off is no surplus.
        let needed = wanted_with(backlog.whole(soonest)).max(wanted);
        let longest = keep::STOP_LATEST.max(settings.scale_down_delay);
        self.wanted.push(needed, longest, now);
        let longest = keep::DESTROY_LATEST.max(settings.scale_down_delay);
        self.prepared.push(prepared_wanted, longest, now);
        Need {
            load: TokensPerSecond(load + extra),
            wanted,
            wanted_cold,
            prepared_wanted,
            waiting,
            at_least_one: !idle && (last_active.is_some() || waiting > 0),
            idle_s: idle.then_some(idle_for.as_secs_f64()),
            watched_for: now.since(first_seen),
        }
    }
}

/// Running capacity for a load and the extra load of working off what waits.
fn running(load: f64, extra: f64, expected: &LoadForecast, settings: &ScalingSettings) -> f64 {
    let min_load = sane(settings.min_load.0);
    match settings.target_util {
        Some(share) => load.max(min_load) / share.clamp(0.01, 1.0) + extra,
        None => {
            let covered = expected.need.0 + expected.surprise.0;
            (covered.max(expected.lasting.0) + extra).max(min_load)
        }
    }
}

/// What waits, as the extra load of working it off.
struct Backlog {
    waits: f64,
    within_s: f64,
}

impl Backlog {
    fn new(inputs: &ScalingInputs, settings: &ScalingSettings) -> Self {
        Self {
            waits: sane(inputs.snapshot.waiting.cost.0),
            within_s: settings.drain_backlog_within.as_secs_f64(),
        }
    }

    /// As far as the capacity that is there and coming does not work it off before a worker could whose start takes so
    /// long.
    fn left_by(&self, stock: &Stock, load: f64, start: Duration) -> f64 {
        let left = self.waits - stock.done_beyond(load, start.as_secs_f64());
        left.max(0.0) / self.within(start)
    }

    fn whole(&self, start: Duration) -> f64 {
        self.waits / self.within(start)
    }

    fn within(&self, start: Duration) -> f64 {
        let start_s = BACKLOG_STARTS * start.as_secs_f64();
        self.within_s.max(start_s).max(0.001)
    }
}
