//! What a replay found, as data and as text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use super::outcome::{Quantiles, Tally};
use super::schedule::Phase;

/// The figures of a set of requests. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub sent: u64,
    pub answered: u64,
    pub failed: u64,
    /// By kind.
    pub failures: BTreeMap<String, u64>,
    /// The first of each kind, in its own words.
    pub failure_examples: BTreeMap<String, String>,
    pub output_tokens: u64,
    /// Requests whose first token came later than the limit, or never.
    pub late: u64,
    /// Of those sent; 0 when none were.
    pub late_share: f64,
    pub first_token: Option<Quantiles>,
    pub gap: Option<Quantiles>,
    /// Answered requests, from sending to the end.
    pub total: Option<Quantiles>,
    /// The load generator's own delay; large values mean that the measuring side was too slow.
    pub send_lag: Option<Quantiles>,
}

impl From<&Tally> for Figures {
    fn from(tally: &Tally) -> Self {
        Self {
            sent: tally.sent,
            answered: tally.answered,
            failed: tally.sent - tally.answered,
            failures: tally.failures.clone(),
            failure_examples: tally.examples.clone(),
            output_tokens: tally.output_tokens,
            late: tally.late,
            late_share: tally.late as f64 / tally.sent.max(1) as f64,
            first_token: tally.first_token.quantiles(),
            gap: tally.gap.quantiles(),
            total: tally.total.quantiles(),
            send_lag: tally.send_lag.quantiles(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseReport {
    pub phase: Phase,
    /// After the start of the replay.
    pub start_s: f64,
    /// Of the requests sent in the phase, whenever they ended.
    pub figures: Figures,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayReport {
    pub figures: Figures,
    pub phases: Vec<PhaseReport>,
    pub late_after_s: f64,
    /// From the start to the end of the last answer or phase.
    pub duration_s: f64,
}

impl ReplayReport {
    pub(super) fn new(
        tallies: &[Tally],
        all: &Tally,
        phases: &[Phase],
        late_after_s: f64,
        duration_s: f64,
    ) -> Self {
        let mut start_s = 0.0;
        let phases = phases
            .iter()
            .zip(tallies)
            .map(|(phase, tally)| {
                let report = PhaseReport {
                    phase: phase.clone(),
                    start_s,
                    figures: Figures::from(tally),
                };
                start_s += phase.duration_s;
                report
            })
            .collect();
        Self {
            figures: Figures::from(all),
            phases,
            late_after_s,
            duration_s,
        }
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_figures(f, &self.figures, self.late_after_s)?;
        writeln!(f, "duration       {:.1} s", self.duration_s)?;
        if self.phases.len() > 1 {
            for phase in &self.phases {
                let Phase {
                    name, duration_s, ..
                } = &phase.phase;
                writeln!(f, "\nphase {name} ({duration_s} s)")?;
                write_figures(f, &phase.figures, self.late_after_s)?;
            }
        }
        Ok(())
    }
}

fn write_figures(f: &mut fmt::Formatter<'_>, figures: &Figures, late_after_s: f64) -> fmt::Result {
    writeln!(f, "sent           {}", figures.sent)?;
    writeln!(f, "answered       {}", figures.answered)?;
    writeln!(f, "failed         {}", figures.failed)?;
    for (kind, count) in &figures.failures {
        let example = figures
            .failure_examples
            .get(kind)
            .map_or("", String::as_str);
        writeln!(f, "  {count:>6}  {kind}: {example}")?;
    }
    writeln!(f, "output tokens  {}", figures.output_tokens)?;
    writeln!(
        f,
        "late           {} ({:.2} %; first token after {late_after_s} s or never)",
        figures.late,
        100.0 * figures.late_share
    )?;
    writeln!(f, "first token    {}", in_words(figures.first_token))?;
    writeln!(f, "token gap      {}", in_words(figures.gap))?;
    writeln!(f, "whole answer   {}", in_words(figures.total))?;
    writeln!(f, "send lag       {}", in_words(figures.send_lag))
}

fn in_words(quantiles: Option<Quantiles>) -> String {
    let Some(quantiles) = quantiles else {
        return "-".to_owned();
    };
    let mut text = String::new();
    for (name, value) in [
        ("p50", quantiles.p50_ms),
        ("p95", quantiles.p95_ms),
        ("p99", quantiles.p99_ms),
        ("max", quantiles.max_ms),
    ] {
        // Writing to a string cannot fail.
        let _ = write!(text, "{name} {value:.1} ms  ");
    }
    text.truncate(text.trim_end().len());
    text
}
