//! Replays against a small server that misbehaves as its path says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::stream;
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::harness::wait_until;
use crate::trace::TraceRequest;

/// `count` requests, 10 ms apart, each with 4 words in and 3 tokens out.
fn trace(count: u32) -> Trace {
    let requests = (0..count).map(|index| TraceRequest {
        arrival_s: f64::from(index) / 100.0,
        input_tokens: 4,
        output_tokens: 3,
    });
    Trace {
        requests: requests.collect(),
    }
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn body_of(events: Vec<String>) -> Response {
    let frames = events
        .into_iter()
        .map(|event| Ok::<_, Infallible>(Bytes::from(event)));
    Body::from_stream(stream::iter(frames)).into_response()
}

/// A TGI stream of as many tokens as were asked for; `cut` leaves out the last event.
fn tgi(request: &Bytes, cut: bool) -> Response {
    let asked: Value = serde_json::from_slice(request).unwrap();
    assert_eq!(asked["inputs"].as_str().unwrap().split(' ').count(), 4);
    let tokens = asked["parameters"]["max_new_tokens"].as_u64().unwrap();
    let token = r#"data:{"token":{"text":" a"},"generated_text":null}"#;
    let last = format!(
        r#"data:{{"token":{{"text":" a"}},"generated_text":"..","details":{{"generated_tokens":{tokens}}}}}"#
    );
    let mut events = vec![format!("{token}\n\n"); tokens as usize - 1];
    if !cut {
        events.push(format!("{last}\n\n"));
    }
    body_of(events)
}

async fn replay(app: Router, change: impl FnOnce(&mut ReplayOptions)) -> ReplayReport {
    let mut options = ReplayOptions::new(trace(20), serve(app).await);
    change(&mut options);
    run(options).await.unwrap()
}

#[track_caller]
fn check_all_failed(report: &ReplayReport, kind: &str) {
    let figures = &report.figures;
    assert_eq!(
        (figures.sent, figures.answered, figures.failed),
        (20, 0, 20)
    );
    assert_eq!(
        figures.failures.get(kind),
        Some(&20),
        "{:?}",
        figures.failures
    );
}

#[tokio::test]
async fn a_complete_stream_is_answered_and_its_tokens_are_counted() {
    let app = Router::new().route(
        "/generate_stream",
        post(|body: Bytes| async move { tgi(&body, false) }),
    );
    let report = replay(app, |_| {}).await;
    let figures = &report.figures;
    assert_eq!(
        (figures.sent, figures.answered, figures.failed),
        (20, 20, 0)
    );
    assert_eq!(figures.output_tokens, 60);
    assert_eq!(figures.first_token.unwrap().count, 20);
    assert_eq!(figures.gap.unwrap().count, 40);
    assert_eq!(figures.late, 0);
}

#[tokio::test]
async fn a_stream_that_just_stops_is_failed() {
    let app = Router::new().route(
        "/generate_stream",
        post(|body: Bytes| async move { tgi(&body, true) }),
    );
    let report = replay(app, |_| {}).await;
    check_all_failed(&report, "truncated");
    assert_eq!(report.figures.output_tokens, 40);
}

#[tokio::test]
async fn an_error_event_fails_the_request_even_with_done_behind_it() {
    let app = Router::new().route(
        "/v1/chat/completions",
        post(|| async {
            body_of(vec![
                "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n".to_owned(),
                "data: {\"error\":{\"message\":\"worker died\"}}\n\n".to_owned(),
                "data: [DONE]\n\n".to_owned(),
            ])
        }),
    );
    let report = replay(app, |options| options.api = Api::Chat).await;
    check_all_failed(&report, "error event");
    assert!(report.figures.failure_examples["error event"].contains("worker died"));
}

#[tokio::test]
async fn a_refusal_is_failed_by_its_status_and_counts_as_late() {
    let refuse = || async { (StatusCode::SERVICE_UNAVAILABLE, "no worker") };
    let app = Router::new().route("/generate_stream", post(refuse));
    let report = replay(app, |_| {}).await;
    check_all_failed(&report, "status 503");
    assert_eq!(report.figures.late_share, 1.0);
}

#[tokio::test]
async fn an_unstreamed_answer_needs_its_text() {
    let answer = || async { r#"{"generated_text":" a a a","details":{"generated_tokens":3}}"# };
    let app = Router::new().route("/m/generate", post(answer));
    let report = replay(app, |options| {
        options.api = Api::Generate;
        options.endpoint = Some("m".to_owned());
    })
    .await;
    assert_eq!(report.figures.answered, 20);
    assert_eq!(report.figures.output_tokens, 60);
}

#[tokio::test]
async fn a_server_that_never_answers_slows_no_sending_and_ends_by_the_timeout() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&arrived);
    let hang = move || async move {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    };
    let app = Router::new().route("/generate_stream", post(hang));
    let mut options = ReplayOptions::new(trace(20), serve(app).await);
    options.request_timeout = Duration::from_secs(3);
    let running = tokio::spawn(run(options));
    let all_arrived = || std::future::ready(arrived.load(Ordering::SeqCst) == 20);
    assert!(wait_until(Duration::from_secs(20), all_arrived).await);
    assert!(!running.is_finished(), "all requests were open at once");
    check_all_failed(&running.await.unwrap().unwrap(), "timeout");
}

#[tokio::test]
async fn what_is_open_at_the_end_or_beyond_the_limit_is_failed() {
    let hang = || std::future::pending::<()>();
    let app = Router::new().route("/generate_stream", post(hang));
    let report = replay(app, |options| {
        options.open_max = 5;
        options.finish_within = Duration::from_millis(50);
    })
    .await;
    let figures = &report.figures;
    assert_eq!(figures.failures["overall timeout"], 5);
    assert_eq!(figures.failures["client limit"], 15);
    assert_eq!(figures.sent, 20);
}

#[tokio::test]
async fn requests_are_reported_under_the_phase_that_sent_them() {
    let app = Router::new().route(
        "/generate_stream",
        post(|body: Bytes| async move { tgi(&body, false) }),
    );
    let report = replay(app, |options| {
        options.phases = vec![
            Phase::new("slow", 0.5, 0.1),
            Phase::new("fast", 2.0, 0.07),
            Phase::new("silence", 0.0, 0.05),
        ];
    })
    .await;
    let sent: Vec<_> = report
        .phases
        .iter()
        .map(|phase| phase.figures.sent)
        .collect();
    assert_eq!(sent, [5, 14, 0]);
    assert!(report.duration_s >= 0.22, "silence takes its time");
}
