//! Requests of every interface, and how a client asks one and hears it to the end.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::told::Told;
use crate::replay::sse::SseReader;

/// Where a request goes, and whether its answer is streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Route {
    Generate,
    GenerateStream,
    /// `/` with `stream: true`.
    Root,
    Completions,
    Chat,
}

impl Route {
    pub const ALL: [Route; 5] = [
        Route::Generate,
        Route::GenerateStream,
        Route::Root,
        Route::Completions,
        Route::Chat,
    ];
    pub const STREAMED: [Route; 4] = [
        Route::GenerateStream,
        Route::Root,
        Route::Completions,
        Route::Chat,
    ];

    pub fn path(self) -> &'static str {
        match self {
            Route::Generate => "/generate",
            Route::GenerateStream => "/generate_stream",
            Route::Root => "/",
            Route::Completions => "/v1/completions",
            Route::Chat => "/v1/chat/completions",
        }
    }

    pub fn is_streamed(self) -> bool {
        self != Route::Generate
    }

    pub fn is_tgi(self) -> bool {
        !matches!(self, Route::Completions | Route::Chat)
    }

    /// A plain request for `tokens` tokens; usage is wanted where it can be.
    pub fn body(self, prompt: &str, tokens: u32) -> Value {
        match self {
            Route::Generate | Route::GenerateStream => json!({
                "inputs": prompt, "parameters": {"max_new_tokens": tokens, "details": true},
            }),
            Route::Root => json!({
                "inputs": prompt, "parameters": {"max_new_tokens": tokens}, "stream": true,
            }),
            Route::Completions => json!({
                "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": true,
                "stream_options": {"include_usage": true},
            }),
            Route::Chat => json!({
                "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens,
                "temperature": 0, "stream": true, "stream_options": {"include_usage": true},
            }),
        }
    }

    pub fn with_stop(self, body: &mut Value, stop: &str) {
        if self.is_tgi() {
            body["parameters"]["stop"] = json!([stop]);
        } else {
            body["stop"] = json!([stop]);
        }
    }
}

/// Asks and hears the answer to its end, whatever that is. `limit` is for the whole.
pub async fn ask(
    client: &Client,
    base_url: &str,
    route: Route,
    body: &Value,
    limit: Duration,
) -> Told {
    let mut told = Told::default();
    let url = format!("{base_url}{}", route.path());
    let heard = async {
        match client.post(url).json(body).send().await {
            Ok(answer) => hear(&mut told, answer, |_| ()).await,
            Err(error) => told.broken = Some(format!("no answer: {error:?}")),
        }
    };
    if tokio::time::timeout(limit, heard).await.is_err() {
        told.broken = Some(format!("no end within {limit:?}"));
    }
    told
}

/// Hears an answer to its end; `heard` is told how many events have come after each.
pub async fn hear(told: &mut Told, answer: Response, mut heard: impl FnMut(usize)) {
    told.status = answer.status().as_u16();
    let kind = answer.headers().get("content-type");
    told.streamed = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let mut reader = SseReader::default();
    let mut whole = Vec::new();
    let mut body = answer.bytes_stream();
    while let Some(bytes) = body.next().await {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                told.broken = Some(format!("the connection broke: {error:?}"));
                break;
            }
        };
        if !told.streamed {
            whole.extend_from_slice(&bytes);
            continue;
        }
        let at = Instant::now();
        let Ok(events) = reader.push(&bytes) else {
            told.broken = Some("a line without end".to_owned());
            break;
        };
        for event in events {
            told.note(&event, at);
            heard(told.events.len());
        }
    }
    if !told.streamed {
        told.note(&String::from_utf8_lossy(&whole), Instant::now());
    }
}
