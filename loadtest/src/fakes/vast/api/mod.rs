//! The interface over HTTP: who calls, whether the call may be made now, what goes wrong with it, and its record.

mod account;
mod admin;
mod answer;
mod create;
mod instances;
mod search;
mod trouble;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use fastrand::Rng;
use serde_json::Value;

use self::answer::Answer;
use self::trouble::Trouble;
use super::Shared;
use super::accounts::Caller;
use super::chance::{happens, stream};
use super::clock::{At, Clock};
use super::faults::Faults;
use super::limits::Endpoint;
use super::record::Call as Record;
use super::world::{Refusal, World};
use crate::fakes::worker::connection::Breaker;

const BODY_BYTES_MAX: usize = 1 << 20;

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(serve).with_state(shared)
}

/// A call as it came.
struct Call {
    method: Method,
    /// Path without empty parts: `api`, `v0`, `instances`, `7`.
    path: Vec<String>,
    query: HashMap<String, String>,
    body: Value,
    key: String,
    host: String,
}

impl Call {
    async fn read(request: Request) -> Result<Self, Answer> {
        let (parts, body) = request.into_parts();
        let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
        let bytes = bytes.map_err(|_| Answer::invalid("cannot read the body"))?;
        let query: HashMap<String, String> =
            axum::extract::Query::try_from_uri(&parts.uri).map_or_else(|_| HashMap::new(), |q| q.0);
        let body = json_of(&bytes)?;
        let text = |name: &str| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        Ok(Self {
            path: parts
                .uri
                .path()
                .split('/')
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
            key: key_of(&parts.headers, &query, &body),
            host: text("host").unwrap_or("127.0.0.1").to_owned(),
            method: parts.method,
            query,
            body,
        })
    }

    fn parts(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    /// A value of the query that is JSON.
    fn json(&self, name: &str) -> Result<Value, Refusal> {
        let text = self.query.get(name).map_or("null", String::as_str);
        serde_json::from_str(text).map_err(|error| Refusal::Invalid(format!("{name}: {error}")))
    }

    /// Which limit it falls under.
    fn endpoint(&self) -> Endpoint {
        let get = self.method == Method::GET;
        match self.parts()[..] {
            ["api", _, "bundles"] | ["api", _, "search", "asks"] => Endpoint::Search,
            ["api", _, "asks", _] | ["api", _, "launch_instance"] => Endpoint::Create,
            ["api", _, "instances"] if get => Endpoint::List,
            ["api", _, "instances", _] if get => Endpoint::One,
            ["api", _, "instances" | "instance", ..] if self.method == Method::DELETE => {
                Endpoint::Destroy
            }
            ["api", _, "instances", "bid_price", _] => Endpoint::Bid,
            ["api", _, "instances", "reboot" | "recycle", _] => Endpoint::Reboot,
            ["api", _, "instances"] | ["api", _, "instances", _] => Endpoint::Change,
            _ => Endpoint::Other,
        }
    }

    fn changes_something(&self) -> bool {
        let logs = self.path.iter().any(|part| part == "request_logs");
        self.method != Method::GET && self.endpoint() != Endpoint::Search && !logs
    }
}

fn json_of(bytes: &Bytes) -> Result<Value, Answer> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|_| Answer::invalid("the body is no JSON"))
}

/// `Authorization: Bearer`, `?api_key=` or the body's `api_key`.
fn key_of(headers: &HeaderMap, query: &HashMap<String, String>, body: &Value) -> String {
    let bearer = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let in_body = body.get("api_key").and_then(Value::as_str);
    let given = bearer.or(query.get("api_key").map(String::as_str));
    given.or(in_body).unwrap_or_default().trim().to_owned()
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(breaker): ConnectInfo<Breaker>,
    request: Request,
) -> Response {
    let call = match Call::read(request).await {
        Ok(call) => call,
        Err(answer) => return answer.into_response(),
    };
    if call.path.first().is_some_and(|part| part == "fake") {
        return admin::serve(&shared, &call).into_response();
    }
    let (answer, trouble) = {
        let mut world = shared.lock();
        let now = world.clock.now();
        world.advance(now);
        answer(&mut world, now, &call)
    };
    trouble.send(answer, &breaker).await
}

/// What goes wrong with one call.
struct Strikes {
    many: bool,
    down: bool,
    slow: bool,
    lost: bool,
    bad_listing: bool,
    vanishes: bool,
}

impl Strikes {
    /// Always in this order, whatever the shares are.
    fn draw(faults: &Faults, rng: &mut Rng) -> Self {
        let mut strikes = |share| happens(rng, share);
        Self {
            many: strikes(faults.too_many_requests),
            down: strikes(faults.api_down),
            slow: strikes(faults.api_slow),
            lost: strikes(faults.lost_answer),
            bad_listing: strikes(faults.bad_listing),
            vanishes: strikes(faults.offer_vanishes),
        }
    }

    fn on_the_way(&self, rng: &mut Rng, clock: &Clock) -> Trouble {
        match (self.down, self.slow) {
            (true, _) => Trouble::down(rng, clock),
            (_, true) => Trouble::slow(rng, clock),
            _ => Trouble::None,
        }
    }
}

