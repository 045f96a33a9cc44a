//! What runs came to, beside what whoever knew the load would have paid: one table, as text and as JSON.
//!
//! A column is a policy, a figure its mean over seeds with the half-width of the 95% confidence interval.

use std::fmt::Write as _;

use serde::Serialize;

use super::bound::{FixedFleet, LevelBound, Prices, best_fixed, fractional_usd, level};
use super::world::{Scenario, Totals};

/// Slots of the level bound, seconds. A shorter one rises by the granularity of whole machines.
pub const SLOT_S: usize = 60;

/// The bounds for the part of a load that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    pub prices: Prices,
    pub fractional_usd: f64,
    pub level: LevelBound,
    pub fixed: FixedFleet,
    /// Share of the work that the fixed fleet may let wait too long.
    pub late_share: f64,
}

impl Bounds {
    /// `late_share`: what the best fixed fleet has to keep.
    pub fn of(scenario: &Scenario, late_share: f64) -> Option<Self> {
        let gb = scenario
            .groups
            .iter()
            .map(|group| group.image_gb + group.model_gb)
            .fold(f64::INFINITY, f64::min);
        let prices = Prices::of_market(&scenario.kinds, if gb.is_finite() { gb } else { 0.0 })?;
        let from = scenario.count_from.as_secs() as usize;
        let work = scenario.load.work.get(from..)?;
        let wait_s = scenario.scaling.slo.wait.as_secs_f64().round() as usize;
        Some(Self {
            prices,
            fractional_usd: fractional_usd(work, &prices),
            level: level(work, SLOT_S, &prices),
            fixed: best_fixed(work, wait_s, late_share, &prices),
            late_share,
        })
    }
}

/// One run, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    pub seed: u64,
    pub totals: Totals,
    pub bounds: Option<Bounds>,
    /// CPU time of all its plans, where somebody held a clock.
    pub plans_cpu_s: Option<f64>,
}

/// One policy over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    pub policy: String,
    pub runs: Vec<Measured>,
}

/// How a figure is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Usd,
    Ratio,
    Percent,
    Seconds,
    Count,
    Micros,
}

/// A figure of one run; `None` where it has none.
struct Row {
    name: &'static str,
    unit: Unit,
    of: fn(&Measured) -> Option<f64>,
}

const fn row(name: &'static str, unit: Unit, of: fn(&Measured) -> Option<f64>) -> Row {
    Row { name, unit, of }
}

