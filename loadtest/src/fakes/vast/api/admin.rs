//! The fake's own side, under `/fake/`: what is true, and what shall go wrong. It is never limited, down or slow.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};

use super::Call;
use super::answer::Answer;
use crate::fakes::vast::Shared;
use crate::fakes::vast::clock::At;
use crate::fakes::vast::instance::{Instance, Phase};
use crate::fakes::vast::logs;
use crate::fakes::vast::world::{Refusal, World};

const LOG_LINES: usize = 1000;

pub fn serve(shared: &Shared, call: &Call) -> Answer {
    let mut world = shared.lock();
    let now = world.clock.now();
    world.advance(now);
    let (get, post) = (call.method == Method::GET, call.method == Method::POST);
    let result = match call.parts()[..] {
        ["fake", "health"] if get => Ok(Answer::ok(json!({ "status": "ok" }))),
        ["fake", "account"] if get => Ok(accounts(&world, now)),
        ["fake", "instances"] if get => Ok(instances(&world, now)),
        ["fake", "audit"] if get => Ok(audit(&world, now)),
        ["fake", "searches"] if get => Ok(searches(&world)),
        ["fake", "faults"] if get => Ok(faults(&world)),
        ["fake", "faults"] if post => change_faults(&mut world, &call.body),
        ["fake", "outage"] if post => outage(&mut world, now, &call.body),
        ["fake", "strike"] if post => strike(&mut world, now, &call.body),
        ["fake", "logs", name] if get => log(&world, call, name),
        _ => Ok(Answer::no_such_path()),
    };
    result.unwrap_or_else(|refusal| Answer::refusal(refusal, call))
}

/// What each account owes, to the microsecond: in all and by instance and kind.
fn accounts(world: &World, now: At) -> Answer {
    let accounts = world.accounts.iter().enumerate().map(|(index, account)| {
        let owed = world.owed(index, now);
        let own = world
            .instances
            .values()
            .filter(|instance| instance.account == index);
        let instances: serde_json::Map<String, Value> = own
            .map(|instance| {
                let charges = instance.meter.charged(At::default(), now);
                let mut row = json!(charges);
                row["total"] = json!(charges.total());
                row["label"] = json!(instance.rental.label);
                (instance.id.to_string(), row)
            })
            .collect();
        json!({
            "user": account.user, "paid": account.paid, "credit": account.paid - owed.total(),
            "owed": owed.total(), "gpu": owed.gpu, "storage": owed.storage, "traffic": owed.traffic,
            "instances": instances,
        })
    });
    Answer::ok(json!({
        "seed": world.settings.seed, "speed": world.settings.speed, "at_s": now.seconds(),
        "epoch_s": world.clock.epoch_s(now), "accounts": accounts.collect::<Vec<_>>(),
    }))
}

/// Every instance that ever existed.
fn instances(world: &World, now: At) -> Answer {
    let rows = world
        .instances
        .values()
        .map(|instance| truth(world, instance));
    Answer::ok(json!({
        "seed": world.settings.seed, "at_s": now.seconds(), "instances": rows.collect::<Vec<_>>(),
    }))
}

fn truth(world: &World, instance: &Instance) -> Value {
    let seconds = |at: Option<At>| at.map(At::seconds);
    let rates = instance.meter.rates();
    json!({
        "id": instance.id, "call": instance.call, "account": instance.account, "label": instance.rental.label,
        "offer": instance.ask, "machine_id": instance.hardware.id, "host_id": instance.hardware.host,
        "gpu_name": instance.hardware.class().gpu_name, "num_gpus": instance.hardware.gpus,
        "exists": instance.exists(), "state": phase_name(instance.phase),
        "actual_status": instance.actual_status(), "intended_status": instance.intended_status(),
        "status_msg": instance.status_msg, "bid": instance.rental.price, "image": instance.rental.image,
        "created_s": instance.created.seconds(), "phase_since_s": instance.phase_since.seconds(),
        "first_running_s": seconds(instance.first_running), "starts": instance.starts,
        "ended_s": seconds(instance.ended.as_ref().map(|(at, _)| *at)),
        "ended": instance.ended.as_ref().map(|(_, how)| how),
        "fate": format!("{:?}", instance.fate.boot), "slowness": instance.fate.slowness,
        "ports": instance.ports, "log": world.processes.log_path(instance.id),
        "gpu_usd_per_hour_now": rates.gpu, "storage_usd_per_hour_now": rates.storage,
    })
}

fn phase_name(phase: Phase) -> String {
    format!("{phase:?}").to_lowercase()
}

fn audit(world: &World, now: At) -> Answer {
    Answer::ok(json!({
        "seed": world.settings.seed, "at_s": now.seconds(), "calls": world.record.calls,
    }))
}

/// The last hundred, with the ids of what each found.
fn searches(world: &World) -> Answer {
    Answer::ok(json!({ "searches": world.record.searches }))
}

fn faults(world: &World) -> Answer {
    Answer::ok(json!(world.faults))
}

fn change_faults(world: &mut World, body: &Value) -> Result<Answer, Refusal> {
    world.faults.change(body).map_err(Refusal::Invalid)?;
    Ok(faults(world))
}

/// `{"seconds": 5}` of this machine, from now on; 0 ends one.
fn outage(world: &mut World, now: At, body: &Value) -> Result<Answer, Refusal> {
    let seconds = body["seconds"].as_f64();
    let length = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let length = length.ok_or_else(|| Refusal::Invalid("no seconds".into()))?;
    world.outage_until = now.plus(length);
    Ok(Answer::ok(
        json!({ "until_s": world.outage_until.seconds() }),
    ))
}

/// `{"instance": 7, "fault": "offline" | "outbid" | "exit" | "vanish"}`, at once.
fn strike(world: &mut World, now: At, body: &Value) -> Result<Answer, Refusal> {
    let id = body["instance"].as_u64().unwrap_or_default();
    let found = world
        .instances
        .get(&id)
        .filter(|instance| instance.exists());
    let found = found.ok_or(Refusal::NoSuchInstance)?.phase;
    let running = found == Phase::Running;
    match body["fault"].as_str() {
        Some("vanish") => world.destroy(now, id, "vanished")?,
        Some("offline") if running => world.go_offline(now, id),
        Some("outbid") if running => {
            let market_s = world.market_s(now);
            world.outbid(now, id, market_s);
        }
        Some("exit") if running => world.exit(now, id),
        _ => return Err(Refusal::Invalid("no such fault, or it does not run".into())),
    }
    Ok(Answer::ok(json!({ "success": true })))
}

fn log(world: &World, call: &Call, name: &str) -> Result<Answer, Refusal> {
    let path = logs::path(world, name).ok_or(Refusal::NoSuchInstance)?;
    let lines = call.query.get("tail").and_then(|lines| lines.parse().ok());
    Ok(Answer::text(logs::tail(&path, lines.unwrap_or(LOG_LINES))))
}
