//! Listing instances and changing them.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::Call;
use super::answer::Answer;
use crate::fakes::vast::accounts::Caller;
use crate::fakes::vast::clock::At;
use crate::fakes::vast::instance::Instance;
use crate::fakes::vast::logs;
use crate::fakes::vast::query;
use crate::fakes::vast::row::{FILTERED, row};
use crate::fakes::vast::world::{Refusal, World};

const PAGE_MAX: usize = 25;

/// All rows of the caller, in order of their ids.
fn rows(world: &World, now: At, caller: Caller) -> Vec<Value> {
    let instances = world.instances.values();
    let own = instances.filter(|instance| world.own(caller, instance.id).is_ok());
    own.map(|instance| row_of(world, instance, now)).collect()
}

fn row_of(world: &World, instance: &Instance, now: At) -> Value {
    let min_bid = world.market.machines[instance.machine].min_bid;
    row(instance, min_bid, &world.clock, now)
}

/// The old list, all at once.
pub fn all(world: &World, now: At, caller: Caller) -> Result<Answer, Refusal> {
    if !world.settings.old_list {
        return Err(Refusal::Deprecated);
    }
    Ok(Answer::ok(json!({ "instances": rows(world, now, caller) })))
}

/// One page of the list, by `select_filters`, `order_by`, `limit`, `after_token` and `select_cols`.
pub fn page(world: &World, now: At, caller: Caller, call: &Call) -> Result<Answer, Refusal> {
    let mut rows = rows(world, now, caller);
    let total = rows.len();
    let labels = label_counts(&rows);
    let filters = call.json("select_filters")?;
    let filters = filters.as_object().cloned().unwrap_or_default();
    let filters = query::of_fields(filters.iter()).map_err(Refusal::Invalid)?;
    for filter in &filters {
        if !FILTERED.contains(&filter.field()) {
            let field = filter.field();
            return Err(Refusal::Invalid(format!("cannot filter by {field}")));
        }
    }
    // Every field above is in every row.
    rows.retain(|row| query::fits(row, &filters).unwrap_or(false));
    query::sort(&mut rows, &call.json("order_by")?).map_err(Refusal::Invalid)?;
    let found = rows.len();
    let (rows, next) = cut(rows, call)?;
    let columns = call.json("select_cols")?;
    let rows: Vec<Value> = rows.into_iter().map(|row| select(row, &columns)).collect();
    Ok(Answer::ok(json!({
        "success": true, "instances_found": found, "total_instances": total, "label_counts": labels,
        "next_token": next, "instances": rows,
    })))
}

fn label_counts(rows: &[Value]) -> Map<String, Value> {
    let mut counts = Map::new();
    for row in rows {
        if let Some(label) = row["label"].as_str() {
            let count = counts.get(label).and_then(Value::as_u64).unwrap_or(0);
            counts.insert(label.to_owned(), json!(count + 1));
        }
    }
    counts
}

/// The page after the one that `after_token` ended; it names that one's last row, so that rows which go meanwhile
/// shift nothing.
fn cut(rows: Vec<Value>, call: &Call) -> Result<(Vec<Value>, Option<String>), Refusal> {
    let limit = call.query.get("limit").map(|limit| limit.parse());
    let limit: usize = limit
        .unwrap_or(Ok(PAGE_MAX))
        .map_err(|_| Refusal::Invalid("limit".into()))?;
    let limit = limit.clamp(1, PAGE_MAX);
    let begin = match call.query.get("after_token") {
        None => 0,
        Some(token) => {
            let place = token.split_once('.').and_then(|(place, id)| {
                Some((place.parse::<usize>().ok()?, id.parse::<u64>().ok()?))
            });
            let (place, id) = place.ok_or_else(|| Refusal::Invalid("after_token".into()))?;
            let last = rows.iter().position(|row| row["id"] == id);
            last.map_or(place.min(rows.len()), |last| last + 1)
        }
    };
    let end = (begin + limit).min(rows.len());
    let next = (end < rows.len()).then(|| format!("{end}.{}", rows[end - 1]["id"]));
    Ok((rows[begin..end].to_vec(), next))
}

fn select(row: Value, columns: &Value) -> Value {
    let (Some(columns), Value::Object(row)) = (columns.as_array(), &row) else {
        return row;
    };
    if columns.iter().any(|column| column == "*") {
        return Value::Object(row.clone());
    }
    let wanted = row
        .iter()
        .filter(|(name, _)| columns.iter().any(|column| column == *name));
    Value::Object(
        wanted
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    )
}

