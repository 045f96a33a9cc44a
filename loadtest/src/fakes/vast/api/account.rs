//! The customer's money: credit, charges, invoices.

use serde_json::{Value, json};

use super::Call;
use super::answer::Answer;
use crate::fakes::vast::accounts::Caller;
use crate::fakes::vast::bill::Charges;
use crate::fakes::vast::clock::At;
use crate::fakes::vast::instance::Instance;
use crate::fakes::vast::world::{Refusal, World};

const DAY_S: f64 = 86_400.0;
const PAGE: usize = 20;
const PAGE_MAX: usize = 500;

pub fn user(world: &World, now: At, caller: Caller) -> Answer {
    let account = &world.accounts[caller.account()];
    let credit = world.credit(caller.account(), now);
    Answer::ok(json!({
        "id": account.user, "username": format!("user{}", account.user),
        "email": format!("user{}@example.invalid", account.user), "fullname": "", "sid": "",
        "balance": 0.0, "credit": credit, "paid": account.paid, "total_spend": account.paid - credit,
        "ssh_key": null, "got_signup_credit": 0, "has_billing": true, "can_pay": true,
        "balance_threshold": 0.0, "balance_threshold_enabled": false, "autobill_threshold": null,
    }))
}

/// `GET /charges/?select_filters={"day": {"gte": .., "lte": ..}, "type": {"in": [..]}}`: whole days of UTC, one row for
/// each instance, its parts beneath (kinds and shape as Vast's documentation and others' clients have them).
pub fn charges(world: &World, now: At, caller: Caller, call: &Call) -> Result<Answer, Refusal> {
    let filters = call.json("select_filters")?;
    let day = &filters["day"];
    let (Some(from), Some(to)) = (day["gte"].as_f64(), day["lte"].as_f64()) else {
        return Err(Refusal::Invalid(
            "select_filters: day needs gte and lte".into(),
        ));
    };
    let kinds = filters["type"]["in"].as_array();
    let wanted = kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind == "instance"));
    let begin_s = (from / DAY_S).floor() * DAY_S;
    let end_s = (to / DAY_S).floor() * DAY_S + DAY_S;
    let (begin, end) = (
        world.clock.at_epoch(begin_s),
        world.clock.at_epoch(end_s).min(now),
    );
    let own = world.instances.values().filter(|instance| {
        let lived = instance
            .ended
            .as_ref()
            .is_none_or(|(ended, _)| *ended >= begin);
        wanted && instance.account == caller.account() && lived && instance.created <= end
    });
    let mut rows: Vec<Value> = own
        .map(|instance| row(instance, world, &instance.meter.charged(begin, end), end))
        .collect();
    if call
        .query
        .get("latest_first")
        .is_some_and(|flag| flag == "true")
    {
        rows.reverse();
    }
    page(rows, call)
}

fn page(rows: Vec<Value>, call: &Call) -> Result<Answer, Refusal> {
    let invalid = |what: &str| Refusal::Invalid(what.to_owned());
    let limit = call
        .query
        .get("limit")
        .map_or(Ok(PAGE), |limit| limit.parse());
    let limit = limit.map_err(|_| invalid("limit"))?.clamp(1, PAGE_MAX);
    let begin = call
        .query
        .get("after_token")
        .map_or(Ok(0), |token| token.parse());
    let begin = begin.map_err(|_| invalid("after_token"))?.min(rows.len());
    let end = (begin + limit).min(rows.len());
    let next = (end < rows.len()).then(|| end.to_string());
    Ok(Answer::ok(json!({
        "success": true, "count": end - begin, "total": rows.len(), "next_token": next,
        "results": rows[begin..end],
    })))
}

fn row(instance: &Instance, world: &World, charges: &Charges, to: At) -> Value {
    let day = |at: At| (world.clock.epoch_s(at) / DAY_S).floor() * DAY_S;
    let (start, end) = (day(instance.created), day(to));
    let days = (end - start) / DAY_S + 1.0;
    let item = |kind: &str, description: String, amount: f64| {
        json!({
            "start": start, "end": end, "type": kind, "source": null, "description": description,
            "amount": amount, "metadata": {}, "items": [],
        })
    };
    let hours = |hours: f64, rate: f64| format!("{hours:.3} hours at ${rate:.3}/hour");
    let mut items = vec![
        item(
            "gpu",
            hours(charges.gpu_hours, instance.gpu_usd_per_hour),
            charges.gpu,
        ),
        item(
            "disk",
            hours(charges.storage_hours, instance.storage_usd_per_hour),
            charges.storage,
        ),
    ];
    if charges.traffic > 0.0 {
        let (gb, rate) = (world.settings.pull_gb, instance.hardware.down_usd_per_gb);
        let text = format!("{gb:.1} GB Downloaded at ${rate:.3}/GB");
        items.push(item("bwd", text, charges.traffic));
    }
    json!({
        "start": start, "end": end, "type": "instance", "source": format!("instance-{}", instance.id),
        "description": format!("Instance {} Charges - {days} days", instance.id), "amount": charges.total(),
        "metadata": { "label": instance.rental.label, "template_id": null }, "items": items,
    })
}

/// What was paid in. Payments have a minus there.
pub fn invoices(world: &World, caller: Caller) -> Answer {
    let account = &world.accounts[caller.account()];
    let start = world.clock.epoch_s(At::default());
    let row = json!({
        "start": start, "end": start, "type": "credit", "source": "stripe_payments", "description": "Payment",
        "amount": -account.paid, "metadata": { "invoice_id": account.user }, "items": [],
    });
    Answer::ok(json!({
        "success": true, "count": 1, "total": 1, "next_token": null, "results": [row],
    }))
}

pub fn old_invoices(world: &World, now: At, caller: Caller) -> Answer {
    let owed = world.owed(caller.account(), now);
    let rows: Vec<Value> = world
        .instances
        .values()
        .filter(|instance| instance.account == caller.account())
        .map(|instance| {
            let charges = instance.meter.charged(At::default(), now);
            json!({
                "type": "charge", "instance_id": instance.id, "amount": charges.total(),
                "description": format!("Instance {}", instance.id), "quantity": charges.gpu_hours,
                "rate": instance.gpu_usd_per_hour, "timestamp": world.clock.epoch_s(instance.created),
            })
        })
        .collect();
    Answer::ok(json!({
        "invoices": rows,
        "current": {
            "charges": owed.total(), "service_fee": 0.0, "total": owed.total(),
            "credit": world.credit(caller.account(), now),
        },
    }))
}
