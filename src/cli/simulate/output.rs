//! What a simulation tells: on the terminal, as JSON, as files.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::scenario::Prepared;
use crate::picture;
use crate::simulate::report::{Column, bounds_in_words, table};
use crate::simulate::world::Point;

pub(super) struct Report {
    endpoint: String,
    assumed: Vec<String>,
    /// Of the time that is counted, beyond the last arrival.
    tail_s: f64,
    limited: Option<String>,
    wait_s: f64,
    column: Column,
}

impl Report {
    /// `series`: of the first seed.
    pub fn new(prepared: &Prepared, column: Column, series: &[Point]) -> Self {
        let endpoint = prepared.endpoint();
        let most = endpoint.scaling.max_workers;
        let all =
            |point: &&Point| point.ready + point.starting + point.draining + point.stopped >= most;
        let reached = series.iter().filter(all).count() as f64 / series.len().max(1) as f64;
        Self {
            endpoint: endpoint.name.to_string(),
            assumed: prepared.assumed.clone(),
            limited: (reached > 0.0).then(|| {
                format!("max_workers ({most}) was reached for {:.0}% of the time: no more could be rented then\n", 100.0 * reached)
            }),
            tail_s: prepared.tail_s() as f64,
            wait_s: endpoint.scaling.slo.wait.as_secs_f64(),
            column,
        }
    }

    pub fn text(&self) -> String {
        let mut text = self.headline();
        text.extend(self.limited.as_deref());
        text.push('\n');
        text.push_str(&table(std::slice::from_ref(&self.column)));
        if let Some(bounds) = self.column.runs.first().and_then(|run| run.bounds) {
            let _ = write!(text, "\n{}", bounds_in_words(&bounds));
        }
        text.push_str("\nassumed:\n");
        for line in &self.assumed {
            let _ = writeln!(text, "  {line}");
        }
        text
    }

    fn headline(&self) -> String {
        let runs = &self.column.runs;
        let mean = |of: &dyn Fn(usize) -> f64| {
            (0..runs.len()).map(of).sum::<f64>() / runs.len().max(1) as f64
        };
        let hours = runs.first().map_or(0.0, |run| {
            (run.totals.seconds - self.tail_s).max(0.0) / 3_600.0
        });
        let usd = mean(&|n| runs[n].totals.bill.total());
        let late = mean(&|n| runs[n].totals.late_share);
        let span = if hours >= 48.0 {
            format!("{:.1} days", hours / 24.0)
        } else {
            format!("{hours:.1} hours")
        };
        format!(
            "endpoint {}: {span} would have cost ${usd:.2}; {:.2}% of the work would have waited over {:.0} s\n",
            self.endpoint,
            100.0 * late,
            self.wait_s
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "endpoint": self.endpoint,
            "assumed": self.assumed,
            "figures": self.column.figures(),
            "runs": self.column.runs,
        })
    }

    /// Writes report.txt, report.json and picture.svg.
    pub fn write(&self, dir: &Path, prepared: &Prepared, series: &[Point]) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let title = format!("{}, seed {}", self.endpoint, self.first_seed());
        let wait_s = prepared.endpoint().scaling.slo.wait.as_secs_f64();
        let picture = picture::svg(&title, series, wait_s)?;
        let json = format!("{:#}\n", self.json());
        for (name, text) in [
            ("report.txt", self.text()),
            ("report.json", json),
            ("picture.svg", picture),
        ] {
            let path = dir.join(name);
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("wrote {}", path.display());
        }
        Ok(())
    }

    fn first_seed(&self) -> u64 {
        self.column.runs.first().map_or(0, |run| run.seed)
    }
}
