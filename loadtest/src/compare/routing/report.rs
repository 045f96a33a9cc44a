//! Figures of the runs and their document. Times are the machines' own.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;
use std::time::Duration;

use super::super::machine::Machine;
use super::super::result::Missing;
use crate::replay::outcome::{Outcome, Quantiles};
use crate::routing::live::served;
use crate::routing::report::{FIRST_TOKEN_AIM_S, PER_TOKEN_AIM_S, quantile};

pub(super) struct Run {
    pub trace: &'static str,
    pub load: u32,
    pub router: String,
    pub requests: usize,
    pub slower: f64,
    /// Or why there is nothing.
    pub seen: Result<Seen, String>,
}

/// What the clients of one run saw.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// p50, p95, p99 in seconds. Who got no whole answer waited for ever.
    first_token_s: [f64; 3],
    /// The same of all gaps between tokens.
    gap_s: [f64; 3],
    /// Shares of the requests.
    goodput: f64,
    late: f64,
    slow: f64,
    failed: BTreeMap<String, usize>,
    lag: Option<Quantiles>,
}

const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

impl Seen {
    pub(super) fn of(outcomes: &[Outcome], lag: Option<Quantiles>, slower: f64) -> Self {
        let all: Vec<_> = outcomes
            .iter()
            .map(|outcome| served(outcome, slower))
            .collect();
        let gaps = outcomes.iter().flat_map(|outcome| &outcome.gaps);
        let share = |count: usize| count as f64 / all.len().max(1) as f64;
        let late = |first_s: f64| first_s > FIRST_TOKEN_AIM_S;
        let slow = |per_token_s: f64| per_token_s > PER_TOKEN_AIM_S;
        let mut failed = BTreeMap::new();
        for failure in outcomes
            .iter()
            .filter_map(|outcome| outcome.failure.as_ref())
        {
            *failed.entry(failure.kind.clone()).or_default() += 1;
        }
        Self {
            first_token_s: quantiles(all.iter().map(|one| one.first_token_s)),
            gap_s: quantiles(gaps.map(|gap| Duration::as_secs_f64(gap) / slower)),
            goodput: share(
                all.iter()
                    .filter(|one| !late(one.first_token_s) && !slow(one.per_token_s))
                    .count(),
            ),
            late: share(all.iter().filter(|one| late(one.first_token_s)).count()),
            slow: share(all.iter().filter(|one| slow(one.per_token_s)).count()),
            failed,
            lag,
        }
    }
}

fn quantiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    QUANTILES.map(|q| quantile(&values, q))
}

impl fmt::Display for Run {
    /// A row of the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} |", self.router)?;
        let seen = match &self.seen {
            Ok(seen) => seen,
            Err(why) => return write!(f, " {why} | | | | | |"),
        };
        let [first, gap] = [seen.first_token_s, seen.gap_s];
        let failed: Vec<String> = seen
            .failed
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        write!(
            f,
            " {:.3} / {:.2} / {:.2} | {:.0} / {:.0} / {:.0} | **{:.2}** | {:.2} | {:.2} | {} |",
            first[0],
            first[1],
            first[2],
            1e3 * gap[0],
            1e3 * gap[1],
            1e3 * gap[2],
            100.0 * seen.goodput,
            100.0 * seen.late,
            100.0 * seen.slow,
            failed.join(", "),
        )
    }
}

pub(super) struct Report {
    machine: Machine,
    command: String,
    missing: Vec<Missing>,
    busy: f64,
    pub(super) runs: Vec<Run>,
}

impl Report {
    pub(super) fn new(machine: Machine, command: String, missing: Vec<Missing>) -> Self {
        Self {
            machine,
            command,
            missing,
            busy: 0.0,
            runs: Vec::new(),
        }
    }

    pub(super) fn ended(&mut self, busy: f64) {
        self.busy = busy;
        self.machine.ended();
    }

    pub(super) fn document(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        writeln!(
            text,
            "# Choosing workers, beside other routers\n\n{}\
             `tidegate {}`. Real routers before nine stand-in workers (`fake-worker`) with the laws of 1 H100, 2 A100 and 6 RTX 4090 \
             that serve an 8B model, all on the very same requests, from five minutes of each trace, played at a share of what the fleet can do with \
             requests of mean size. *{}* has what an operator knows of each kind of machine (speed, cache, price); without it the \
             gateway learns the speeds from its own traffic, as do none of the others but by load. Prompts share no beginnings, so that \
             policies which look for them find nothing. Lengths of answers are told to the engines alone.\n\n\
             Goodput: first token within {FIRST_TOKEN_AIM_S:.0} s and at most {:.0} ms a token; late is a first token after that, slow a mean token \
             above it; a request that failed is late. Times are the machines' own.\n\n\
             {} CPUs of {}, busy to {:.0} %, whoever with; load average {:.1} before and {:.1} after.\n\n```\n{}\n```\n",
            self.machine.caution(),
            env!("CARGO_PKG_VERSION"),
            super::TOLD,
            1e3 * PER_TOKEN_AIM_S,
            self.machine.cpus,
            self.machine.processor,
            100.0 * self.busy,
            self.machine.load_before,
            self.machine.load_after,
            self.command,
        )?;
        let mut title = None;
        for run in &self.runs {
            if title.replace((run.trace, run.load)) != Some((run.trace, run.load)) {
                writeln!(
                    text,
                    "\n## {}, {} % load, {} requests\n\n\
                     | router, policy | first token p50 / p95 / p99, s | gap p50 / p95 / p99, ms | goodput, % | late, % | slow, % | failed |\n\
                     |---|---|---|---|---|---|---|",
                    run.trace, run.load, run.requests
                )?;
            }
            writeln!(text, "{run}")?;
        }
        let lags = self
            .runs
            .iter()
            .filter_map(|run| run.seen.as_ref().ok()?.lag);
        let worst = lags.map(|lag| lag.p99_ms).fold(0.0, f64::max);
        writeln!(
            text,
            "\nThe client's own delay in sending was at most {worst:.0} ms (p99 of a run, in real time)."
        )?;
        let slowest = self.runs.iter().map(|run| run.slower).fold(0.0, f64::max);
        writeln!(
            text,
            "Everything takes up to {slowest} times as long as on the machines (longest for LiteLLM, whose own speed would be measured else)."
        )?;
        for missing in &self.missing {
            writeln!(text, "\n{}: not measured: {}", missing.name, missing.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::outcome::Failure;

    fn outcome(first_ms: u64, gap_ms: u64) -> Outcome {
        Outcome {
            first_token: Some(Duration::from_millis(first_ms)),
            gaps: vec![Duration::from_millis(gap_ms); 4],
            output_tokens: 5,
            ..Outcome::default()
        }
    }

    #[test]
    fn figures_are_in_the_machines_time_and_failures_are_late() {
        let failed = Outcome {
            failure: Some(Failure::new("status 503", "full")),
            ..outcome(100, 10)
        };
        let outcomes = [
            outcome(4_400, 40),
            outcome(1_000, 40),
            outcome(400, 220),
            failed,
        ];
        let seen = Seen::of(&outcomes, None, 2.0);
        assert_eq!((seen.goodput, seen.late, seen.slow), (0.25, 0.5, 0.25));
        assert_eq!(seen.first_token_s[2], f64::INFINITY);
        assert_eq!(seen.gap_s[0], 0.02);
        assert_eq!(seen.failed["status 503"], 1);
    }
}
