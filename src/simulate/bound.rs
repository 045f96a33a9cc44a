//! What the load would have cost whoever knew it in advance: what policies are measured by.
//!
//! All figures are of one kind of machine. A market of several is bounded by the kind whose tokens cost least with the
//! least cost of a cold start ([`Prices::of_market`]).

use serde::{Deserialize, Serialize};

use super::market::MachineKind;

/// What running, stopping and starting costs; with the load all that the bounds depend on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// Tokens a second of one machine.
    pub speed: f64,
    pub running_usd_per_hour: f64,
    pub stopped_usd_per_hour: f64,
    /// Paid for a cold start, and for a restart, before it serves.
    pub cold_usd: f64,
    pub restart_usd: f64,
}

impl Prices {
    /// Of one kind, `gb` being downloaded for a cold start.
    pub fn of_kind(kind: &MachineKind, gb: f64) -> Self {
        Self {
            speed: kind.speed.0,
            running_usd_per_hour: kind.usd_per_hour.0,
            stopped_usd_per_hour: kind.storage_usd_per_hour.0,
            cold_usd: kind.cold_usd(gb),
            restart_usd: kind.restart_usd(),
        }
    }

    /// The relaxation for several kinds: that of the least dollars a token at its middle price, or at that of a bid;
    /// starts and disks as cheap, for the speed, as any kind's. `None` without kinds. Where hosts ask different prices,
    /// whoever picks the cheap ones comes out below what follows: then it is a yardstick and no bound.
    pub fn of_market(kinds: &[MachineKind], gb: f64) -> Option<Self> {
        let of_kind = |kind: &MachineKind| {
            let mut prices = Self::of_kind(kind, gb);
            if let Some(spot) = &kind.spot {
                let gpu = kind.gpu_usd_per_hour() * spot.price_share;
                prices.running_usd_per_hour = gpu + kind.storage_usd_per_hour.0;
            }
            prices
        };
        let all: Vec<Self> = kinds.iter().map(of_kind).collect();
        let by = |of: fn(&Self) -> f64| {
            let each = all.iter().map(|prices| of(prices) / prices.speed);
            each.min_by(f64::total_cmp)
        };
        let best = all.iter().min_by(|a, b| {
            let dear = |prices: &Self| prices.running_usd_per_hour / prices.speed;
            dear(a).total_cmp(&dear(b))
        })?;
        Some(Self {
            stopped_usd_per_hour: by(|prices| prices.stopped_usd_per_hour)? * best.speed,
            cold_usd: by(|prices| prices.cold_usd)? * best.speed,
            restart_usd: by(|prices| prices.restart_usd)? * best.speed,
            ..*best
        })
    }
}

/// Dollars for all work at the price of a machine that always works: `B0 = work * price / speed`. No policy that
/// serves everything is cheaper.
pub fn fractional_usd(work: &[f64], prices: &Prices) -> f64 {
    work.iter().sum::<f64>() / prices.speed * prices.running_usd_per_hour / 3_600.0
}

/// The level bound: the least cost of having `ceil(work / (speed * slot))` machines run in each slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LevelBound {
    pub slot_s: usize,
    pub usd: f64,
    /// Most machines in a slot, and their mean.
    pub levels: usize,
    pub mean: f64,
    /// Gaps between two slots that need a level, by what is cheapest in them.
    pub run_through: u64,
    pub stopped: u64,
    pub destroyed: u64,
}

/// `work` by the second. Cost and need are separate for each level (the i-th machine), whose gaps `g` cost the least of
/// running through, stopping (`disk * g + restart`) and destroying (a cold start); its first use costs a cold start.
/// Gaps are nested and their cost concave, so the levels' optima agree and the sum is the exact optimum.
///
/// A reference rather than a proof for policies that may let work wait: work may move into the next slot.
pub fn level(work: &[f64], slot_s: usize, prices: &Prices) -> LevelBound {
    let slot_s = slot_s.max(1);
    let needs: Vec<usize> = work
        .chunks(slot_s)
        .map(|slot| {
            let full = prices.speed * slot_s as f64;
            (slot.iter().sum::<f64>() / full - 1e-9).ceil().max(0.0) as usize
        })
        .collect();
    let mut bound = LevelBound {
        slot_s,
        levels: needs.iter().copied().max().unwrap_or(0),
        mean: needs.iter().sum::<usize>() as f64 / needs.len().max(1) as f64,
        ..LevelBound::default()
    };
    let hours = |slots: usize| (slots * slot_s) as f64 / 3_600.0;
    // For each level the slot after its last use.
    let mut free_since: Vec<Option<usize>> = vec![None; bound.levels];
    for (slot, &need) in needs.iter().enumerate() {
        for since in &mut free_since[..need] {
            bound.usd += prices.running_usd_per_hour * hours(1);
            let Some(free) = since.replace(slot + 1) else {
                bound.usd += prices.cold_usd;
                continue;
            };
            let gap = hours(slot - free);
            let run = prices.running_usd_per_hour * gap;
            let stop = prices.stopped_usd_per_hour * gap + prices.restart_usd;
            if gap == 0.0 {
            } else if run <= stop.min(prices.cold_usd) {
                bound.run_through += 1;
                bound.usd += run;
            } else if stop <= prices.cold_usd {
                bound.stopped += 1;
                bound.usd += stop;
            } else {
                bound.destroyed += 1;
                bound.usd += prices.cold_usd;
            }
        }
    }
    bound
}

/// The smallest fleet that never changes and keeps a promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FixedFleet {
    pub machines: usize,
    pub usd: f64,
    pub late_share: f64,
}

