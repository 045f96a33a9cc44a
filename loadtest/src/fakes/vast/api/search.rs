//! Searching offers.

use serde_json::{Value, json};

use super::answer::Answer;
use crate::fakes::vast::classes::CLASSES;
use crate::fakes::vast::clock::At;
use crate::fakes::vast::offers::{Dates, Terms, row};
use crate::fakes::vast::query::{fits, of_search, sort};
use crate::fakes::vast::record::Search;
use crate::fakes::vast::world::{Refusal, World};

const DISK_GB: f64 = 5.0;

pub fn search(world: &mut World, now: At, query: &Value) -> Result<Answer, Refusal> {
    let offers = found(world, now, query)?;
    world.record.searched(Search {
        at_s: now.seconds(),
        body: query.clone(),
        offers: offers.iter().map(|offer| offer["id"].clone()).collect(),
    });
    Ok(Answer::ok(json!({ "offers": offers })))
}

/// The rows that fit a query, in its order.
pub fn found(world: &World, now: At, query: &Value) -> Result<Vec<Value>, Refusal> {
    let body = query
        .as_object()
        .ok_or_else(|| Refusal::Invalid("the query is no object".into()))?;
    let terms = Terms {
        bid: is_bid(&query["type"])?,
        storage_gb: query["allocated_storage"].as_f64().unwrap_or(DISK_GB),
    };
    let dates = Dates {
        market_s: world.market_s(now),
        epoch_s: world.clock.epoch_s(now),
        speed: world.settings.speed,
    };
    let filters = of_search(body).map_err(Refusal::Invalid)?;
    let mut rows = Vec::new();
    for machine in &world.market.machines {
        let row = row(machine, terms, dates);
        if fits(&row, &filters).map_err(Refusal::Invalid)? && machine.is_listed() {
            rows.push(row);
        }
    }
    sort(&mut rows, &query["order"]).map_err(Refusal::Invalid)?;
    if let Some(limit) = query["limit"].as_u64() {
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    Ok(rows)
}

fn is_bid(kind: &Value) -> Result<bool, Refusal> {
    match kind.as_str() {
        None | Some("on-demand" | "ondemand" | "reserved") => Ok(false),
        Some("bid" | "interruptible") => Ok(true),
        Some(other) => Err(Refusal::Invalid(format!("unknown type {other}"))),
    }
}

pub fn gpu_names() -> Answer {
    let names: Vec<&str> = CLASSES.iter().map(|class| class.gpu_name).collect();
    Answer::ok(json!({ "gpu_names": names }))
}
