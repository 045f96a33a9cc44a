//! Reading a map of settings key by key; mistakes are collected, not stopped at.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::mistakes::Mistake;
use super::tree::{Key, Kind, Node};

/// What reading one file needs: its name, the environment, and the list of mistakes so far.
pub(super) struct Reader<'a> {
    pub(super) file: &'a str,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) mistakes: &'a RefCell<Vec<Mistake>>,
}

impl<'a> Reader<'a> {
    pub(super) fn mistake(
        &self,
        line: u64,
        column: u64,
        what: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.mistakes.borrow_mut().push(Mistake {
            file: self.file.to_owned(),
            line,
            column,
            what: what.into(),
            expected: expected.into(),
        });
    }

    pub(super) fn mistake_at(
        &self,
        node: &Node,
        what: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.mistake(node.line, node.column, what, expected);
    }

    /// A map's keys; anything else is a mistake. `None` and an empty document are an empty map.
    pub(super) fn section<'n>(&'n self, node: &'n Node, of: &'n str) -> Section<'n, 'a> {
        let entries: &[(Key, Node)] = match &node.kind {
            Kind::Map(entries) => entries,
            Kind::Null => &[],
            other => {
                self.mistake_at(
                    node,
                    format!("{of} is {}", other.what()),
                    "a map of settings",
                );
                &[]
            }
        };
        self.refuse_repeated(entries);
        Section {
            reader: self,
            node,
            entries,
            known: RefCell::default(),
            silent: Cell::new(!matches!(node.kind, Kind::Map(_) | Kind::Null)),
        }
    }

    fn refuse_repeated(&self, entries: &[(Key, Node)]) {
        for (n, (key, _)) in entries.iter().enumerate() {
            let before = entries
                .iter()
                .take(n)
                .find(|(other, _)| other.name == key.name);
            if let Some((first, _)) = before {
                let what = format!("{} is set twice, first in line {}", key.name, first.line);
                self.mistake(key.line, key.column, what, "each key once");
            }
        }
    }

    /// Text with its `${NAME}`s filled in from the environment.
    pub(super) fn fill_in(&self, node: &Node, text: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut complete = true;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                self.mistake_at(node, "${ without }", "${NAME} for an environment variable");
                return None;
            };
            match (self.env)(name) {
                Some(value) => out.push_str(&value),
                None => {
                    let what = format!("${{{name}}} is not set in the environment");
                    self.mistake_at(node, what, format!("a value for {name}"));
                    complete = false;
                }
            }
            rest = after;
        }
        out.push_str(rest);
        complete.then_some(out)
    }
}

/// A value as it may be shown: what came from the environment only by its name.
pub(super) fn shown(node: &Node) -> String {
    match &node.kind {
        Kind::Text(text) => format!("{text:?}"),
        Kind::Number(number) => number.to_string(),
        Kind::Bool(value) => value.to_string(),
        other => other.what().to_owned(),
    }
}

/// One map of settings. Getters note which keys exist, so that `finish` can name those that do not.
pub(super) struct Section<'n, 'a> {
    pub(super) reader: &'n Reader<'a>,
    pub(super) node: &'n Node,
    entries: &'n [(Key, Node)],
    known: RefCell<Vec<&'static str>>,
    /// Not a map at all: said once, and nothing is missing from it.
    silent: Cell<bool>,
}