const ROWS: [Row; 39] = [
    row("cost", Unit::Usd, |m| Some(m.totals.bill.total())),
    row("  serving", Unit::Usd, |m| Some(m.totals.bill.serving)),
    row("  idle", Unit::Usd, |m| Some(m.totals.bill.idle)),
    row("  cold starts", Unit::Usd, |m| Some(m.totals.bill.cold)),
    row("  restarts", Unit::Usd, |m| Some(m.totals.bill.restart)),
    row("  storage", Unit::Usd, |m| Some(m.totals.bill.storage)),
    row("  traffic", Unit::Usd, |m| Some(m.totals.bill.traffic)),
    row("cost / fractional bound", Unit::Ratio, |m| {
        over(m, |bounds| bounds.fractional_usd)
    }),
    row("cost / level bound, 60 s", Unit::Ratio, |m| {
        over(m, |bounds| bounds.level.usd)
    }),
    row("cost / best fixed fleet", Unit::Ratio, |m| {
        over(m, |bounds| bounds.fixed.usd)
    }),
    row("late work", Unit::Percent, |m| Some(m.totals.late_share)),
    row("wait p50", Unit::Seconds, |m| Some(m.totals.wait_p50_s)),
    row("wait p95", Unit::Seconds, |m| Some(m.totals.wait_p95_s)),
    row("wait p99", Unit::Seconds, |m| Some(m.totals.wait_p99_s)),
    row("wait longest", Unit::Seconds, |m| Some(m.totals.wait_max_s)),
    row("first token within 2 s", Unit::Percent, |m| {
        requests(m, |r| r.ttft_share)
    }),
    row("tokens within 100 ms", Unit::Percent, |m| {
        requests(m, |r| r.tpot_share)
    }),
    row("both", Unit::Percent, |m| requests(m, |r| r.both_share)),
    row("first token p99", Unit::Seconds, |m| {
        requests(m, |r| r.ttft_p99_s)
    }),
    row("requests", Unit::Count, |m| {
        requests(m, |r| r.arrived as f64)
    }),
    row("  failed", Unit::Count, |m| {
        requests(m, |r| r.failed as f64)
    }),
    row("  refused", Unit::Count, |m| requests(m, |r| r.shed as f64)),
    row("  asked again", Unit::Count, |m| {
        requests(m, |r| r.retried as f64)
    }),
    row("  gone on with", Unit::Count, |m| {
        requests(m, |r| r.resumed as f64)
    }),
    row("utilisation", Unit::Percent, |m| Some(m.totals.utilisation)),
    row("workers ready, mean", Unit::Ratio, |m| {
        Some(m.totals.ready_mean)
    }),
    row("workers stopped, mean", Unit::Ratio, |m| {
        Some(m.totals.stopped_mean)
    }),
    row("cold starts", Unit::Count, |m| {
        Some(m.totals.starts.cold as f64)
    }),
    row("  failed cold starts", Unit::Count, |m| {
        Some(m.totals.starts.cold_failed as f64)
    }),
    row("restarts", Unit::Count, |m| {
        Some(m.totals.starts.restart as f64)
    }),
    row("  failed restarts", Unit::Count, |m| {
        Some(m.totals.starts.restart_failed as f64)
    }),
    row("refused rentals", Unit::Count, |m| {
        Some(m.totals.starts.refused as f64)
    }),
    row("outbid", Unit::Count, |m| Some(m.totals.preemptions as f64)),
    row("failures", Unit::Count, |m| Some(m.totals.failures as f64)),
    row("wasted start time", Unit::Seconds, |m| {
        Some(m.totals.wasted_start_s)
    }),
    row("capacity short, mean", Unit::Seconds, |m| {
        Some(m.totals.lag_mean_s)
    }),
    row("capacity short, longest", Unit::Seconds, |m| {
        Some(m.totals.lag_max_s)
    }),
    row("flaps", Unit::Count, |m| Some(m.totals.flaps as f64)),
    row("CPU time a plan", Unit::Micros, |m| {
        m.plans_cpu_s
            .map(|cpu_s| cpu_s / m.totals.plans.max(1) as f64)
    }),
];

fn over(measured: &Measured, bound: fn(&Bounds) -> f64) -> Option<f64> {
    let bound = bound(measured.bounds.as_ref()?);
    (bound > 0.0).then(|| measured.totals.bill.total() / bound)
}

fn requests(measured: &Measured, of: fn(&super::world::RequestTotals) -> f64) -> Option<f64> {
    measured.totals.requests.as_ref().map(of)
}

/// A figure over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub mean: f64,
    /// Half-width of the 95% confidence interval of the mean; `None` for one seed.
    pub ci95: Option<f64>,
    pub values: Vec<f64>,
}

impl Column {
    fn figure(&self, row: &Row) -> Option<Figure> {
        let values: Option<Vec<f64>> = self.runs.iter().map(row.of).collect();
        let values = values.filter(|values| !values.is_empty())?;
        let (mean, ci95) = mean_and_ci95(&values);
        Some(Figure {
            name: row.name.trim(),
            mean,
            ci95,
            values,
        })
    }

    /// All that this policy's runs have figures for.
    pub fn figures(&self) -> Vec<Figure> {
        ROWS.iter().filter_map(|row| self.figure(row)).collect()
    }
}

/// Mean, and the half-width of its 95% confidence interval by Student's t.
pub fn mean_and_ci95(values: &[f64]) -> (f64, Option<f64>) {
    const T: [f64; 10] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    ];
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    if values.len() < 2 {
        return (mean, None);
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let error = (squares / (n - 1.0) / n).sqrt();
    let t = T.get(values.len() - 2).copied().unwrap_or(2.0);
    (mean, Some(t * error))
}

