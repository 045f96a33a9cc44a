//! What is asked and what goes wrong, drawn from one seed.

use serde_json::{Value, json};

use crate::soak::ask::Route;
use crate::soak::told::Told;

/// Kinds of faults and how often each is drawn. Those that end or stop a whole process disturb everybody on it, so they are rare.
const FAULTS: [(&str, u32); 9] = [
    ("die-mid-stream", 16),
    ("reset", 16),
    ("hang", 10),
    ("close-early", 16),
    ("cut-event", 16),
    ("garbage", 12),
    ("no-final-event", 8),
    ("exit", 3),
    ("freeze", 2),
];

const WORDS: [&str; 12] = [
    "river",
    "stone",
    "naïve",
    "Łódź",
    "море",
    "under",
    "海",
    "bread",
    "🌊",
    "quiet",
    "θάλασσα",
    "turns",
];

/// One request and its faults.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub route: Route,
    /// Without faults.
    pub body: Value,
    /// In the order in which they strike.
    pub faults: Vec<Fault>,
    /// Where a stop sequence is to straddle the seam.
    stop: Option<Stop>,
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: &'static str,
    /// Tokens of the attempt it strikes.
    after: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    /// Two whole words.
    Words,
    /// The end of one word and the beginning of the next.
    WithinWords,
}

impl Case {
    /// Takes a stop sequence from the undisturbed text, on both sides of the first fault. `false`: none is wanted.
    pub fn wants_stop(&mut self, undisturbed: &Told) -> bool {
        let (Some(stop), Some(first)) = (self.stop.take(), self.faults.first()) else {
            return false;
        };
        let words: Vec<String> = words_of(undisturbed);
        let at = first.after as usize;
        let (Some(before), Some(after)) = (words.get(at.wrapping_sub(1)), words.get(at)) else {
            return false;
        };
        let sequence = match stop {
            Stop::Words => format!("{before}{after}"),
            Stop::WithinWords => {
                let end: String = before.chars().skip(before.chars().count() / 2).collect();
                let start: String = after
                    .chars()
                    .take(after.chars().count().div_ceil(2))
                    .collect();
                end + &start
            }
        };
        self.route.with_stop(&mut self.body, &sequence);
        true
    }

    /// The body that makes workers misbehave.
    pub fn disturbed(&self) -> Value {
        let mut body = self.body.clone();
        let faults: Vec<String> = (0..)
            .zip(&self.faults)
            .map(|(nth, fault)| format!("{fault}#{}-{nth}", self.name))
            .collect();
        let user = json!(format!("fault:{}", faults.join(",")));
        if self.route.is_tgi() {
            body["parameters"]["user"] = user;
        } else {
            body["user"] = user;
        }
        body
    }
}

impl std::fmt::Display for Fault {
    /// As the stand-in reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            "no-final-event" => f.write_str(self.kind),
            kind => write!(f, "{kind}={}", self.after),
        }
    }
}

/// The text of each token: the stand-in's words begin with their only space.
fn words_of(told: &Told) -> Vec<String> {
    told.text()
        .split(' ')
        .skip(1)
        .map(|word| format!(" {word}"))
        .collect()
}

/// All chance of a run.
pub struct Dice(fastrand::Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub fn case(&mut self, nth: usize) -> Case {
        let route = Route::ALL[nth % Route::ALL.len()];
        let tokens = self.0.u32(4..=64);
        let prompt = self.prompt();
        let first = self.fault(tokens);
        let mut faults = vec![first];
        if self.0.u32(0..4) == 0 {
            faults.push(self.fault(tokens - first.after));
        }
        let stop = match self.0.u32(0..8) {
            0 => Some(Stop::Words),
            1 => Some(Stop::WithinWords),
            _ => None,
        };
        Case {
            name: format!("case-{nth}"),
            route,
            body: route.body(&prompt, tokens),
            faults,
            stop,
        }
    }

    fn prompt(&mut self) -> String {
        let words = self.0.usize(1..30);
        let words: Vec<&str> = (0..words)
            .map(|_| WORDS[self.0.usize(0..WORDS.len())])
            .collect();
        words.join(" ")
    }

    fn fault(&mut self, tokens: u32) -> Fault {
        let all: u32 = FAULTS.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.0.u32(0..all);
        let kind = FAULTS.iter().find(|(_, weight)| {
            let hit = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            hit
        });
        Fault {
            kind: kind.map_or(FAULTS[0].0, |(kind, _)| kind),
            after: self.0.u32(0..=tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn one_seed_gives_the_same_cases_and_every_kind_of_fault() {
        let cases = |seed| {
            let mut dice = Dice::new(seed);
            (0..500).map(|nth| dice.case(nth)).collect::<Vec<_>>()
        };
        let bodies = |cases: &[Case]| cases.iter().map(Case::disturbed).collect::<Vec<_>>();
        assert_eq!(bodies(&cases(3)), bodies(&cases(3)));
        assert_ne!(bodies(&cases(3)), bodies(&cases(4)));
        let drawn = cases(3);
        let kinds: BTreeSet<_> = drawn
            .iter()
            .flat_map(|case| &case.faults)
            .map(|f| f.kind)
            .collect();
        assert_eq!(kinds.len(), FAULTS.len());
    }

    #[test]
    fn a_stop_sequence_lies_on_both_sides_of_the_first_fault() {
        let mut case = Dice::new(1).case(0);
        case.faults = vec![Fault {
            kind: "reset",
            after: 2,
        }];
        case.stop = Some(Stop::WithinWords);
        let mut told = Told::default();
        told.note(
            r#"{"generated_text":" alpha beta gamma"}"#,
            std::time::Instant::now(),
        );
        assert!(case.wants_stop(&told));
        assert_eq!(case.body["parameters"]["stop"], json!(["eta ga"]));
    }
}
