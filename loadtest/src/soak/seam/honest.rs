//! Streams that no other worker can go on with: they end with the error event of the interface called, and are counted.

use std::time::Duration;

use anyhow::Result;
use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::Gateway;
use crate::soak::ask::{Route, ask};

/// Requests whose stream breaks after five tokens, with what makes them impossible to go on with.
fn cases() -> Vec<(&'static str, Route, Value)> {
    let function = json!({"type": "function", "function": {"name": "f", "parameters": {}}});
    let openai = [
        (
            "response_format",
            json!({"response_format": {"type": "json_object"}}),
        ),
        ("seed with sampling", json!({"seed": 7, "temperature": 0.8})),
    ];
    let chat = [
        ("logprobs", json!({"logprobs": true, "top_logprobs": 2})),
        (
            "a tool call that must be",
            json!({"tools": [function], "tool_choice": "required"}),
        ),
    ];
    let tgi = [
        (
            "grammar",
            json!({"grammar": {"type": "regex", "value": "a+"}}),
        ),
        ("seed with sampling", json!({"seed": 7, "do_sample": true})),
    ];
    let mut cases = vec![("logprobs", Route::Completions, json!({"logprobs": 2}))];
    for route in [Route::Completions, Route::Chat] {
        cases.extend(openai.clone().map(|(why, more)| (why, route, more)));
    }
    cases.extend(chat.map(|(why, more)| (why, Route::Chat, more)));
    for route in [Route::GenerateStream, Route::Root] {
        let parameters = |(why, more)| (why, route, json!({"parameters": more}));
        cases.extend(tgi.clone().map(parameters));
    }
    cases
}

/// What each ended with: the name, and what is wrong with it.
pub async fn check(gateway: &Gateway, client: &Client) -> Result<Vec<(String, Option<String>)>> {
    let mut found = Vec::new();
    for (why, route, more) in cases() {
        let mut body = route.body("a river", 20);
        extend(&mut body, more);
        let user = json!("fault:die-mid-stream=5");
        if route.is_tgi() {
            body["parameters"]["user"] = user;
        } else {
            body["user"] = user;
        }
        let told = ask(
            client,
            &gateway.base_url,
            route,
            &body,
            Duration::from_secs(30),
        )
        .await;
        let flaw = if told.broken.is_some() || told.status != 200 {
            Some(format!("status {}, {:?}", told.status, told.broken))
        } else if told.error(route).is_none() {
            Some(format!("ends with {:?}", told.events.last()))
        } else {
            None
        };
        found.push((format!("{} with {why}", route.path()), flaw));
    }
    Ok(found)
}

/// Adds `more` to an object, objects within it likewise.
fn extend(body: &mut Value, more: Value) {
    match (body, more) {
        (Value::Object(body), Value::Object(more)) => {
            for (name, value) in more {
                extend(body.entry(name).or_insert(Value::Null), value);
            }
        }
        (body, more) => *body = more,
    }
}