/// A listing that is not the truth.
pub fn spoilt(mut answer: Answer, rng: &mut Rng) -> Answer {
    let Some(body) = answer.json_mut() else {
        return answer;
    };
    match rng.u8(..5) {
        0 => {
            *body = json!({
                "success": true, "instances_found": 0, "total_instances": 0, "label_counts": {},
                "next_token": null, "instances": [],
            });
        }
        // Truncated: the counts tell.
        1 => {
            if let Some(rows) = body["instances"].as_array_mut() {
                rows.truncate(rows.len() / 2);
            }
            body["next_token"] = Value::Null;
        }
        2 => body["instances"] = json!([]),
        3 => body["total_instances"] = json!(0),
        // 200 with an error inside.
        _ => *body = json!({ "success": false, "error": "deprecated_endpoint", "msg": "" }),
    }
    answer
}

/// An object, or null for what does not exist: under a plural name.
pub fn one(world: &World, now: At, caller: Caller, id: &str) -> Result<Answer, Refusal> {
    let found = number(id).and_then(|id| world.own(caller, id));
    let row = found.map_or(Value::Null, |instance| row_of(world, instance, now));
    Ok(Answer::ok(json!({ "instances": row })))
}

fn number(id: &str) -> Result<u64, Refusal> {
    id.parse().map_err(|_| Refusal::NoSuchInstance)
}

/// `{"state": ...}` or `{"label": ...}`.
pub fn change(
    world: &mut World,
    now: At,
    caller: Caller,
    call: &Call,
    id: &str,
) -> Result<Answer, Refusal> {
    change_one(world, now, caller, &call.body, number(id)?)?;
    Ok(success())
}

pub fn change_many(
    world: &mut World,
    now: At,
    caller: Caller,
    call: &Call,
) -> Result<Answer, Refusal> {
    for id in ids(&call.body["ids"])? {
        change_one(world, now, caller, &call.body, id)?;
    }
    Ok(success())
}

fn change_one(
    world: &mut World,
    now: At,
    caller: Caller,
    body: &Value,
    id: u64,
) -> Result<(), Refusal> {
    world.own(caller, id)?;
    if let Some(label) = body.get("label") {
        world.label(id, label.as_str().map(str::to_owned))?;
    }
    match body["state"].as_str() {
        Some("running") => world.start(now, id),
        Some("stopped") => world.stop(now, id),
        None if body.get("label").is_some() => Ok(()),
        _ => Err(Refusal::Invalid("neither a state nor a label".into())),
    }
}

pub fn destroy(world: &mut World, now: At, caller: Caller, id: &str) -> Result<Answer, Refusal> {
    destroy_one(world, now, caller, number(id)?)?;
    Ok(success())
}

pub fn destroy_many(
    world: &mut World,
    now: At,
    caller: Caller,
    call: &Call,
) -> Result<Answer, Refusal> {
    for id in ids(&call.body["instance_ids"])? {
        destroy_one(world, now, caller, id)?;
    }
    Ok(success())
}

fn destroy_one(world: &mut World, now: At, caller: Caller, id: u64) -> Result<(), Refusal> {
    world.own(caller, id)?;
    let how = match caller {
        Caller::Account(_) => "destroyed",
        Caller::Container { .. } => "destroyed by itself",
    };
    world.destroy(now, id, how)
}

fn ids(value: &Value) -> Result<Vec<u64>, Refusal> {
    let ids = value.as_array().map(|ids| ids.iter().map(Value::as_u64));
    let ids = ids.and_then(|ids| ids.collect::<Option<Vec<_>>>());
    ids.ok_or_else(|| Refusal::Invalid("no list of ids".into()))
}

/// The calls that have a name of their own: `/instances/<action>/<id>/`.
pub fn act(
    world: &mut World,
    now: At,
    caller: Caller,
    call: &Call,
    action: &str,
    id: &str,
) -> Result<Answer, Refusal> {
    let id = number(id)?;
    world.own(caller, id)?;
    match action {
        "reboot" | "recycle" => world.reboot(now, id)?,
        "bid_price" => {
            let price = call.body["price"].as_f64();
            let price = price.ok_or_else(|| Refusal::InvalidPrice("no price".into()))?;
            world.bid(now, id, price)?;
        }
        "request_logs" => return Ok(request_logs(world, call, id)),
        _ => return Ok(Answer::no_such_path()),
    }
    Ok(success())
}

fn request_logs(world: &World, call: &Call, id: u64) -> Answer {
    let token = logs::token(world, id);
    let lines = match &call.body["tail"] {
        Value::String(lines) => lines.parse().ok(),
        lines => lines.as_u64(),
    };
    let lines = lines.map_or(String::new(), |lines| format!("?tail={lines}"));
    let url = format!("http://{}/fake/logs/{token}.log{lines}", call.host);
    Answer::ok(json!({ "success": true, "result_url": url, "msg": "" }))
}

fn success() -> Answer {
    Answer::ok(json!({ "success": true }))
}
