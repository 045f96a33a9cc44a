//! What became of the disturbed streams.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::SeamOptions;
use super::cases::Case;
use crate::soak::report::{Section, Times};
use crate::soak::told::{Match, Told};

/// Differences written out; the rest is only counted.
const SHOWN: usize = 20;

pub struct Played {
    pub case: Case,
    /// How many of its faults struck.
    pub struck: usize,
    pub undisturbed: Told,
    pub told: Told,
    pub took: Duration,
}

#[derive(Default)]
pub struct Findings {
    options: Option<SeamOptions>,
    routes: BTreeMap<&'static str, Tally>,
    faults: BTreeMap<&'static str, Tally>,
    twice: usize,
    /// What is wrong, each with its case.
    wrong: Vec<String>,
    /// Streams that nobody can go on with, and what is wrong with their end.
    pub honest: Vec<(String, Option<String>)>,
    pub restarts: usize,
    pub counters: Vec<(String, f64)>,
    pub took: Duration,
}

#[derive(Default)]
struct Tally {
    asked: usize,
    struck: usize,
    whole: usize,
    equal: usize,
    text_equal: usize,
    gaps: Times,
}

impl Findings {
    pub fn new(options: &SeamOptions) -> Self {
        Self {
            options: Some(options.clone()),
            ..Self::default()
        }
    }

    pub fn take(&mut self, played: Played) {
        let route = played.case.route;
        let mut flaws = played.told.flaws(route);
        flaws.extend(played.told.changes("created"));
        let verdict = played.told.compare(&played.undisturbed);
        let kind = played
            .case
            .faults
            .first()
            .map_or("none", |fault| fault.kind);
        self.twice += usize::from(played.struck > 1);
        for tally in [
            self.routes.entry(route.path()).or_default(),
            self.faults.entry(kind).or_default(),
        ] {
            tally.asked += 1;
            tally.struck += usize::from(played.struck > 0);
            tally.whole += usize::from(flaws.is_empty());
            tally.equal += usize::from(verdict == Match::Equal);
            tally.text_equal += usize::from(matches!(verdict, Match::TextOnly(_)));
            if played.struck > 0 && route.is_streamed() {
                tally.gaps.add(played.told.longest_gap());
            }
        }
        if !flaws.is_empty() {
            let text = shorten(&flaws.join("; "), 600);
            self.wrong.push(format!("{}: {text}", named(&played)));
        } else if verdict != Match::Equal {
            self.wrong.push(format!(
                "{}: {}",
                named(&played),
                shorten(&format!("{verdict:?}"), 600)
            ));
        }
    }

    fn total(&self, count: fn(&Tally) -> usize) -> usize {
        self.routes.values().map(count).sum()
    }

    pub fn asked(&self) -> usize {
        self.total(|tally| tally.asked)
    }

    pub fn equal(&self) -> usize {
        self.total(|tally| tally.equal)
    }

    pub fn struck(&self) -> usize {
        self.total(|tally| tally.struck)
    }

    /// Empty when every client got the undisturbed answer, and those who could not were told.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints: Vec<String> = self.wrong.iter().take(SHOWN).cloned().collect();
        if self.wrong.len() > SHOWN {
            complaints.push(format!("and {} more", self.wrong.len() - SHOWN));
        }
        let dishonest = self
            .honest
            .iter()
            .filter_map(|(name, flaw)| flaw.as_ref().map(|flaw| (name, flaw)));
        complaints.extend(dishonest.map(|(name, flaw)| format!("{name}: {flaw}")));
        complaints
    }

    pub fn section(&self) -> Section {
        let options = self.options.clone().unwrap_or_default();
        let mut text = format!(
            "{} streams and answers over {} stand-in workers, {} at once, each with a fault at a random token; \
             {} faults struck a first time, {} a second. Worker processes that ended or froze: {}. {:.0} s.\n\n",
            self.asked(),
            options.workers,
            options.at_once,
            self.struck(),
            self.twice,
            self.restarts,
            self.took.as_secs_f64(),
        );
        table(&mut text, "route", &self.routes);
        table(&mut text, "first fault", &self.faults);
        let told = self
            .honest
            .iter()
            .filter(|(_, flaw)| flaw.is_none())
            .count();
        let _ = writeln!(
            text,
            "Streams that no other worker can go on with (grammar, log probabilities, seeds, tool calls): \
             {told} of {} ended with their interface's error event.\n\nThe gateway's own counts:\n\n```",
            self.honest.len(),
        );
        for (name, value) in &self.counters {
            let _ = writeln!(text, "{name} {value}");
        }
        text.push_str("```\n");
        Section {
            title: "The seam, stand-in workers".to_owned(),
            command: format!(
                "loadtest soak seam --count {} --seed {} --at-once {} --workers {}",
                options.count, options.seed, options.at_once, options.workers
            ),
            text,
            complaints: self.complaints(),
        }
    }
}

fn table(text: &mut String, what: &str, tallies: &BTreeMap<&'static str, Tally>) {
    let _ = writeln!(
        text,
        "| {what} | asked | disturbed | whole | equal to the undisturbed | same text, other events | longest gap, ms, p50 / p99 / max |\n\
         |---|---|---|---|---|---|---|"
    );
    for (name, tally) in tallies {
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} |",
            tally.asked, tally.struck, tally.whole, tally.equal, tally.text_equal, tally.gaps,
        );
    }
    text.push('\n');
}

fn named(played: &Played) -> String {
    let faults: Vec<String> = played
        .case
        .faults
        .iter()
        .map(|fault| fault.to_string())
        .collect();
    let stop = match (
        &played.case.body["stop"],
        &played.case.body["parameters"]["stop"],
    ) {
        (serde_json::Value::Null, serde_json::Value::Null) => String::new(),
        (serde_json::Value::Null, stop) | (stop, _) => format!(", stop {stop}"),
    };
    format!(
        "{} on {} ({}, {} struck{stop}, {:.1} s)",
        played.case.name,
        played.case.route.path(),
        faults.join(" then "),
        played.struck,
        played.took.as_secs_f64(),
    )
}

fn shorten(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}
