//! Configurations, requests and readings that the tests share.

use std::time::Duration;

use futures_util::StreamExt;
use loadtest::fakes::worker::{self, Settings, SpeedLaw, Worker};
use loadtest::harness::{ConfigDir, Gateway, fake_worker_binary, http_client, wait_until};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Longest a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Held by tests with a real model, so that two do not fight for two cores.
pub static ONE_MODEL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub const SERVER: &str = "scaler_interval: 0.1\ngrace_period: 5\nlocal_market: {slots: 8}\n";

/// An endpoint `fake` of local stand-in workers; `more` are further top-level keys.
pub fn local_endpoint(more: &str, flags: &str) -> String {
    let program = fake_worker_binary().expect("fake-worker is built");
    format!(
        "endpoint_name: fake\nmarket: local\n{more}\nworker_groups:\n  - name: cpu\n    engine: fake\n    \
         command: '{} --listen 127.0.0.1:{{port}} {flags}'\n    tokens_per_second: 400\n    concurrency: 8\n    \
         max_concurrency: 8\n    usd_per_hour: 0.1\n",
        program.display()
    )
}

pub async fn local_gateway(more: &str, flags: &str) -> Gateway {
    let config = ConfigDir::new(SERVER).expect("a configuration");
    config
        .write_endpoint("fake", &local_endpoint(more, flags))
        .expect("an endpoint file");
    Gateway::start(config).await.expect("the gateway starts")
}

/// An endpoint over given workers; nothing is rented.
pub fn fixed_endpoint(name: &str, urls: &[String], more: &str) -> String {
    let workers: Vec<String> = urls
        .iter()
        .map(|url| format!("{{url: \"{url}\"}}"))
        .collect();
    format!(
        "endpoint_name: {name}\nmarket: {{kind: fixed, engine: fake, workers: [{}]}}\nprobe_interval: 0.2\n{more}\n",
        workers.join(", ")
    )
}

pub async fn fixed_gateway(workers: &[&Worker], more: &str) -> Gateway {
    fixed_gateway_with(SERVER, workers, more).await
}

/// The same with server-wide settings of its own.
pub async fn fixed_gateway_with(server: &str, workers: &[&Worker], more: &str) -> Gateway {
    let urls: Vec<String> = workers.iter().map(|worker| worker.url()).collect();
    let config = ConfigDir::new(server).expect("a configuration");
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &urls, more))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    wait_ready(&gateway, workers.len()).await;
    gateway
}

/// Waits until so many workers are ready.
pub async fn wait_ready(gateway: &Gateway, count: usize) {
    wait_fleet(gateway, "all given workers are ready", |fleet| {
        phases(fleet)
            .iter()
            .filter(|phase| *phase == "ready")
            .count()
            == count
    })
    .await;
}

pub async fn fake_worker(settings: Settings) -> Worker {
    worker::start("127.0.0.1:0", settings)
        .await
        .expect("a stand-in worker")
}

pub fn client() -> Client {
    http_client().expect("an HTTP client")
}

pub async fn post(url: &str, body: &Value) -> Response {
    client()
        .post(url)
        .json(body)
        .timeout(PATIENCE)
        .send()
        .await
        .expect("an answer")
}

pub async fn post_json(url: &str, body: &Value) -> (u16, Value) {
    let answer = post(url, body).await;
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a whole body");
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, value)
}

pub fn generate(max_new_tokens: u32) -> Value {
    json!({"inputs": "once upon a time", "parameters": {"max_new_tokens": max_new_tokens}})
}

pub fn chat(max_tokens: u32, stream: bool) -> Value {
    json!({"model": "fake", "stream": stream, "max_tokens": max_tokens,
           "messages": [{"role": "user", "content": "tell me a story"}]})
}

/// One server-sent event and when it came.
pub struct Event {
    pub at: Instant,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|_| panic!("not JSON: {}", self.data))
    }
}

/// Reads a stream to its end; an error where the connection broke.
pub async fn events(answer: Response) -> Result<Vec<Event>, reqwest::Error> {
    let mut out = Vec::new();
    let mut text = String::new();
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        text.push_str(&String::from_utf8_lossy(&chunk?));
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data:"));
            if let Some(data) = data {
                out.push(Event {
                    at: Instant::now(),
                    data: data.trim().to_owned(),
                });
            }
            text = rest.to_owned();
        }
    }
    assert_eq!(text, "", "half an event at the end");
    Ok(out)
}

pub async fn fleet(gateway: &Gateway) -> Value {
    let answer = client()
        .get(format!("{}/fleet", gateway.admin_url))
        .timeout(PATIENCE)
        .send()
        .await
        .expect("/fleet answers");
    answer.json().await.expect("/fleet is JSON")
}

pub fn phases(fleet: &Value) -> Vec<String> {
    workers(fleet)
        .iter()
        .map(|worker| worker["phase"]["name"].as_str().unwrap_or("?").to_owned())
        .collect()
}

pub fn workers(fleet: &Value) -> Vec<Value> {
    fleet["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|endpoint| endpoint["workers"].as_array().cloned().unwrap_or_default())
        .collect()
}

pub fn in_flight(fleet: &Value) -> u64 {
    workers(fleet)
        .iter()
        .filter_map(|worker| worker["in_flight"].as_u64())
        .sum()
}

pub fn waiting(fleet: &Value) -> u64 {
    fleet["endpoints"][0]["waiting"]["requests"]
        .as_u64()
        .unwrap_or(0)
}

/// Waits until the fleet is as described and returns it.
#[track_caller]
pub fn wait_fleet<'a>(
    gateway: &'a Gateway,
    what: &'a str,
    condition: impl Fn(&Value) -> bool + 'a,
) -> impl Future<Output = Value> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let last = std::cell::RefCell::new(Value::Null);
        let found = wait_until(PATIENCE, || async {
            let now = fleet(gateway).await;
            let holds = condition(&now);
            *last.borrow_mut() = now;
            holds
        })
        .await;
        let last = last.into_inner();
        assert!(
            found,
            "{caller}: never: {what}\n{last:#}\n{}",
            gateway.child.log_tail()
        );
        last
    }
}

/// A token in so many milliseconds, however many streams.
pub fn pace(token_ms: f64) -> Settings {
    Settings {
        law: SpeedLaw {
            a_ms: token_ms,
            ..SpeedLaw::TINY
        },
        ..Settings::default()
    }
}
