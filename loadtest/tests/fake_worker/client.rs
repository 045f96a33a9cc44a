//! How the tests start a worker, talk to it and read its streams.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use loadtest::fakes::worker::{self, Figures, Settings, SpeedLaw, Worker};
use reqwest::{Client, Response};
use serde_json::{Value, json};

pub const DEADLINE: Duration = Duration::from_secs(60);

pub async fn start(settings: Settings) -> Worker {
    worker::start("127.0.0.1:0", settings).await.unwrap()
}

pub async fn start_at(law: SpeedLaw) -> Worker {
    let settings = Settings {
        law,
        ..Settings::default()
    };
    start(settings).await
}

pub fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .timeout(DEADLINE)
        .build()
        .unwrap()
}

pub async fn post(url: &str, path: &str, body: &Value) -> Response {
    let request = client().post(format!("{url}{path}"));
    request.json(body).send().await.unwrap()
}

pub async fn answer(url: &str, path: &str, body: &Value) -> Value {
    let response = post(url, path, body).await;
    assert_eq!(response.status(), 200, "{body}");
    response.json().await.unwrap()
}

pub async fn refusal(url: &str, path: &str, body: &Value) -> (u16, Value) {
    let response = post(url, path, body).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

/// A streamed answer as far as it came.
pub struct Streamed {
    /// Parsed events; `[DONE]` as a string.
    pub events: Vec<Value>,
    /// The body did not end as HTTP demands.
    pub broken: bool,
}

/// The text of one event, whatever the interface; empty where it has none.
fn text_of(event: &Value) -> String {
    let choice = &event["choices"][0];
    let places = [
        &event["token"]["text"],
        &choice["text"],
        &choice["delta"]["content"],
    ];
    places.iter().filter_map(|text| text.as_str()).collect()
}

impl Streamed {
    pub fn is_done(&self) -> bool {
        let last = self.events.last();
        last.is_some_and(|event| *event == "[DONE]" || event["generated_text"].is_string())
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        self.events
            .iter()
            .map(text_of)
            .filter(|text| !text.is_empty())
    }

    pub fn text(&self) -> String {
        self.texts().collect()
    }

    /// Events with text, which is tokens unless some were held back.
    pub fn tokens(&self) -> usize {
        self.texts().count()
    }

    /// The text of the first `count` tokens: what a client has when the stream breaks there.
    pub fn cut(&self, count: usize) -> String {
        self.texts().take(count).collect()
    }
}

pub async fn read_stream(response: Response) -> Streamed {
    let mut bytes = Vec::new();
    let mut broken = false;
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(_) => broken = true,
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let events = text.split_terminator("\n\n").map(|event| {
        let data = event.strip_prefix("data:").unwrap().trim_start();
        serde_json::from_str(data).unwrap_or_else(|_| json!(data))
    });
    Streamed {
        events: events.collect(),
        broken,
    }
}

pub async fn stream(url: &str, path: &str, body: &Value) -> Streamed {
    let response = post(url, path, body).await;
    assert_eq!(response.status(), 200, "{body}");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    read_stream(response).await
}

pub async fn wait_until(worker: &Worker, what: &str, condition: impl Fn(&Figures) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition(&worker.figures()) {
        assert!(
            Instant::now() < deadline,
            "never: {what}; {:?}",
            worker.figures()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn generate(inputs: &str, max_new_tokens: u32) -> Value {
    json!({ "inputs": inputs, "parameters": { "max_new_tokens": max_new_tokens } })
}

pub fn completion(prompt: &str, max_tokens: u32) -> Value {
    json!({ "model": "m", "prompt": prompt, "max_tokens": max_tokens, "stream": true })
}

pub fn chat(messages: Value, max_tokens: u32) -> Value {
    json!({ "model": "m", "messages": messages, "max_tokens": max_tokens, "stream": true })
}
