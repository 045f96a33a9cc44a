//! YAML as a tree that remembers where everything stood.

use std::fmt;
use std::ops::Range;

use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Budget, DuplicateKeyPolicy, Location, Options, Spanned, UserMessageFormatter};

/// Far more than any setting needs; the reader recurses, and its stack is finite.
const DEPTH_MAX: usize = 24;

/// A value and the place of its first character, counted from 1.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) line: u64,
    pub(super) column: u64,
    /// Where in the file the value is written out; an alias stands elsewhere.
    bytes: Range<usize>,
}

/// Stands for what a file leaves out.
pub(super) static NOTHING: Node = Node {
    kind: Kind::Null,
    line: 1,
    column: 1,
    bytes: 0..0,
};

impl Node {
    /// The characters of a scalar in its file: `1.10` is more than the number 1.1.
    pub(super) fn written<'t>(&self, file_text: &'t str) -> &'t str {
        file_text.get(self.bytes.clone()).unwrap_or_default().trim()
    }

    /// The same untrimmed, quotes included, and the byte where it begins.
    pub(super) fn raw<'t>(&self, file_text: &'t str) -> Option<(usize, &'t str)> {
        Some((self.bytes.start, file_text.get(self.bytes.clone())?))
    }

    /// Takes anything from the environment, directly or further down.
    pub(super) fn names_environment(&self) -> bool {
        match &self.kind {
            Kind::Text(text) => text.contains("${"),
            Kind::List(items) => items.iter().any(Node::names_environment),
            Kind::Map(entries) => entries.iter().any(|(_, value)| value.names_environment()),
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    /// In order, repeated keys included.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) line: u64,
    pub(super) column: u64,
}

impl Kind {
    /// For messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }
}

/// Text that is no YAML: what is wrong, and where if known.
pub(super) struct SyntaxError {
    pub(super) message: String,
    pub(super) line: u64,
    pub(super) column: u64,
}

pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let root: Result<Option<Spanned<Kind>>, _> =
        serde_saphyr::from_str_with_options(text, options());
    match root {
        Ok(Some(root)) => Ok(node(root)),
        // An empty file holds no settings.
        Ok(None) => Ok(NOTHING.clone()),
        Err(error) => Err(syntax_error(&error)),
    }
}

/// Anything that is no configuration of the gateway, such as a pretended market.
pub(super) fn parse_as<T: DeserializeOwned>(text: &str) -> Result<T, SyntaxError> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| syntax_error(&error))
}

fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    let place = error.location().unwrap_or(Location::UNKNOWN);
    let message = error.render_with_formatter(&UserMessageFormatter);
    SyntaxError {
        message: without_place(&message).to_owned(),
        line: place.line().max(1),
        column: place.column().max(1),
    }
}

fn options() -> Options {
    let mut budget = Budget::default();
    budget.max_depth = DEPTH_MAX;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.with_snippet = false;
    // A group may be named y or no; a port is not octal.
    options.strict_booleans = true;
    options.leading_zero_numbers_as_strings = true;
    options.underscored_numbers_as_strings = true;
    options.reject_unsupported_tags = true;
    // Out of every range, and said so with the key.
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    options
}

/// The first line, without the place that `Mistake` tells already and without the library's own terms.
fn without_place(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default();
    let line = line.split_once(" at line ").map_or(line, |(what, _)| what);
    line.split_once(": limits ").map_or(line, |(what, _)| what)
}

fn node(spanned: Spanned<Kind>) -> Node {
    let span = spanned.defined.span();
    let offset = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let start = offset(span.byte_offset());
    Node {
        line: spanned.referenced.line().max(1),
        column: spanned.referenced.column().max(1),
        bytes: start..start.saturating_add(offset(span.byte_len())),
        kind: spanned.value,
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Kind>>()? {
            list.push(node(item));
        }
        Ok(Kind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Kind, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<Kind>>()? {
            let key = node(key);
            let name = match key.kind {
                Kind::Text(name) => name,
                Kind::Number(number) => number.to_string(),
                Kind::Bool(value) => value.to_string(),
                other => {
                    return Err(A::Error::custom(format!(
                        "a key is text, not {}",
                        other.what()
                    )));
                }
            };
            let value = node(entries.next_value::<Spanned<Kind>>()?);
            map.push((
                Key {
                    name,
                    line: key.line,
                    column: key.column,
                },
                value,
            ));
        }
        Ok(Kind::Map(map))
    }
}
