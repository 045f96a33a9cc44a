//! Routes that are no generations: what engines have beside them, and some that only tests need.

use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::routes::Shared;
use super::text::Context;

type Worker = State<Arc<Shared>>;

pub fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/tokenize", post(tokenize))
        .route("/v1/embeddings", post(embed))
        .route("/ws", get(websocket))
        .route("/echo", any(echo))
        .route("/echo/{*rest}", any(echo))
        .route("/status/{status}", any(status))
        .route("/redirect", get(redirect))
}

/// TGI's: the list of tokens and where they stand.
async fn tokenize(State(shared): Worker, Json(call): Json<Value>) -> Response {
    let Some(text) = call["inputs"].as_str().or(call["prompt"].as_str()) else {
        let error = json!({"error": "no inputs", "error_type": "validation"});
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(error)).into_response();
    };
    let count = Context::new(shared.settings.window).read(text).tokens;
    let tokens: Vec<_> = (0..count).map(|id| json!({"id": id})).collect();
    Json(tokens).into_response()
}

#[derive(Deserialize)]
struct Embeddings {
    model: String,
    input: Value,
}

/// As an engine does, it knows its model by its own name only.
async fn embed(State(shared): Worker, Json(call): Json<Embeddings>) -> Response {
    if call.model != shared.settings.model {
        let error = json!({"error": {"message": "no such model", "type": "NotFoundError"}});
        return (StatusCode::NOT_FOUND, Json(error)).into_response();
    }
    let inputs = match call.input {
        Value::Array(inputs) => inputs,
        one => vec![one],
    };
    let data: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let length = input.as_str().map_or(0, str::len);
            json!({"object": "embedding", "index": index, "embedding": [length as f64, 0.5]})
        })
        .collect();
    Json(json!({"object": "list", "data": data, "model": call.model})).into_response()
}

/// Gives back every message; closes on the word `close` and breaks the connection on `break`.
async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|mut socket: WebSocket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            match &message {
                Message::Text(text) if text.as_str() == "close" => break,
                Message::Text(text) if text.as_str() == "break" => return,
                Message::Text(_) | Message::Binary(_) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
        let _ = socket.send(Message::Close(None)).await;
    })
}

/// What arrived, so that a test sees what a worker sees.
async fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, 64 << 20).await {
        Ok(body) => body,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let answer = json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "headers": listed(&head.headers),
        "body_bytes": body.len(),
        "body_sum": sum(&body),
    });
    let private = [
        ("x-tidegate-secret", "of the worker"),
        ("alt-svc", "h2=\":443\""),
        ("connection", "x-hop"),
        ("x-hop", "for the next hop only"),
        ("x-plain", "passes"),
    ];
    (private, Json(answer)).into_response()
}

fn listed(headers: &HeaderMap) -> Value {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), Value::from(value))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Depends on every byte and its place; a client can work it out too.
pub fn sum(body: &Bytes) -> u64 {
    body.iter().fold(7, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte)) % 1_000_000_007
    })
}

async fn status(Path(status): Path<u16>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => status.into_response(),
        _ => (status, "as ordered").into_response(),
    }
}

async fn redirect(headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|it| it.to_str().ok());
    let location = format!("http://{}/echo?moved", host.unwrap_or_default());
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}
