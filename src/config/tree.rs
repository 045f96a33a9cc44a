//! YAML as a tree that remembers where everything stood.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

/// A value and the place of its first character, counted from 1.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) line: u64,
    pub(super) column: u64,
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
    let mut options = serde_saphyr::Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.with_snippet = false;
    let root: Result<Option<Spanned<Kind>>, _> = serde_saphyr::from_str_with_options(text, options);
    match root {
        Ok(Some(root)) => Ok(node(root)),
        // An empty file holds no settings.
        Ok(None) => Ok(Node {
            kind: Kind::Null,
            line: 1,
            column: 1,
        }),
        Err(error) => {
            let place = error.location().unwrap_or(Location::UNKNOWN);
            Err(SyntaxError {
                message: first_line(&error.to_string()),
                line: place.line().max(1),
                column: place.column().max(1),
            })
        }
    }
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

fn node(spanned: Spanned<Kind>) -> Node {
    Node {
        line: spanned.referenced.line().max(1),
        column: spanned.referenced.column().max(1),
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
