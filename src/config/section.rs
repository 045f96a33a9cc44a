//! Reading a map of settings key by key; mistakes are collected, not stopped at.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use super::mistakes::Mistake;
use super::tree::{Key, Kind, Node};
use super::wording::{BYTE_UNITS, TIME_UNITS, between, nearest, with_unit};

/// What a summary shows instead of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// What reading one file needs: its name and text, the environment, and the list of mistakes so far.
pub(super) struct Reader<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) mistakes: &'a RefCell<Vec<Mistake>>,
    /// What can be run as it is, and is perhaps not meant so.
    pub(super) warnings: &'a RefCell<Vec<Mistake>>,
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

    pub(super) fn warn(&self, line: u64, column: u64, what: impl Into<String>) {
        self.warnings.borrow_mut().push(Mistake {
            file: self.file.to_owned(),
            line,
            column,
            what: what.into(),
            expected: String::new(),
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
            refused: RefCell::default(),
            shown: RefCell::default(),
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

/// A value as its file has it: what comes from the environment appears only by its name.
pub(super) fn as_written(node: &Node) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Bool(value) => (*value).into(),
        Kind::Number(number) => (*number).into(),
        Kind::Text(text) => text.as_str().into(),
        Kind::List(items) => items.iter().map(as_written).collect(),
        Kind::Map(entries) => entries
            .iter()
            .map(|(key, value)| (key.name.clone(), as_written(value)))
            .collect(),
    }
}

/// The same for a message.
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
    /// Keys that belong elsewhere and were told so.
    refused: RefCell<Vec<&'static str>>,
    /// What was read, for the summary.
    shown: RefCell<Map<String, Value>>,
    /// Not a map at all: said once, and nothing is missing from it.
    silent: Cell<bool>,
}

