//! Everything a run has measured, as it is written to JSON; the document is made of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::delays::Quantiles;
use super::figures::Spread;
use super::machine::Machine;
use super::peers::Setup;

#[derive(Debug, Serialize)]
pub(super) struct Findings {
    pub command: String,
    pub seed: u64,
    pub rounds: usize,
    /// Of each measurement.
    pub window_s: f64,
    pub took_s: f64,
    pub machine: Machine,
    pub peers: Vec<Setup>,
    pub missing: Vec<Missing>,
    pub costs: Vec<Cost>,
    pub delays: Vec<Delay>,
    pub memory: Vec<Memory>,
    pub deaths: Vec<Death>,
    pub failed: Vec<Failure>,
}

/// A figure that could not be taken, in how many rounds, and why the last time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    pub peer: String,
    pub what: String,
    pub times: usize,
    pub why: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Missing {
    pub name: String,
    pub reason: String,
}

impl Missing {
    pub fn new(name: &str, reason: &str) -> Self {
        Self {
            name: name.to_owned(),
            reason: in_short(reason),
        }
    }
}

/// An error may bring the end of a log: its first line, and the log's last.
pub(super) fn in_short(reason: &str) -> String {
    let lines: Vec<&str> = reason
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    match lines.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first, .., last] => format!("{first}: {}", last.trim()),
    }
}

/// One window of one load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    pub round: usize,
    pub peer: &'static str,
    pub case: &'static str,
    pub clients: usize,
    pub answers: u64,
    pub tokens: u64,
    pub seconds: f64,
    /// User and system time of the whole tree.
    pub cpu_s: f64,
}

impl Cost {
    /// Microseconds; `None` where no answer ended in the window.
    pub fn per_answer_us(&self) -> Option<f64> {
        (self.answers > 0).then(|| 1e6 * self.cpu_s / self.answers as f64)
    }

    pub fn per_token_us(&self) -> Option<f64> {
        (self.tokens > 0).then(|| 1e6 * self.cpu_s / self.tokens as f64)
    }

    pub fn answers_per_s(&self) -> f64 {
        self.answers as f64 / self.seconds
    }

    /// Share of one CPU.
    pub fn busy(&self) -> f64 {
        self.cpu_s / self.seconds
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |micros: Option<f64>| micros.map_or("-".to_owned(), |us| format!("{us:.1}"));
        write!(
            f,
            "round {}  {:9} {:9}  {:>8} us/request  {:>7} us/token  {:>7.0} requests/s  CPU {:3.0} %",
            self.round + 1,
            self.peer,
            self.case,
            show(self.per_answer_us()),
            show(self.per_token_us()),
            self.answers_per_s(),
            100.0 * self.busy(),
        )
    }
}

/// At half load. Milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Delay {
    pub round: usize,
    pub peer: &'static str,
    pub what: &'static str,
    /// Requests a second, or streams at once.
    pub load: f64,
    /// Share of one CPU.
    pub busy: f64,
    /// From the request to the body's first byte.
    pub first_byte: Quantiles,
    /// Of a token from the worker to the client.
    pub way: Option<Quantiles>,
    /// Between two tokens.
    pub gap: Option<Quantiles>,
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |q: Quantiles| format!("{:.3} / {:.3} / {:.3} ms", q.p50, q.p99, q.p999);
        write!(
            f,
            "round {}  {:9} {}: {:.0}, CPU {:.0} %, first byte {}",
            self.round + 1,
            self.peer,
            self.what,
            self.load,
            100.0 * self.busy,
            show(self.first_byte)
        )?;
        self.way
            .map_or(Ok(()), |way| write!(f, ", token {}", show(way)))
    }
}

/// Resident kilobytes of the whole tree.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Memory {
    pub peer: &'static str,
    pub pace: &'static str,
    pub streams: usize,
    /// Of these, so many could be opened in time.
    pub open: usize,
    pub base_kb: u64,
    pub full_kb: u64,
}

impl Memory {
    pub fn kb_per_stream(&self) -> f64 {
        self.full_kb.saturating_sub(self.base_kb) as f64 / self.open.max(1) as f64
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:9} {} of {} {} streams: {} KB before, {} KB with them, {:.1} KB each",
            self.peer,
            self.open,
            self.streams,
            self.pace,
            self.base_kb,
            self.full_kb,
            self.kb_per_stream()
        )
    }
}

/// What clients see when one of two workers is killed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Death {
    pub peer: &'static str,
    pub streams: usize,
    /// Streams that the killed worker had.
    pub struck: u64,
    /// Streams that came to their end with every token.
    pub whole: usize,
    /// How the others ended, and how many so.
    pub broken: BTreeMap<String, usize>,
    /// Requests after the other worker's death, each after the one before.
    pub asked: usize,
    pub answered: usize,
    pub refused: BTreeMap<String, usize>,
    pub slowest_ms: f64,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:9} {} of {} streams whole, {} were struck: {:?}; then {} of {} answered, the slowest in {:.0} ms: {:?}",
            self.peer,
            self.whole,
            self.streams,
            self.struck,
            self.broken,
            self.answered,
            self.asked,
            self.slowest_ms,
            self.refused
        )
    }
}

impl Findings {
    /// A figure of one peer and case by round.
    pub fn by_round(
        &self,
        peer: &str,
        case: &str,
        figure: fn(&Cost) -> Option<f64>,
    ) -> Vec<(usize, f64)> {
        let of_both = |cost: &&Cost| cost.peer == peer && cost.case == case;
        let costs = self.costs.iter().filter(of_both);
        costs
            .filter_map(|cost| Some((cost.round, figure(cost)?)))
            .collect()
    }

    pub fn spread(
        &self,
        peer: &str,
        case: &str,
        figure: fn(&Cost) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(
            self.by_round(peer, case, figure)
                .into_iter()
                .map(|(_, f)| f),
        )
    }

    pub fn why_failed(&self, peer: &str, what: &str) -> Option<&str> {
        let same = |failure: &&Failure| failure.peer == peer && failure.what == what;
        self.failed
            .iter()
            .find(same)
            .map(|failure| failure.why.as_str())
    }
}