/// In hindsight, at most `late_share` of the work waiting over `wait_s`.
pub fn best_fixed(work: &[f64], wait_s: usize, late_share: f64, prices: &Prices) -> FixedFleet {
    let hours = work.len() as f64 / 3_600.0;
    let fleet = |machines: usize| FixedFleet {
        machines,
        usd: machines as f64 * (prices.running_usd_per_hour * hours + prices.cold_usd),
        late_share: late(work, machines as f64 * prices.speed, wait_s),
    };
    let highest = work.iter().copied().fold(0.0, f64::max);
    let (mut least, mut most) = (0, (highest / prices.speed).ceil() as usize);
    while least < most {
        let middle = (least + most) / 2;
        if fleet(middle).late_share <= late_share {
            most = middle;
        } else {
            least = middle + 1;
        }
    }
    fleet(least)
}

/// Share of the work that waits over `wait_s` before `capacity`, first in first out.
fn late(work: &[f64], capacity: f64, wait_s: usize) -> f64 {
    let total: f64 = work.iter().sum();
    let (mut arrived, mut served, mut late) = (0.0, 0.0_f64, 0.0);
    let mut due = 0.0;
    for (second, news) in work.iter().enumerate() {
        arrived += news;
        served = arrived.min(served + capacity);
        if second >= wait_s {
            let start = due;
            due += work[second - wait_s];
            late += (due - served.max(start)).max(0.0);
        }
    }
    if total > 0.0 { late / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRICES: Prices = Prices {
        speed: 10.0,
        running_usd_per_hour: 3_600.0,
        stopped_usd_per_hour: 360.0,
        cold_usd: 40.0,
        restart_usd: 5.0,
    };

    #[test]
    fn each_gap_is_bridged_in_the_cheapest_way() {
        // One machine with gaps of 2 s (run through: 2), 20 s (stop: 2 + 5) and 1000 s (destroy: 40).
        let mut work = vec![10.0];
        for gap in [2, 20, 1_000] {
            work.extend(std::iter::repeat_n(0.0, gap));
            work.push(10.0);
        }
        let bound = level(&work, 1, &PRICES);
        assert!(
            (bound.usd - (40.0 + 4.0 + 2.0 + 7.0 + 40.0)).abs() < 1e-9,
            "{bound:?}"
        );
        assert_eq!(
            (bound.run_through, bound.stopped, bound.destroyed),
            (1, 1, 1)
        );
    }

    #[test]
    fn a_steady_load_costs_its_machines_and_their_starts() {
        let bound = level(&[25.0; 600], 60, &PRICES);
        assert_eq!((bound.levels, bound.mean), (3, 3.0));
        assert!((bound.usd - (3.0 * 600.0 + 3.0 * 40.0)).abs() < 1e-9);
        assert!((fractional_usd(&[25.0; 600], &PRICES) - 1_500.0).abs() < 1e-9);
    }

    #[test]
    fn the_best_fixed_fleet_is_the_smallest_that_keeps_the_promise() {
        let mut work = vec![5.0; 1_000];
        work[500] = 500.0;
        let fixed = best_fixed(&work, 10, 0.001, &PRICES);
        let smaller = late(&work, (fixed.machines - 1) as f64 * PRICES.speed, 10);
        assert!(
            fixed.late_share <= 0.001 && smaller > 0.001,
            "{fixed:?} {smaller}"
        );
        assert_eq!(best_fixed(&work, 10, 0.2, &PRICES).machines, 1);
    }

    /// All ways of running, stopping and destroying, by trying each for each level and gap.
    fn by_dynamic_program(needs: &[usize], most: usize, prices: &Prices) -> f64 {
        // State: (running, stopped). Costs of a slot of one second.
        let states: Vec<(usize, usize)> = (0..=most)
            .flat_map(|running| (0..=most - running).map(move |stopped| (running, stopped)))
            .collect();
        let mut costs: Vec<f64> = states
            .iter()
            .map(|&(r, s)| if (r, s) == (0, 0) { 0.0 } else { f64::INFINITY })
            .collect();
        for &need in needs {
            costs = states
                .iter()
                .map(|&(running, stopped)| {
                    if running < need {
                        return f64::INFINITY;
                    }
                    let from = states.iter().zip(&costs).map(|(&(r, s), cost)| {
                        let more = running.saturating_sub(r);
                        // A stopped one can only come from a running or a stopped one.
                        if stopped > s + r.saturating_sub(running) {
                            return f64::INFINITY;
                        }
                        let restarts = more.min(s.saturating_sub(stopped));
                        let cold = more - restarts;
                        cost + restarts as f64 * prices.restart_usd + cold as f64 * prices.cold_usd
                    });
                    let least = from.fold(f64::INFINITY, f64::min);
                    least
                        + running as f64 * prices.running_usd_per_hour / 3_600.0
                        + stopped as f64 * prices.stopped_usd_per_hour / 3_600.0
                })
                .collect();
        }
        costs.into_iter().fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #[test]
        fn the_levels_together_are_the_optimum(
            needs in prop::collection::vec(0..4_usize, 1..60),
            cold in 1.0..30.0_f64,
            restart in 0.0..10.0_f64,
            disk in 0.0..1.0_f64,
        ) {
            let prices = Prices {
                stopped_usd_per_hour: 3_600.0 * disk,
                cold_usd: cold,
                restart_usd: restart,
                ..PRICES
            };
            let work: Vec<f64> = needs.iter().map(|need| *need as f64 * prices.speed).collect();
            let levels = level(&work, 1, &prices).usd;
            let best = by_dynamic_program(&needs, 3, &prices);
            prop_assert!((levels - best).abs() < 1e-6, "{levels} {best}");
        }
    }
}
