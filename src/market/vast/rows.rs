//! Reading rows of Vast's answers: numbers may be texts, anything may be null.

use serde_json::Value;

pub(super) fn text<'r>(row: &'r Value, field: &str) -> Option<&'r str> {
    let text = row.get(field)?.as_str()?.trim();
    (!text.is_empty()).then_some(text)
}

pub(super) fn number(row: &Value, field: &str) -> Option<f64> {
    let number = match row.get(field)? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Whole numbers and texts are names alike.
pub(super) fn id(row: &Value, field: &str) -> Option<String> {
    match row.get(field)? {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        _ => None,
    }
}

pub(super) fn flag(row: &Value, field: &str) -> bool {
    row.get(field).and_then(Value::as_bool).unwrap_or(false)
}
