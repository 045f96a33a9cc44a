//! Renting an offer.

use serde_json::{Value, json};

use super::Call;
use super::answer::Answer;
use super::search;
use crate::fakes::vast::accounts::Caller;
use crate::fakes::vast::clock::At;
use crate::fakes::vast::instance::Rental;
use crate::fakes::vast::world::{Refusal, World};

const IMAGE_CHARS_MAX: usize = 1024;
const START_CHARS_MAX: usize = 4096;
const LABEL_CHARS_MAX: usize = 256;
const ENV_CHARS_MAX: usize = 32_768;
const PORTS_MAX: usize = 64;
const DISK_GB: f64 = 10.0;
const DISK_GB_MIN: f64 = 8.0;

pub fn create(
    world: &mut World,
    now: At,
    caller: Caller,
    call: &Call,
    ask: &str,
) -> Result<Answer, Refusal> {
    let Caller::Account(account) = caller else {
        return Err(Refusal::Invalid("this key opens one instance only".into()));
    };
    let ask = ask.parse().map_err(|_| Refusal::NoSuchAsk)?;
    let rental = read(&call.body)?;
    let id = world.create(now, account, ask, rental)?;
    Ok(Answer::ok(json!({
        "success": true, "new_contract": id, "instance_api_key": world.instances[&id].key,
    })))
}

/// Searches and rents the first that is found.
pub fn launch(world: &mut World, now: At, caller: Caller, call: &Call) -> Result<Answer, Refusal> {
    let offers = search::found(world, now, &call.body["q"])?;
    let first = offers.first().ok_or(Refusal::NoSuchAsk)?;
    let ask = first["id"].to_string();
    create(world, now, caller, call, &ask)
}

/// Somebody else was quicker.
pub fn forget_offer(world: &mut World, now: At, call: &Call) {
    let ask = call.path.get(3).and_then(|ask| ask.parse().ok());
    let machine = ask.and_then(|ask| world.market.by_ask(ask));
    if let Some(machine) = machine.filter(|m| world.market.machines[*m].is_listed()) {
        let market_s = world.market_s(now);
        world.market.take_away(machine, market_s, 3_600.0);
    }
}

/// The body of a creation, with the limits Vast has for it.
fn read(body: &Value) -> Result<Rental, Refusal> {
    let invalid = |what: &str| Err(Refusal::Invalid(what.to_owned()));
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let args = arguments(body)?;
    let rental = Rental {
        image: text("image").unwrap_or_default(),
        env: body["env"].as_object().cloned().unwrap_or_default(),
        price: body["price"].as_f64(),
        disk_gb: body["disk"].as_f64().unwrap_or(DISK_GB),
        label: text("label"),
        onstart: text("onstart"),
        runtype: text("runtype").unwrap_or_else(|| "ssh".into()),
        args,
        cancel_unavail: body["cancel_unavail"] == true,
    };
    let started_with = rental.args.iter().map(String::len).sum::<usize>()
        + rental.onstart.as_ref().map_or(0, String::len);
    let label_chars = rental
        .label
        .as_ref()
        .map_or(0, |label| label.chars().count());
    if rental.image.is_empty() && body["template_hash_id"].is_null() {
        return invalid("image is missing");
    }
    if rental.image.len() > IMAGE_CHARS_MAX {
        return invalid("image is too long");
    }
    if started_with > START_CHARS_MAX {
        return invalid("args and onstart are too long");
    }
    if label_chars > LABEL_CHARS_MAX {
        return Err(Refusal::LabelTooLong);
    }
    if body["env"].to_string().len() > ENV_CHARS_MAX {
        return invalid("env is too long");
    }
    if rental.ports().len() > PORTS_MAX {
        return invalid("too many ports");
    }
    if rental.disk_gb < DISK_GB_MIN {
        return invalid("disk is too small");
    }
    Ok(rental)
}

fn arguments(body: &Value) -> Result<Vec<String>, Refusal> {
    if let Some(words) = body["args_str"].as_str() {
        return Ok(words.split_whitespace().map(str::to_owned).collect());
    }
    let words = body["args"].as_array().cloned().unwrap_or_default();
    let words = words.iter().map(|word| word.as_str().map(str::to_owned));
    words
        .collect::<Option<_>>()
        .ok_or_else(|| Refusal::Invalid("args are no list of texts".into()))
}
