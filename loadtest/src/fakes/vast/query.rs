//! The server's side of a search: which rows fit the filters, in which order.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// Keys of a search that are no filters.
const OPTIONS: [&str; 8] = [
    "order",
    "type",
    "limit",
    "allocated_storage",
    "disable_bundling",
    "select_cols",
    "api_key",
    "client_id",
];

/// Filters a search has where it says nothing of them.
const DEFAULTS: [(&str, bool); 3] = [("verified", true), ("rentable", true), ("rented", false)];

#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    field: String,
    op: Op,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Eq,
    Neq,
    Gt,
    Gte,
    Lt,
    Lte,
    In,
    NotIn,
}

impl Op {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "eq" => Op::Eq,
            "neq" => Op::Neq,
            "gt" => Op::Gt,
            "gte" => Op::Gte,
            "lt" => Op::Lt,
            "lte" => Op::Lte,
            "in" => Op::In,
            "notin" | "nin" => Op::NotIn,
            _ => return None,
        })
    }
}

/// The filters of a body `{"field": {"op": value}}`; with the server's own where it names none of theirs.
pub fn of_search(body: &Map<String, Value>) -> Result<Vec<Filter>, String> {
    let mut filters = of_fields(
        body.iter()
            .filter(|(name, _)| !OPTIONS.contains(&name.as_str())),
    )?;
    for (field, value) in DEFAULTS {
        if !body.contains_key(field) {
            filters.push(Filter {
                field: field.to_owned(),
                op: Op::Eq,
                value: Value::Bool(value),
            });
        }
    }
    Ok(filters)
}

/// The filters of an object as they stand.
pub fn of_fields<'a>(
    fields: impl Iterator<Item = (&'a String, &'a Value)>,
) -> Result<Vec<Filter>, String> {
    let mut filters = Vec::new();
    for (field, conditions) in fields {
        let conditions = conditions
            .as_object()
            .ok_or_else(|| format!("{field}: no object of conditions"))?;
        for (name, value) in conditions {
            let op = Op::named(name).ok_or_else(|| format!("{field}: unknown operator {name}"))?;
            filters.push(Filter {
                field: field.clone(),
                op,
                value: value.clone(),
            });
        }
    }
    Ok(filters)
}

/// Whether all hold. A field that no row has is an error: it was misspelt.
pub fn fits(row: &Value, filters: &[Filter]) -> Result<bool, String> {
    let mut all = true;
    for filter in filters {
        all &= filter.fits(row)?;
    }
    Ok(all)
}

impl Filter {
    pub fn field(&self) -> &str {
        &self.field
    }

    fn fits(&self, row: &Value) -> Result<bool, String> {
        let actual = field_of(row, &self.field)?;
        // A country is asked for by its code and shown with its place.
        let same = |wanted: &Value| {
            is_same(&actual, wanted) || self.field == "geolocation" && is_country(&actual, wanted)
        };
        let among = |values: &Value| match values {
            Value::Array(values) => values.iter().any(same),
            one => same(one),
        };
        let compares =
            |wanted: fn(Ordering) -> bool| compare(&actual, &self.value).is_some_and(wanted);
        Ok(match self.op {
            Op::Eq => same(&self.value),
            Op::Neq => !same(&self.value),
            Op::Gt => compares(Ordering::is_gt),
            Op::Gte => compares(Ordering::is_ge),
            Op::Lt => compares(Ordering::is_lt),
            Op::Lte => compares(Ordering::is_le),
            Op::In => among(&self.value),
            Op::NotIn => !among(&self.value),
        })
    }
}

/// A column as it is filtered: some are stored under another name than they are shown.
fn field_of(row: &Value, field: &str) -> Result<Value, String> {
    let shown = match field {
        "verified" => return Ok(Value::Bool(row["verification"] == "verified")),
        "datacenter" => return Ok(Value::Bool(row["hosting_type"] == 1)),
        "driver_version" => "driver_vers",
        other => other,
    };
    row.get(shown)
        .cloned()
        .ok_or_else(|| format!("unknown field {field}"))
}

fn is_same(actual: &Value, wanted: &Value) -> bool {
    if let (Some(a), Some(b)) = (number(actual), number(wanted)) {
        return a == b;
    }
    text(actual) == text(wanted)
}

fn is_country(actual: &Value, wanted: &Value) -> bool {
    let code = actual.as_str().and_then(|text| text.rsplit(", ").next());
    code.is_some() && code == wanted.as_str()
}

fn compare(actual: &Value, wanted: &Value) -> Option<Ordering> {
    if let (Some(a), Some(b)) = (number(actual), number(wanted)) {
        return a.partial_cmp(&b);
    }
    Some(actual.as_str()?.cmp(wanted.as_str()?))
}

