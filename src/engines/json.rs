//! A request body as its top-level fields: scanned once, values kept as raw JSON shared with the body.
//! Edits re-serialise by joining the pieces, so a field changes without the rest being parsed or reordered.

use std::collections::HashSet;
use std::fmt;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// serde_json's own limit, applied here to values that are passed on unread as well.
const DEPTH_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("the body is not valid JSON: {0}")]
    Malformed(String),
    #[error("the body must be a JSON object")]
    NotAnObject,
    #[error("the field `{0}` is given twice")]
    DuplicateField(String),
    #[error("the JSON is nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    #[error("`{field}` is not what it should be: {problem}")]
    WrongType { field: String, problem: String },
}

/// A small body of many fields would take a multiple of its size in memory.
const FIELDS_MAX: usize = 1_000;

/// An object's fields in their order; cloning shares the body.
#[derive(Clone, Debug)]
pub struct JsonObject {
    whole: Bytes,
    fields: Vec<(String, Bytes)>,
    edited: bool,
}

impl Default for JsonObject {
    fn default() -> Self {
        Self {
            whole: Bytes::from_static(b"{}"),
            fields: Vec::new(),
            edited: false,
        }
    }
}

impl JsonObject {
    pub fn parse(body: Bytes) -> Result<Self, JsonError> {
        if first_byte(&body).is_some_and(|byte| byte != b'{') {
            return match serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
                Ok(_) => Err(JsonError::NotAnObject),
                Err(error) => Err(JsonError::Malformed(error.to_string())),
            };
        }
        let RawFields(raw) = serde_json::from_slice(&body)
            .map_err(|error| JsonError::Malformed(error.to_string()))?;
        let mut seen = HashSet::with_capacity(raw.len());
        if let Some((twice, _)) = raw.iter().find(|(name, _)| !seen.insert(name.as_str())) {
            return Err(JsonError::DuplicateField(twice.clone()));
        }
        drop(seen);
        if raw
            .iter()
            .any(|(_, value)| depth(value.get().as_bytes()) >= DEPTH_MAX)
        {
            return Err(JsonError::TooDeep);
        }
        let fields = raw
            .into_iter()
            .map(|(name, value)| (name, body.slice_ref(value.get().as_bytes())))
            .collect();
        Ok(Self {
            whole: body,
            fields,
            edited: false,
        })
    }

    /// The value's JSON text; `None` if the field is absent or null.
    pub fn raw(&self, name: &str) -> Option<&Bytes> {
        self.field(name).filter(|value| value.as_ref() != b"null")
    }

    /// `None` if the field is absent or null.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JsonError> {
        let Some(value) = self.raw(name) else {
            return Ok(None);
        };
        serde_json::from_slice(value)
            .map(Some)
            .map_err(|error| JsonError::WrongType {
                field: name.to_owned(),
                problem: error.to_string(),
            })
    }

    /// Present, null included.
    pub fn has(&self, name: &str) -> bool {
        self.field(name).is_some()
    }

    /// Replaces the value in its place, or appends the field.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.set_raw(name, Bytes::from(value.into().to_string()));
    }

    /// The same with a value that is JSON text already.
    pub fn set_raw(&mut self, name: &str, value: Bytes) {
        self.edited = true;
        match self.fields.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name.to_owned(), value)),
        }
    }

    pub fn remove(&mut self, name: &str) {
        let before = self.fields.len();
        self.fields.retain(|(field, _)| field != name);
        self.edited |= self.fields.len() != before;
    }

    /// The body as it was received if nothing was edited.
    pub fn to_bytes(&self) -> Bytes {
        if !self.edited {
            return self.whole.clone();
        }
        let mut out = BytesMut::with_capacity(self.whole.len() + 64);
        out.extend_from_slice(b"{");
        for (position, (name, value)) in self.fields.iter().enumerate() {
            if position > 0 {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
            out.extend_from_slice(b":");
            out.extend_from_slice(value);
        }
        out.extend_from_slice(b"}");
        out.freeze()
    }

    fn field(&self, name: &str) -> Option<&Bytes> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value)
    }
}