impl<'n> Section<'n, '_> {
    pub(super) fn get(&self, key: &'static str) -> Option<&'n Node> {
        self.known.borrow_mut().push(key);
        self.entries
            .iter()
            .find(|(name, node)| name.name == key && !matches!(node.kind, Kind::Null))
            .map(|(_, node)| node)
    }

    pub(super) fn required(&self, key: &'static str, expected: &str) -> Option<&'n Node> {
        let node = self.get(key);
        if node.is_none() && !self.silent.get() {
            self.reader
                .mistake_at(self.node, format!("{key} is missing"), expected);
        }
        node
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        self.get(key)
            .and_then(|node| self.number_of(node, key, &range))
            .unwrap_or(default)
    }

    fn number_of(&self, node: &Node, key: &str, range: &RangeInclusive<f64>) -> Option<f64> {
        let expected = || between(range, "");
        let number = match &node.kind {
            Kind::Number(number) => Some(*number),
            // Only the environment speaks in text where a number is meant.
            Kind::Text(text) if text.contains("${") => {
                let filled = self.reader.fill_in(node, text)?;
                filled.trim().parse().ok()
            }
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            Some(_) => {
                let what = format!("{key} is {}, which is out of range", shown(node));
                self.reader.mistake_at(node, what, expected());
                None
            }
            None => {
                self.wrong_type(node, key, expected());
                None
            }
        }
    }

    pub(super) fn wrong_type(&self, node: &Node, key: &str, expected: impl Into<String>) {
        let what = match &node.kind {
            Kind::Text(_) => format!("{key} is the text {}", shown(node)),
            other => format!("{key} is {}", other.what()),
        };
        self.reader.mistake_at(node, what, expected);
    }

    pub(super) fn count(&self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        self.optional_count(key, range).unwrap_or(default)
    }

    pub(super) fn optional_count(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let node = self.get(key)?;
        let bounds = f64::from(*range.start())..=f64::from(*range.end());
        let number = self.number_of(node, key, &bounds)?;
        if number.fract() != 0.0 {
            let what = format!("{key} is {}", shown(node));
            self.reader
                .mistake_at(node, what, between(&bounds, "a whole number "));
            return None;
        }
        Some(number as u32)
    }

    /// Seconds as a number, or text with a unit: `500ms`, `30s`, `5m`, `2h`.
    pub(super) fn duration(
        &self,
        key: &'static str,
        default_s: f64,
        range_s: RangeInclusive<f64>,
    ) -> Duration {
        let seconds = self
            .get(key)
            .and_then(|node| self.seconds_of(node, key, &range_s))
            .unwrap_or(default_s);
        Duration::from_secs_f64(seconds)
    }

    /// Like `duration`, where a negative number has a meaning of its own.
    pub(super) fn signed_seconds(
        &self,
        key: &'static str,
        default_s: f64,
        range_s: RangeInclusive<f64>,
    ) -> f64 {
        self.get(key)
            .and_then(|node| self.seconds_of(node, key, &range_s))
            .unwrap_or(default_s)
    }

    fn seconds_of(&self, node: &Node, key: &str, range: &RangeInclusive<f64>) -> Option<f64> {
        let Kind::Text(text) = &node.kind else {
            return self.number_of(node, key, range);
        };
        let filled = self.reader.fill_in(node, text)?;
        let expected = format!(
            "{} seconds, or text such as 500ms, 30s, 5m",
            between(range, "")
        );
        match with_unit(
            &filled,
            &[("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)],
        ) {
            Some(seconds) if range.contains(&seconds) => Some(seconds),
            Some(_) => {
                let what = format!("{key} is {}, which is out of range", shown(node));
                self.reader.mistake_at(node, what, expected);
                None
            }
            None => {
                self.wrong_type(node, key, expected);
                None
            }
        }
    }

    /// Bytes as a number, or text with a unit: `16MiB`.
    pub(super) fn bytes(
        &self,
        key: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let Some(node) = self.get(key) else {
            return default;
        };
        let bounds = *range.start() as f64..=*range.end() as f64;
        let expected = format!("{} bytes, or text such as 16MiB", between(&bounds, ""));
        let bytes = match &node.kind {
            Kind::Number(number) => Some(*number),
            Kind::Text(text) => match self.reader.fill_in(node, text) {
                Some(text) => with_unit(
                    &text,
                    &[
                        ("KiB", 1024.0),
                        ("MiB", 1_048_576.0),
                        ("GiB", 1_073_741_824.0),
                        ("B", 1.0),
                    ],
                ),
                None => return default,
            },
            _ => None,
        };
        match bytes {
            Some(bytes) if bounds.contains(&bytes) => bytes as usize,
            Some(_) => {
                let what = format!("{key} is {}, which is out of range", shown(node));
                self.reader.mistake_at(node, what, expected);
                default
            }
            None => {
                self.wrong_type(node, key, expected);
                default
            }
        }
    }

    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        match self.get(key) {
            None => default,
            Some(node) => match node.kind {
                Kind::Bool(value) => value,
                _ => {
                    self.wrong_type(node, key, "true or false");
                    default
                }
            },
        }
    }

    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        let node = self.get(key)?;
        self.text_of(node, key)
    }

    pub(super) fn text_of(&self, node: &Node, key: &str) -> Option<String> {
        match &node.kind {
            Kind::Text(text) => self.reader.fill_in(node, text),
            _ => {
                self.wrong_type(node, key, "text");
                None
            }
        }
    }

    /// Text as it stands, `${NAME}` included.
    pub(super) fn raw_text(&self, key: &'static str) -> Option<String> {
        let node = self.get(key)?;
        match &node.kind {
            Kind::Text(text) => Some(text.clone()),
            _ => {
                self.wrong_type(node, key, "text");
                None
            }
        }
    }

    pub(super) fn list(&self, key: &'static str) -> &'n [Node] {
        match self.get(key) {
            None => &[],
            Some(node) => match &node.kind {
                Kind::List(items) => items,
                _ => {
                    self.wrong_type(node, key, "a list");
                    &[]
                }
            },
        }
    }

    pub(super) fn texts(&self, key: &'static str) -> Vec<String> {
        self.list(key)
            .iter()
            .filter_map(|item| self.text_of(item, key))
            .collect()
    }

    /// A parsed value, or the default where it is missing or wrong.
    pub(super) fn parsed<T: std::str::FromStr>(
        &self,
        key: &'static str,
        default: T,
        expected: &str,
    ) -> T {
        let Some(node) = self.get(key) else {
            return default;
        };
        let Some(text) = self.text_of(node, key) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            let what = format!("{key} is {}", shown(node));
            self.reader.mistake_at(node, what, expected);
            default
        })
    }

    /// Names every key that no getter asked for.
    pub(super) fn finish(self) {
        let known = self.known.into_inner();
        for (key, _) in self.entries {
            if known.contains(&key.name.as_str()) {
                continue;
            }
            let expected = match nearest(&key.name, &known) {
                Some(near) => format!("a known key (did you mean {near}?)"),
                None => {
                    let mut all = known.clone();
                    all.sort_unstable();
                    all.dedup();
                    format!("one of {}", all.join(", "))
                }
            };
            let what = format!("unknown key {}", key.name);
            self.reader.mistake(key.line, key.column, what, expected);
        }
    }
}

fn between(range: &RangeInclusive<f64>, kind: &str) -> String {
    let kind = if kind.is_empty() { "a number " } else { kind };
    if range.end().is_infinite() || *range.end() >= 1e12 {
        format!("{kind}of at least {}", range.start())
    } else {
        format!("{kind}from {} to {}", range.start(), range.end())
    }
}

fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1.0));
    let number: f64 = number.trim().parse().ok()?;
    number.is_finite().then_some(number * factor)
}

fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|key| (distance(name, key), *key))
        .filter(|(distance, _)| *distance <= 1 + name.chars().count() / 4)
        .min()
        .map(|(_, key)| key)
}

/// Levenshtein: insertions, deletions and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