/// Most numbers of a search travel as text.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_lowercase(),
        other => other.to_string(),
    }
}

/// Sorts by `[["field","asc"], ...]`; a row's place in the market settles ties.
pub fn sort(rows: &mut [Value], order: &Value) -> Result<(), String> {
    let keys = match order {
        Value::Null => Vec::new(),
        Value::Array(keys) => keys.iter().map(sort_key).collect::<Result<_, _>>()?,
        _ => return Err("order: no list".into()),
    };
    for (field, _) in &keys {
        if let Some(row) = rows.first() {
            field_of(row, field)?;
        }
    }
    rows.sort_by(|a, b| {
        let by_key = keys.iter().map(|(field, descending)| {
            let ordering = compare(&a[field.as_str()], &b[field.as_str()]);
            let ordering = ordering.unwrap_or(Ordering::Equal);
            if *descending {
                ordering.reverse()
            } else {
                ordering
            }
        });
        by_key.fold(Ordering::Equal, Ordering::then)
    });
    Ok(())
}

/// `["dph_total","asc"]`, or `{"col":"id","dir":"asc"}` as in listings of instances.
fn sort_key(key: &Value) -> Result<(String, bool), String> {
    let (field, direction) = match key {
        Value::Array(pair) => (pair.first(), pair.get(1)),
        Value::Object(pair) => (pair.get("col"), pair.get("dir")),
        _ => (None, None),
    };
    let field = field.and_then(Value::as_str).ok_or("order: no field")?;
    match direction.and_then(Value::as_str) {
        Some("asc") | None => Ok((field.to_owned(), false)),
        Some("desc") => Ok((field.to_owned(), true)),
        Some(other) => Err(format!("order: unknown direction {other}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(condition: Value, expected: bool) {
        let row = json!({
            "num_gpus": 4, "gpu_name": "RTX 4090", "gpu_ram": 24564, "verification": "verified",
            "geolocation": "Sweden, SE", "driver_version": "535.86.05", "driver_vers": 535086005,
            "rentable": true, "rented": false, "external": false, "machine_id": 12,
        });
        let filters = of_search(condition.as_object().unwrap()).unwrap();
        assert_eq!(fits(&row, &filters), Ok(expected), "{condition}");
    }

    #[test]
    fn filters_are_understood_as_the_command_line_sends_them() {
        check(json!({}), true);
        check(
            json!({"verified": {"eq": true}, "external": {"eq": false}}),
            true,
        );
        check(json!({"verified": {"eq": false}}), false);
        check(json!({"gpu_ram": {"gte": 23000.0}}), true);
        check(json!({"num_gpus": {"eq": "4"}}), true);
        check(json!({"num_gpus": {"gte": "1", "lte": "2"}}), false);
        check(json!({"num_gpus": {"neq": "4"}}), false);
        check(json!({"gpu_name": {"eq": "RTX 4090"}}), true);
        check(json!({"gpu_name": {"in": ["RTX 3090", "RTX 4090"]}}), true);
        check(json!({"geolocation": {"in": ["SE", "US"]}}), true);
        check(json!({"geolocation": {"eq": "US"}}), false);
        check(json!({"driver_version": {"gte": "535086005"}}), true);
        check(json!({"driver_version": {"gt": 535086005}}), false);
        check(json!({"machine_id": {"notin": ["1", "12"]}}), false);
        check(
            json!({"type": "bid", "limit": 3, "order": [["score", "desc"]]}),
            true,
        );
    }

    #[test]
    fn a_field_that_does_not_exist_and_an_unknown_operator_are_refused() {
        let body = json!({"bogus": {"eq": "1"}});
        let filters = of_search(body.as_object().unwrap()).unwrap();
        let row = json!({"verification": "verified", "rentable": true, "rented": false});
        assert_eq!(fits(&row, &filters), Err("unknown field bogus".into()));
        let body = json!({"num_gpus": {"about": 4}});
        assert!(of_search(body.as_object().unwrap()).is_err());
    }

    #[test]
    fn rows_are_sorted_by_several_keys() {
        let mut rows = vec![
            json!({"id": 1, "price": 2.0, "score": 1.0}),
            json!({"id": 2, "price": 1.0, "score": 1.0}),
            json!({"id": 3, "price": 1.0, "score": 5.0}),
        ];
        sort(&mut rows, &json!([["price", "asc"], ["score", "desc"]])).unwrap();
        let ids: Vec<_> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
        assert_eq!(ids, [3, 2, 1]);
        assert!(sort(&mut rows, &json!([["price", "up"]])).is_err());
    }
}
