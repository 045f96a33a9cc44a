//! What became of the real model's disturbed streams.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::{Case, RealOptions};
use crate::soak::report::{Section, Times};
use crate::soak::told::Told;

#[derive(Default)]
pub struct Findings {
    options: RealOptions,
    tallies: BTreeMap<(&'static str, &'static str), Tally>,
    differences: Vec<String>,
    flaws: Vec<String>,
    leavers: Times,
    pub took: Duration,
}

#[derive(Default)]
struct Tally {
    asked: usize,
    struck: usize,
    whole: usize,
    equal: usize,
    gaps: Times,
}

impl Findings {
    pub fn new(options: &RealOptions) -> Self {
        Self {
            options: options.clone(),
            ..Self::default()
        }
    }

    pub(super) fn take(
        &mut self,
        case: &Case,
        told: &Told,
        struck: bool,
        difference: Option<String>,
    ) {
        let flaws = told.flaws(case.route);
        let tally = self
            .tallies
            .entry((case.route.path(), case.way.name()))
            .or_default();
        tally.asked += 1;
        tally.struck += usize::from(struck);
        tally.whole += usize::from(flaws.is_empty());
        tally.equal += usize::from(flaws.is_empty() && difference.is_none());
        if struck {
            tally.gaps.add(told.longest_gap());
        }
        let name = format!(
            "{} {:?}, {} tokens, {} after event {}",
            case.route.path(),
            case.prompt,
            case.tokens,
            case.way.name(),
            case.after
        );
        if !flaws.is_empty() {
            self.flaws.push(format!("{name}: {}", flaws.join("; ")));
        } else if let Some(difference) = difference {
            self.differences.push(format!("{name}: {difference}"));
        }
    }

    pub(super) fn leaver(&mut self, freed_after: Duration) {
        if freed_after > Duration::from_secs(1) {
            self.flaws.push(format!(
                "an engine worked {freed_after:?} for a client that had left"
            ));
        }
        self.leavers.add(freed_after);
    }

    fn total(&self, count: fn(&Tally) -> usize) -> usize {
        self.tallies.values().map(count).sum()
    }

    pub fn struck(&self) -> usize {
        self.total(|tally| tally.struck)
    }

    pub fn section(&self) -> Section {
        let asked = self.total(|tally| tally.asked);
        let (struck, whole, equal) = (
            self.struck(),
            self.total(|tally| tally.whole),
            self.total(|tally| tally.equal),
        );
        let mut text = format!(
            "{asked} streams of up to {} tokens, greedy, over three llama.cpp servers with SmolLM2-135M (`workers/engines/llamacpp/`), \
             one stream at a time so that no other sequence changes the arithmetic of a batch. {struck} lost their worker \
             before their end. **{whole} of {asked} were one whole stream; {equal} ({:.1} %) equal the undisturbed text byte for byte.** {:.0} s.\n\n\
             | route | what happened to the worker | streams | lost their worker | whole | equal | longest gap, ms, p50 / p99 / max |\n\
             |---|---|---|---|---|---|---|\n",
            self.options.tokens,
            100.0 * equal as f64 / asked.max(1) as f64,
            self.took.as_secs_f64(),
        );
        for ((route, way), tally) in &self.tallies {
            let Tally {
                asked,
                struck,
                whole,
                equal,
                gaps,
            } = tally;
            let _ = writeln!(
                text,
                "| {route} | {way} | {asked} | {struck} | {whole} | {equal} | {gaps} |"
            );
        }
        if !self.differences.is_empty() {
            text.push_str("\nWhat differs, and why:\n\n");
            for difference in &self.differences {
                let _ = writeln!(text, "- {difference}");
            }
        }
        let _ = writeln!(
            text,
            "\n{} clients left their stream; the engines' own gauges (`requests_processing`) were at 0 after, ms, p50 / p99 / max: {}. \
             Nothing stayed in flight.",
            self.leavers.count(),
            self.leavers,
        );
        Section {
            title: "The seam, a real model".to_owned(),
            command: format!(
                "loadtest soak real --count {} --seed {} --leavers {} --tokens {}",
                self.options.count, self.options.seed, self.options.leavers, self.options.tokens
            ),
            text,
            complaints: self.flaws.clone(),
        }
    }
}