fn first_byte(text: &[u8]) -> Option<u8> {
    text.iter()
        .copied()
        .find(|byte| !byte.is_ascii_whitespace())
}

/// Levels of nesting in valid JSON text.
fn depth(text: &[u8]) -> usize {
    let (mut at, mut open, mut deepest) = (0, 0_usize, 0);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_string(text, at),
            b'[' | b'{' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The position after the closing quote of a string whose content starts at `at`.
fn after_string(text: &[u8], mut at: usize) -> usize {
    while let Some(found) = text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        let quote = text[at + found] == b'"';
        at += found + if quote { 1 } else { 2 };
        if quote {
            return at;
        }
    }
    text.len()
}

/// The fields of one object, duplicates included.
struct RawFields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for RawFields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = RawFields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    if fields.len() == FIELDS_MAX {
                        return Err(serde::de::Error::custom("too many fields"));
                    }
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    fn parse(text: &str) -> Result<JsonObject, JsonError> {
        JsonObject::parse(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn an_unedited_body_is_returned_as_the_very_same_bytes() {
        let body = Bytes::from_static(b" {\"a\" : 1,\n \"b\":[ 1 , 2 ]} ");
        let object = JsonObject::parse(body.clone()).unwrap();
        assert_eq!(object.to_bytes(), body);
        assert_eq!(object.to_bytes().as_ptr(), body.as_ptr());
    }

    #[test]
    fn an_edit_leaves_every_other_field_as_it_was_written() {
        let mut object = parse(r#"{"a": 1.50, "b" : "\u00e9", "c":[ 1 ]}"#).unwrap();
        object.set("b", "new");
        object.set("d", true);
        object.remove("a");
        assert_eq!(object.to_bytes(), r#"{"b":"new","c":[ 1 ],"d":true}"#);
    }

    #[test]
    fn a_null_field_reads_as_absent_but_is_there() {
        let object = parse(r#"{"stream":null}"#).unwrap();
        assert_eq!(object.get::<bool>("stream"), Ok(None));
        assert!(object.has("stream") && !object.has("model"));
    }

    #[test]
    fn bodies_that_are_no_object_are_refused_with_the_reason() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "not valid JSON");
        check("{\"a\":", "not valid JSON");
        check("{\"a\":1}x", "not valid JSON");
        check("[1]", "must be a JSON object");
        check("nul", "not valid JSON");
        check(r#"{"a":1,"\u0061":2}"#, "`a` is given twice");
    }

    #[test]
    fn nesting_is_bounded_also_where_nobody_reads_it() {
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nested(120)).is_ok());
        assert_eq!(parse(&nested(200)).unwrap_err(), JsonError::TooDeep);
        assert_eq!(parse(&nested(200_000)).unwrap_err(), JsonError::TooDeep);
        assert!(parse(r#"{"a":"[[[[\"[[["}"#).is_ok());
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn edits_are_those_of_a_parsed_value(
            fields in prop::collection::btree_map(".{0,3}", json_value(), 0..6),
            name in ".{0,3}",
            value in json_value(),
            removed in ".{0,3}",
        ) {
            let mut expected: Map<String, Value> = fields.into_iter().collect();
            let text = Value::Object(expected.clone()).to_string();
            let mut object = parse(&text).unwrap();
            object.remove(&removed);
            object.set(&name, value.clone());
            expected.remove(&removed);
            expected.insert(name, value);
            let edited: Value = serde_json::from_slice(&object.to_bytes()).unwrap();
            prop_assert_eq!(edited, Value::Object(expected));
        }

        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = JsonObject::parse(Bytes::from(body));
        }

        #[test]
        fn depth_is_that_of_the_value(value in json_value()) {
            fn levels(value: &Value) -> usize {
                match value {
                    Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
                    Value::Object(map) => 1 + map.values().map(levels).max().unwrap_or(0),
                    _ => 0,
                }
            }
            let text = json!(value).to_string();
            prop_assert_eq!(depth(text.as_bytes()), levels(&value));
        }
    }
}