impl<'n> Section<'n, '_> {
    pub(super) fn get(&self, key: &'static str) -> Option<&'n Node> {
        self.known.borrow_mut().push(key);
        self.find(key)
    }

    fn find(&self, key: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(name, node)| name.name == key && !matches!(node.kind, Kind::Null))
            .map(|(_, node)| node)
    }

    /// Puts a setting into the summary: its value, or what is written where the environment has a say.
    pub(super) fn note(&self, key: &'static str, value: impl Into<Value>) {
        let value = match self.find(key) {
            Some(node) if node.names_environment() => as_written(node),
            _ => value.into(),
        };
        self.show(key, value);
    }

    /// Puts a value into the summary that is fit to be seen.
    pub(super) fn show(&self, key: &str, value: impl Into<Value>) {
        self.shown.borrow_mut().insert(key.to_owned(), value.into());
    }

    /// A key that has a meaning, but not here.
    pub(super) fn refuse(&self, key: &'static str, what: &str, expected: &str) {
        self.refused.borrow_mut().push(key);
        for (found, _) in self.entries.iter().filter(|(found, _)| found.name == key) {
            self.reader
                .mistake(found.line, found.column, format!("{key} {what}"), expected);
        }
    }

    pub(super) fn required(&self, key: &'static str, expected: &str) -> Option<&'n Node> {
        let node = self.get(key);
        if node.is_none() && !self.silent.get() {
            self.reader
                .mistake_at(self.node, format!("{key} is missing"), expected);
        }
        node
    }

    /// In the order of the file, repeated and empty ones included.
    pub(super) fn entries(&self) -> &'n [(Key, Node)] {
        self.entries
    }

    /// A number without a default.
    pub(super) fn find_number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let number = self
            .get(key)
            .and_then(|node| self.number_of(node, key, &range));
        self.note(key, number);
        number
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let number = self
            .get(key)
            .and_then(|node| self.number_of(node, key, &range))
            .unwrap_or(default);
        self.note(key, number);
        number
    }

    /// A number or the word `auto`, which is `None`.
    pub(super) fn number_or_auto(
        &self,
        key: &'static str,
        default: Option<f64>,
        range: RangeInclusive<f64>,
    ) -> Option<f64> {
        let node = self.get(key);
        let is_auto = |node: &Node| matches!(&node.kind, Kind::Text(text) if text == "auto");
        let number = match node {
            None => default,
            Some(node) if is_auto(node) => None,
            Some(node) => self.number_of(node, key, &range).or(default),
        };
        match number {
            Some(number) => self.note(key, number),
            None => self.note(key, "auto"),
        }
        number
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

    /// `None` where it is not set.
    pub(super) fn optional_number(
        &self,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Option<f64> {
        let number = self
            .get(key)
            .and_then(|node| self.number_of(node, key, &range));
        self.note(key, number);
        number
    }

    pub(super) fn wrong_type(&self, node: &Node, key: &str, expected: impl Into<String>) {
        let what = match &node.kind {
            // A secret in the wrong shape is still one.
            Kind::Text(_)
                if ["api_keys", "admin_token", "key", "sha256", "api_key", "env"]
                    .contains(&key) =>
            {
                format!("{key} is text")
            }
            Kind::Text(_) => format!("{key} is the text {}", shown(node)),
            other => format!("{key} is {}", other.what()),
        };
        self.reader.mistake_at(node, what, expected);
    }

    pub(super) fn count(&self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let count = self.optional_count(key, range).unwrap_or(default);
        self.note(key, count);
        count
    }

    pub(super) fn optional_count(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let bounds = f64::from(*range.start())..=f64::from(*range.end());
        let count = self.get(key).and_then(|node| {
            let number = self.number_of(node, key, &bounds)?;
            self.whole(node, key, number, &between(&bounds, "a whole number "))
        });
        self.note(key, count.map(|count| count as u32));
        count.map(|count| count as u32)
    }

    fn whole(&self, node: &Node, key: &str, number: f64, expected: &str) -> Option<u64> {
        if number.fract() == 0.0 {
            return Some(number as u64);
        }
        self.reader
            .mistake_at(node, format!("{key} is {}", shown(node)), expected);
        None
    }

    /// Seconds as a number, or text with a unit: `500ms`, `30s`, `5m`.
    pub(super) fn duration(
        &self,
        key: &'static str,
        default_s: f64,
        range_s: RangeInclusive<f64>,
    ) -> Duration {
        Duration::from_secs_f64(self.signed_seconds(key, default_s, range_s))
    }

    /// Like `duration`, where a negative number has a meaning of its own.
    pub(super) fn signed_seconds(
        &self,
        key: &'static str,
        default_s: f64,
        range_s: RangeInclusive<f64>,
    ) -> f64 {
        let expected = format!(
            "{} seconds, or text such as \"500ms\", \"30s\", \"5m\"",
            between(&range_s, "")
        );
        let seconds = self
            .get(key)
            .and_then(|node| self.quantity_of(node, key, TIME_UNITS, &range_s, &expected))
            .unwrap_or(default_s);
        self.note(key, seconds);
        seconds
    }

    /// Bytes as a number, or text with a unit: `16MiB`.
    pub(super) fn bytes(
        &self,
        key: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let bounds = *range.start() as f64..=*range.end() as f64;
        let expected = format!("{} bytes, or text such as 16MiB", between(&bounds, ""));
        let bytes = self.get(key).and_then(|node| {
            let bytes = self.quantity_of(node, key, BYTE_UNITS, &bounds, &expected)?;
            self.whole(node, key, bytes, &expected)
        });
        let bytes = bytes.map_or(default, |bytes| bytes as usize);
        self.note(key, bytes);
        bytes
    }

    /// A number, or text with a unit. Text from the environment may be a number alone.
    fn quantity_of(
        &self,
        node: &Node,
        key: &str,
        units: &[(&str, f64)],
        range: &RangeInclusive<f64>,
        expected: &str,
    ) -> Option<f64> {
        let quantity = match &node.kind {
            Kind::Number(number) => Some(*number),
            Kind::Text(text) => {
                let filled = self.reader.fill_in(node, text)?;
                let bare = filled.trim().parse().ok().filter(|_| text.contains("${"));
                with_unit(&filled, units).or(bare)
            }
            _ => None,
        };
        match quantity {
            Some(quantity) if range.contains(&quantity) => Some(quantity),
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

    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        let flag = self.get(key).and_then(|node| {
            let flag = match &node.kind {
                Kind::Bool(flag) => Some(*flag),
                Kind::Text(text) if text.contains("${") => {
                    self.reader.fill_in(node, text)?.trim().parse().ok()
                }
                _ => None,
            };
            if flag.is_none() {
                self.wrong_type(node, key, "true or false");
            }
            flag
        });
        let flag = flag.unwrap_or(default);
        self.note(key, flag);
        flag
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy + PartialEq>(
        &self,
        key: &'static str,
        words: &[(&'static str, T)],
        default: T,
    ) -> T {
        let found = self.get(key).and_then(|node| {
            let text = self.text_of(node, key)?;
            let found = words.iter().find(|(word, _)| *word == text);
            if found.is_none() {
                let expected: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                let what = format!("{key} is {}", shown(node));
                self.reader.mistake_at(node, what, expected.join(", "));
            }
            found.map(|(_, value)| *value)
        });
        let value = found.unwrap_or(default);
        let word = words.iter().find(|(_, other)| *other == value);
        self.note(key, word.map(|(word, _)| *word));
        value
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

    /// Text where a number or true and false are meant as they are written.
    pub(super) fn word_of(&self, node: &Node, key: &str) -> Option<String> {
        match &node.kind {
            Kind::Number(_) | Kind::Bool(_) => Some(node.written(self.reader.text).to_owned()),
            _ => self.text_of(node, key),
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

    /// A list that must not be empty. Each way to get it wrong is one mistake.
    pub(super) fn required_list(&self, key: &'static str, expected: &str) -> &'n [Node] {
        let Some(node) = self.required(key, expected) else {
            return &[];
        };
        let items = self.list(key);
        if matches!(&node.kind, Kind::List(items) if items.is_empty()) {
            self.reader
                .mistake_at(node, format!("{key} is empty"), expected);
        }
        items
    }

    /// A parsed value, or the default where it is missing or wrong.
    pub(super) fn parsed<T: std::str::FromStr + std::fmt::Display>(
        &self,
        key: &'static str,
        default: T,
        expected: &str,
    ) -> T {
        let value = self.get(key).and_then(|node| {
            let value = self.text_of(node, key)?.parse().ok();
            if value.is_none() {
                let what = format!("{key} is {}", shown(node));
                self.reader.mistake_at(node, what, expected);
            }
            value
        });
        let value = value.unwrap_or(default);
        self.note(key, value.to_string());
        value
    }

    /// Names every key that no getter asked for, and gives the summary of the others.
    pub(super) fn finish(self) -> Value {
        let mut known = self.known.into_inner();
        known.sort_unstable();
        known.dedup();
        let refused = self.refused.into_inner();
        for (key, _) in self.entries {
            let name = key.name.as_str();
            if known.contains(&name) || refused.contains(&name) {
                continue;
            }
            let expected = match nearest(name, &known) {
                Some(near) => format!("a known key (did you mean {near}?)"),
                None => format!("one of {}", known.join(", ")),
            };
            let what = format!("unknown key {name}");
            self.reader.mistake(key.line, key.column, what, expected);
        }
        Value::Object(self.shown.into_inner())
    }
}
