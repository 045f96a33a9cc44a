//! The engine behind the proxies: answers at once and without work of its own, so that what is measured is the proxy.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream::{self, StreamExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval_at};

use crate::harness::wait_until;

/// The words in a prompt that select a kind of answer; a proxy leaves prompts alone.
pub const BURST: &str = "bench-burst";
pub const STEADY: &str = "bench-steady";

/// Events of a burst, without the closing `[DONE]`.
pub const BURST_EVENTS: usize = 64;
/// Between two events of a steady stream.
pub const STEADY_EVERY: Duration = Duration::from_millis(20);

const ANSWER: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":0,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":" seven stones lie under the quiet river and turn north"},"finish_reason":"length"}],"usage":{"prompt_tokens":200,"completion_tokens":10,"total_tokens":210}}"#;
const EVENT: &str = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const MODELS: &str =
    r#"{"object":"list","data":[{"id":"bench","object":"model","created":0,"owned_by":"bench"}]}"#;

#[derive(Clone, Default)]
struct Open(Arc<AtomicUsize>);

/// Counts a stream as open until it is dropped.
struct OpenStream(Arc<AtomicUsize>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub struct Backend {
    pub port: u16,
    open: Open,
}

impl Backend {
    pub async fn start() -> Result<Self> {
        let open = Open::default();
        let app = Router::new()
            .route("/health", get(|| async {}))
            .route("/v1/models", get(|| async { json(MODELS) }))
            .route("/v1/chat/completions", post(answer))
            .with_state(open.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { port, open })
    }

    /// Waits until no stream is open.
    pub async fn wait_idle(&self) -> Result<()> {
        let open = || self.open.0.load(Ordering::SeqCst);
        let idle = || std::future::ready(open() == 0);
        ensure!(
            wait_until(Duration::from_secs(30), idle).await,
            "{} streams are open at the backend though all clients left",
            open()
        );
        Ok(())
    }
}

async fn answer(State(open): State<Open>, body: Bytes) -> Response {
    let holds = |word: &str| memchr::memmem::find(&body, word.as_bytes()).is_some();
    if holds(STEADY) {
        steady(open)
    } else if holds(BURST) {
        burst()
    } else {
        json(ANSWER)
    }
}

fn json(text: &'static str) -> Response {
    ([("content-type", "application/json")], text).into_response()
}

fn burst() -> Response {
    let events = std::iter::repeat_n(EVENT, BURST_EVENTS).chain([DONE]);
    let frames = events.map(|event| Ok::<_, Infallible>(Bytes::from_static(event.as_bytes())));
    event_stream(Body::from_stream(stream::iter(frames)))
}

/// One event every [`STEADY_EVERY`] until the client leaves.
fn steady(open: Open) -> Response {
    open.0.fetch_add(1, Ordering::SeqCst);
    let ticks = interval_at(Instant::now() + STEADY_EVERY, STEADY_EVERY);
    let events = stream::unfold((ticks, OpenStream(open.0)), |(mut ticks, open)| async {
        ticks.tick().await;
        Some((Bytes::from_static(EVENT.as_bytes()), (ticks, open)))
    });
    event_stream(Body::from_stream(events.map(Ok::<_, Infallible>)))
}

fn event_stream(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}