/// The answer, and what happens to it on its way.
fn answer(world: &mut World, now: At, call: &Call) -> (Answer, Trouble) {
    world.record.number += 1;
    let clock = world.clock;
    let mut rng = stream(world.settings.seed, "call", world.record.number);
    if now < world.outage_until {
        return (Answer::unavailable(), Trouble::down(&mut rng, &clock));
    }
    let Some(caller) = world.caller(&call.key) else {
        let answer = Answer::wrong_key(call.endpoint() == Endpoint::Search);
        note(world, now, call, None, &answer, false, true);
        return (answer, Trouble::None);
    };
    let strikes = Strikes::draw(&world.faults, &mut rng);
    let many = strikes.many.then(|| Answer::too_many(rng.u8(..)));
    let limited = limited(world, now, call).or_else(|| searched_enough(world, now, call));
    if let Some(answer) = limited.or(many) {
        note(world, now, call, Some(caller), &answer, false, true);
        return (answer, Trouble::None);
    }
    let mut trouble = strikes.on_the_way(&mut rng, &clock);
    if trouble.prevents() {
        let answer = Answer::unavailable();
        note(world, now, call, Some(caller), &answer, false, false);
        return (answer, trouble);
    }
    let result = act(world, now, caller, call, &strikes);
    let done = result.is_ok();
    let mut answer = result.unwrap_or_else(|refusal| Answer::refusal(refusal, call));
    if strikes.bad_listing && call.endpoint() == Endpoint::List && done {
        answer = instances::spoilt(answer, &mut rng);
    }
    if strikes.lost && call.endpoint() == Endpoint::Create && done {
        trouble = Trouble::lost(&mut rng, &clock);
    }
    let answered = trouble.lets_through();
    note(world, now, call, Some(caller), &answer, done, answered);
    (answer, trouble)
}

/// A refusal, if it came too early.
fn limited(world: &mut World, now: At, call: &Call) -> Option<Answer> {
    if !world.settings.rate_limits {
        return None;
    }
    let (endpoint, clock) = (call.endpoint(), world.clock);
    let taken = world
        .limits
        .take(endpoint, &call.key, now, |market_s| clock.real(market_s));
    let refused = taken.is_err();
    refused.then(|| Answer::too_early(endpoint.threshold_s()))
}

/// A refusal, if the day's searches are used up.
fn searched_enough(world: &mut World, now: At, call: &Call) -> Option<Answer> {
    let most = world.settings.searches_a_day?;
    if call.endpoint() != Endpoint::Search {
        return None;
    }
    let day_s = world.settings.search_day_s;
    let day = (world.market_s(now) / day_s) as u64;
    if world.quota.take(&call.key, day, most) {
        return None;
    }
    let next = At::default().plus(world.clock.real((day + 1) as f64 * day_s));
    Some(Answer::quota_exceeded(
        world.clock.epoch_s(next).ceil() as u64
    ))
}

fn act(
    world: &mut World,
    now: At,
    caller: Caller,
    call: &Call,
    strikes: &Strikes,
) -> Result<Answer, Refusal> {
    if strikes.vanishes && call.endpoint() == Endpoint::Create {
        create::forget_offer(world, now, call);
        return Err(Refusal::NoSuchAsk);
    }
    route(world, now, caller, call)
}

fn route(world: &mut World, now: At, caller: Caller, call: &Call) -> Result<Answer, Refusal> {
    let (get, put, post, delete) = (Method::GET, Method::PUT, Method::POST, Method::DELETE);
    let method = &call.method;
    match call.parts()[..] {
        ["api", _, "bundles"] if method == post => search::search(world, now, &call.body),
        ["api", _, "search", "asks"] if method == put => {
            search::search(world, now, &call.body["q"])
        }
        ["api", _, "gpu_names", "unique"] if method == get => Ok(search::gpu_names()),
        ["api", _, "asks", ask] if method == put => create::create(world, now, caller, call, ask),
        ["api", _, "launch_instance"] if method == put => create::launch(world, now, caller, call),
        ["api", "v1", "instances"] if method == get => instances::page(world, now, caller, call),
        ["api", _, "instances"] if method == get => instances::all(world, now, caller),
        ["api", _, "instances"] if method == put => {
            instances::change_many(world, now, caller, call)
        }
        ["api", _, "instances"] if method == delete => {
            instances::destroy_many(world, now, caller, call)
        }
        ["api", _, "instances", id] if method == get => instances::one(world, now, caller, id),
        ["api", _, "instances", id] if method == put => {
            instances::change(world, now, caller, call, id)
        }
        ["api", _, "instances", id] if method == delete => {
            instances::destroy(world, now, caller, id)
        }
        ["api", _, "instances", action, id] if method == put => {
            instances::act(world, now, caller, call, action, id)
        }
        ["api", _, "users", "current"] if method == get => Ok(account::user(world, now, caller)),
        ["api", _, "charges"] if method == get => account::charges(world, now, caller, call),
        ["api", "v1", "invoices"] if method == get => Ok(account::invoices(world, caller)),
        ["api", _, "users", "me", "invoices"] if method == get => {
            Ok(account::old_invoices(world, now, caller))
        }
        _ => Ok(Answer::no_such_path()),
    }
}

fn note(
    world: &mut World,
    now: At,
    call: &Call,
    caller: Option<Caller>,
    answer: &Answer,
    done: bool,
    answered: bool,
) {
    if !call.changes_something() {
        return;
    }
    let container = match caller {
        Some(Caller::Container { instance, .. }) => Some(instance),
        _ => None,
    };
    let line = Record {
        at_s: now.seconds(),
        epoch_s: world.clock.epoch_s(now),
        account: caller.map(Caller::account),
        container,
        method: call.method.to_string(),
        path: format!("/{}/", call.path.join("/")),
        body: call.body.clone(),
        instance: answer.new_instance(),
        status: answer.status(),
        error: answer.error(),
        done,
        answered,
    };
    world.record.calls.push(line);
}
