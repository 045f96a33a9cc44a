//! What the account has left, and what was charged for each instance.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::failure::Failure;
use super::limiter::Kind;
use super::rows;
use super::transport::{Account, Call, Transport};
use crate::domain::{AccountId, Charge, InstanceId, Timestamp, Usd};

const PAGE_ROWS: usize = 100;
const PAGES_MAX: usize = 1_000;
const DAY: Duration = Duration::from_secs(86_400);

/// What an account says of itself.
pub(super) struct User {
    pub(super) id: Option<AccountId>,
    pub(super) credit: Option<Usd>,
}

pub(super) async fn user(
    transport: &Transport,
    account: &Account,
    scale: f64,
) -> Result<User, Failure> {
    let call = Call::new(Kind::Account, Method::GET, "/api/v0/users/current");
    let answer = transport.call(account, &call, scale).await?;
    Ok(User {
        id: rows::id(&answer, "id").map(|id| AccountId::of_user(&id)),
        credit: rows::number(&answer, "credit").map(Usd),
    })
}

/// Days are charged whole: those of `since` and `now` are in it.
pub(super) async fn charges(
    transport: &Transport,
    account: &Account,
    scale: f64,
    since: Timestamp,
    now: Timestamp,
) -> Result<Vec<Charge>, Failure> {
    let seconds = |at: Timestamp| at.as_millis() / 1_000;
    let from = seconds(since) / DAY.as_secs() * DAY.as_secs();
    let days = json!({"gte": from, "lte": seconds(now) + DAY.as_secs()});
    let filters = json!({"day": days, "type": {"in": ["instance"]}}).to_string();
    let mut charges = BTreeMap::new();
    let mut token: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut query = vec![
            ("select_filters", filters.clone()),
            ("latest_first", "false".to_owned()),
            ("limit", PAGE_ROWS.to_string()),
            ("format", "tree".to_owned()),
        ];
        query.extend(token.clone().map(|token| ("after_token", token)));
        let mut call = Call::new(Kind::Charges, Method::GET, "/api/v0/charges/");
        call.query = &query;
        let answer = transport.call(account, &call, scale).await?;
        let Some(rows) = answer.get("results").and_then(Value::as_array) else {
            return Err(Failure::Strange("the charges have no list".into()));
        };
        for row in rows {
            add(&mut charges, row);
        }
        let next = rows::id(&answer, "next_token");
        if next.is_none() {
            return Ok(charges.into_values().collect());
        }
        if next == token {
            return Err(Failure::Strange(
                "the same page of charges follows itself".into(),
            ));
        }
        token = next;
    }
    Err(Failure::Strange(
        "there is no end of pages of charges".into(),
    ))
}

/// An instance may have a row for each day.
fn add(charges: &mut BTreeMap<String, Charge>, row: &Value) {
    let Some(id) = instance_of(row) else { return };
    let charge = charges.entry(id.clone()).or_insert_with(|| Charge {
        instance: InstanceId::new(&id),
        gpu: Usd::ZERO,
        storage: Usd::ZERO,
        traffic: Usd::ZERO,
    });
    let amount = rows::number(row, "amount").unwrap_or(0.0);
    let mut named = 0.0;
    for item in row
        .get("items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let amount = rows::number(item, "amount").unwrap_or(0.0);
        match kind_of(item) {
            Some(ItemKind::Storage) => charge.storage += Usd(amount),
            Some(ItemKind::Traffic) => charge.traffic += Usd(amount),
            None => continue,
        }
        named += amount;
    }
    // What is no storage and no traffic is rent.
    charge.gpu += Usd(amount - named);
}

/// `instance-9001`, or the number alone.
fn instance_of(row: &Value) -> Option<String> {
    let source = rows::id(row, "source")?;
    let id = source.strip_prefix("instance-").unwrap_or(&source);
    id.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| id.to_owned())
}

enum ItemKind {
    Storage,
    Traffic,
}

fn kind_of(item: &Value) -> Option<ItemKind> {
    let words = ["type", "source", "description"].map(|field| rows::text(item, field));
    let words = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let words = words.to_lowercase();
    let any = |of: &[&str]| of.iter().any(|word| words.contains(word));
    if any(&["storage", "disk"]) {
        Some(ItemKind::Storage)
    } else if any(&[
        "bandwidth",
        "upload",
        "download",
        "internet",
        "inet",
        "traffic",
        "bwd",
        "bwu",
    ]) {
        Some(ItemKind::Traffic)
    } else {
        None
    }
}
