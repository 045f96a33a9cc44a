//! A worker that answers at once, or, for the user `late`, refuses after a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

/// Longer than a test's hedge waits.
const LATE: Duration = Duration::from_secs(1);
const ANSWER: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"text\":\" a\",\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";

pub struct LateRefuser {
    pub url: String,
    refused: Arc<AtomicUsize>,
}

impl LateRefuser {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        let complete = move |body: String| complete(body, Arc::clone(&count));
        let router = Router::new()
            .route("/health", get(|| async { "ok" }))
            .route("/v1/completions", post(complete));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, refused }
    }

    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }
}

async fn complete(body: String, refused: Arc<AtomicUsize>) -> Response {
    if body.contains("\"late\"") {
        refused.fetch_add(1, Relaxed);
        tokio::time::sleep(LATE).await;
        return (StatusCode::INTERNAL_SERVER_ERROR, "{}").into_response();
    }
    ([("content-type", "text/event-stream")], ANSWER).into_response()
}