/// The table of all figures, a column for each policy.
pub fn table(columns: &[Column]) -> String {
    let mut lines: Vec<Vec<String>> = vec![vec![String::new()]];
    lines[0].extend(columns.iter().map(|column| column.policy.clone()));
    for row in &ROWS {
        let cells: Vec<Option<Figure>> = columns.iter().map(|column| column.figure(row)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let mut line = vec![row.name.to_owned()];
        let shown = |cell: &Option<Figure>| cell.as_ref().map_or("-".into(), |f| row.unit.show(f));
        line.extend(cells.iter().map(shown));
        lines.push(line);
    }
    aligned(&lines)
}

/// First column to the left, the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

impl Unit {
    fn show(self, figure: &Figure) -> String {
        let digits = match self {
            Unit::Usd => 2,
            Unit::Ratio | Unit::Percent => 3,
            Unit::Seconds | Unit::Micros => 1,
            Unit::Count if figure.values.len() > 1 => 1,
            Unit::Count => 0,
        };
        let times = match self {
            Unit::Percent => 100.0,
            Unit::Micros => 1e6,
            _ => 1.0,
        };
        let (before, behind) = match self {
            Unit::Usd => ("$", ""),
            Unit::Percent => ("", "%"),
            Unit::Seconds => ("", " s"),
            Unit::Micros => ("", " us"),
            Unit::Ratio | Unit::Count => ("", ""),
        };
        let mean = figure.mean * times;
        match figure.ci95 {
            Some(ci) => {
                let ci = ci * times;
                format!("{before}{mean:.digits$} +- {ci:.digits$}{behind}")
            }
            None => format!("{before}{mean:.digits$}{behind}"),
        }
    }
}

/// The bounds with all that they follow from, so that anybody can reckon them again.
pub fn bounds_in_words(bounds: &Bounds) -> String {
    let Bounds {
        prices,
        fractional_usd,
        level,
        fixed,
        late_share,
    } = bounds;
    format!(
        "one machine: {:.1} tokens/s, ${:.4}/h running, ${:.4}/h stopped, ${:.4} a cold start, ${:.4} a restart\n\
         fractional bound: ${fractional_usd:.2} (all work on machines that always work)\n\
         level bound: ${:.2} (slots of {} s, {} levels, {:.2} on average; gaps run through {}, stopped {}, destroyed {})\n\
         best fixed fleet in hindsight: {} machines, ${:.2}, {:.3}% late (at most {:.3}%)\n",
        prices.speed,
        prices.running_usd_per_hour,
        prices.stopped_usd_per_hour,
        prices.cold_usd,
        prices.restart_usd,
        level.usd,
        level.slot_s,
        level.levels,
        level.mean,
        level.run_through,
        level.stopped,
        level.destroyed,
        fixed.machines,
        fixed.usd,
        100.0 * fixed.late_share,
        100.0 * late_share,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::machines::Bill;

    fn measured(seed: u64, usd: f64) -> Measured {
        Measured {
            seed,
            totals: Totals {
                bill: Bill {
                    serving: usd,
                    ..Bill::default()
                },
                late_share: 0.003,
                plans: 2_000,
                ..Totals::default()
            },
            bounds: None,
            plans_cpu_s: Some(0.1),
        }
    }

    #[test]
    fn the_interval_is_that_of_students_t() {
        let (mean, ci) = mean_and_ci95(&[9.0, 10.0, 11.0]);
        assert_eq!(mean, 10.0);
        assert!((ci.expect("three seeds") - 4.303 / 3.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(mean_and_ci95(&[5.0]), (5.0, None));
        assert_eq!(mean_and_ci95(&[]), (0.0, None));
    }

    #[test]
    fn the_table_has_a_column_for_each_policy_and_no_row_without_figures() {
        let column = |policy: &str, usd: &[f64]| Column {
            policy: policy.into(),
            runs: usd
                .iter()
                .enumerate()
                .map(|(seed, usd)| measured(seed as u64, *usd))
                .collect(),
        };
        let text = table(&[column("ours", &[9.0, 11.0]), column("other", &[20.0])]);
        let line = |start: &str| {
            let mut lines = text.lines().filter(|line| line.starts_with(start));
            lines
                .next()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(line("cost").as_deref(), Some("cost $10.00 +- 12.71 $20.00"));
        assert_eq!(
            line("late").as_deref(),
            Some("late work 0.300 +- 0.000% 0.300%")
        );
        assert_eq!(
            line("CPU").as_deref(),
            Some("CPU time a plan 50.0 +- 0.0 us 50.0 us")
        );
        assert_eq!(line("first token"), None, "{text}");
        let figures = column("ours", &[9.0, 11.0]).figures();
        assert_eq!((figures[0].name, figures[0].mean), ("cost", 10.0));
    }
}
