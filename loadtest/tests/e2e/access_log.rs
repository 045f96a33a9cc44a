//! One line a request, whatever becomes of it, with what is needed to explain it and to play it again.

use std::path::PathBuf;

use futures_util::StreamExt;
use loadtest::fakes::worker::{Settings, SpeedLaw, Worker};
use loadtest::harness::{ConfigDir, Gateway, wait_until};
use reqwest::RequestBuilder;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::*;

/// Of `alice-secret-00001`.
const ALICE: &str = "f2cef0501b699dd13830895d47ef53a2d4bc73a2c7c65269b6624f1c26def114";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

struct Logged {
    gateway: Gateway,
    path: PathBuf,
}

/// A gateway over these workers that writes its log beside its configuration.
async fn logged(urls: &[String], server: &str, more: &str) -> Logged {
    let config = ConfigDir::new(SERVER).expect("a configuration");
    let path = config.path().join("access.jsonl");
    let server = format!("{SERVER}access_log: {}\n{server}\n", path.display());
    config.write_server(&server).expect("settings");
    config
        .write_endpoint("fake", &fixed_endpoint("fake", urls, more))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    wait_ready(&gateway, urls.len()).await;
    Logged { gateway, path }
}

async fn beside(worker: &Worker, server: &str, more: &str) -> Logged {
    logged(&[worker.url()], server, more).await
}

impl Logged {
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.gateway.base_url)
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }

    /// The one line of this request, once it is there.
    async fn line(&self, id: &str) -> Value {
        let mine = || -> Vec<Value> {
            let lines = self.lines().into_iter();
            lines.filter(|line| line["id"] == id).collect()
        };
        let found = wait_until(PATIENCE, || async { !mine().is_empty() }).await;
        assert!(found, "no line of {id}: {:#?}", self.lines());
        let mut lines = mine();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines.remove(0)
    }

    /// Sends it under this id, reads the answer to its end, and gives its status and line.
    async fn ask(&self, id: &str, request: RequestBuilder) -> (u16, Value) {
        let request = request.header("x-request-id", id).timeout(PATIENCE);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.headers()["x-request-id"], id);
        let status = answer.status().as_u16();
        answer.bytes().await.expect("a whole body");
        (status, self.line(id).await)
    }
}

#[tokio::test]
async fn a_stream_is_told_with_its_tokens_and_times() {
    // Far enough apart that two tokens hardly come in one read.
    let law = SpeedLaw {
        a_ms: 30.0,
        ..SpeedLaw::TINY
    };
    let worker = fake_worker(Settings {
        law,
        ..Settings::default()
    })
    .await;
    let logged = beside(&worker, "", "").await;
    let request = client()
        .post(logged.url("/v1/chat/completions?secret=of-the-query"))
        .json(&chat(8, true));
    let (status, line) = logged.ask("stream-1", request).await;
    assert_eq!((status, &line["status"]), (200, &json!(200)));
    for (field, expected) in [
        ("outcome", json!("ok")),
        ("route", json!("chat_completions")),
        ("method", json!("POST")),
        ("path", json!("/v1/chat/completions")),
        ("endpoint", json!("fake")),
        ("streamed", json!(true)),
        ("max_new_tokens", json!(8)),
        ("output_tokens", json!(8)),
        ("client", json!("127.0.0.1")),
        ("retries", json!(0)),
        ("resumes", json!(0)),
        ("hedged", json!(false)),
    ] {
        assert_eq!(line[field], expected, "{field}: {line:#}");
    }
    for field in [
        "prompt_tokens",
        "prompt_bytes",
        "predicted_prompt_tokens",
        "predicted_output_tokens",
        "predicted_cost",
        "request_bytes",
        "response_bytes",
        "ttft_ms",
        "gap_p50_ms",
        "gap_max_ms",
        "duration_ms",
        "arrived_ms",
    ] {
        let value = line[field].as_f64();
        assert!(value.is_some_and(|value| value > 0.0), "{field}: {line:#}");
    }
    let number = |field: &str| line[field].as_f64().unwrap_or(f64::NAN);
    assert!(number("ttft_ms") <= number("duration_ms"), "{line:#}");
    assert!(number("gap_p50_ms") <= number("gap_max_ms"), "{line:#}");
    assert_eq!(line["workers"].as_array().map(Vec::len), Some(1));
    let time = line["time"].as_str().expect("a time");
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    assert!(!line.to_string().contains("of-the-query"));
}

#[tokio::test]
async fn every_request_has_its_line_whatever_became_of_it() {
    let worker = fake_worker(Settings::default()).await;
    let server = format!("max_body_bytes: 10KiB\napi_keys: [{{name: alice, sha256: {ALICE}}}]");
    let logged = beside(&worker, &server, "").await;
    let alice = |request: RequestBuilder| request.bearer_auth("alice-secret-00001");
    let (get, post) = (
        |path: &str| client().get(logged.url(path)),
        |path: &str| client().post(logged.url(path)),
    );
    let large = json!({"inputs": "x".repeat(20_000)});
    let cases = [
        (
            "whole",
            alice(post("/generate").json(&generate(3))),
            200,
            "ok",
        ),
        ("passed", alice(get("/info")), 200, "ok"),
        ("health", get("/health"), 200, "ok"),
        ("models", alice(get("/v1/models")), 200, "ok"),
        (
            "no-key",
            post("/generate").json(&generate(3)),
            401,
            "client_error",
        ),
        ("no-key-passed", get("/info"), 401, "client_error"),
        (
            "no-route",
            alice(get("/nothing/there")),
            404,
            "client_error",
        ),
        (
            "no-model",
            alice(post("/nobody/generate").json(&generate(3))),
            404,
            "client_error",
        ),
        ("no-method", alice(get("/generate")), 405, "client_error"),
        (
            "large",
            alice(post("/generate").json(&large)),
            413,
            "client_error",
        ),
        (
            "wrong",
            alice(post("/generate").json(&json!({"inputs": 3}))),
            422,
            "client_error",
        ),
    ];
    for (id, request, status, outcome) in cases {
        let (got, line) = logged.ask(id, request).await;
        assert_eq!((got, &line["status"]), (status, &json!(status)), "{line:#}");
        assert_eq!(line["outcome"], outcome, "{line:#}");
        let refused = status >= 400 && id != "no-method";
        assert_eq!(line["error"].is_string(), refused, "{line:#}");
        let key = !id.starts_with("no-key") && !matches!(id, "health" | "no-method");
        assert_eq!(
            line["key"],
            if key { json!("alice") } else { Value::Null },
            "{line:#}"
        );
    }
    assert_eq!(logged.line("passed").await["route"], "/info");
    assert_eq!(logged.line("models").await["route"], "models");
    let everything = std::fs::read_to_string(&logged.path).expect("a log");
    assert!(!everything.contains("alice-secret"), "a key in the log");
    // Ids are the gateway's where the client has none, or none that is fit to be written down.
    let answer = get("/health").header("x-request-id", "two words").send();
    let answer = answer.await.expect("an answer");
    let id = answer.headers()["x-request-id"]
        .to_str()
        .expect("text")
        .to_owned();
    assert_eq!(id.len(), 32);
    logged.line(&id).await;
}

#[tokio::test]
async fn who_asks_too_often_is_named() {
    let worker = fake_worker(Settings::default()).await;
    let server = format!(
        "api_keys: [{{name: alice, sha256: {ALICE}, requests_per_second: 0.01, burst: 1}}]"
    );
    let logged = beside(&worker, &server, "").await;
    let alice = |request: RequestBuilder| request.bearer_auth("alice-secret-00001");
    let generate = || client().post(logged.url("/generate")).json(&generate(1));
    assert_eq!(logged.ask("within", alice(generate())).await.0, 200);
    for (id, route, request) in [
        ("beyond", "generate", generate()),
        (
            "beyond-models",
            "models",
            client().get(logged.url("/v1/models")),
        ),
    ] {
        let (status, line) = logged.ask(id, alice(request)).await;
        assert_eq!(status, 429);
        assert_eq!(line["outcome"], "limited", "{line:#}");
        assert_eq!(
            (&line["key"], &line["route"]),
            (&json!("alice"), &json!(route))
        );
    }
}

#[tokio::test]
async fn retries_and_clients_that_left_are_told() {
    let (one, two) = (
        fake_worker(Settings::default()).await,
        fake_worker(Settings::default()).await,
    );
    let logged = logged(&[one.url(), two.url()], "", "").await;
    for worker in [&one, &two] {
        let order = json!({"fault": "status=503", "count": 1});
        post_json(&format!("{}/control", worker.url()), &order).await;
    }
    let stream = client()
        .post(logged.url("/generate_stream"))
        .json(&generate(40));
    let (status, line) = logged.ask("retried", stream).await;
    assert_eq!(status, 503);
    assert_eq!(line["outcome"], "upstream_failed");
    assert_eq!(line["error"], "failed on purpose");
    assert_eq!(line["retries"], json!(1), "{line:#}");
    assert_eq!(line["workers"].as_array().map(Vec::len), Some(2));
    let body = json!({"inputs": "a long story", "parameters": {"max_new_tokens": 100_000}});
    let answer = client()
        .post(logged.url("/generate_stream"))
        .header("x-request-id", "left")
        .json(&body)
        .send();
    let mut parts = answer.await.expect("an answer").bytes_stream();
    parts.next().await.expect("a part").expect("bytes");
    drop(parts);
    let line = logged.line("left").await;
    assert_eq!(line["outcome"], "client_left", "{line:#}");
    assert!(
        line["output_tokens"]
            .as_u64()
            .is_some_and(|tokens| tokens > 0)
    );
}

#[tokio::test]
async fn a_resumed_stream_is_told_with_both_its_workers() {
    let (one, two) = (
        fake_worker(Settings::default()).await,
        fake_worker(Settings::default()).await,
    );
    let logged = logged(&[one.url(), two.url()], "", "").await;
    let order = json!({"fault": "die-mid-stream=5", "count": 1});
    for worker in [&one, &two] {
        post_json(&format!("{}/control", worker.url()), &order).await;
    }
    // The second worker breaks off too: each has its order.
    let request = client()
        .post(logged.url("/generate_stream"))
        .json(&generate(30));
    let (_, line) = logged.ask("resumed", request).await;
    assert!(
        line["resumes"].as_u64().is_some_and(|times| times >= 1),
        "{line:#}"
    );
    let workers = line["workers"].as_array().map_or(0, Vec::len);
    assert!(workers >= 2, "{line:#}");
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_begun_anew() {
    let worker = fake_worker(Settings::default()).await;
    let mut logged = beside(&worker, "", "").await;
    let old = logged.path.with_extension("old");
    logged
        .ask("before", client().get(logged.url("/info")))
        .await;
    std::fs::rename(&logged.path, &old).expect("moved");
    logged.gateway.child.signal(Signal::HUP).expect("signalled");
    let reopened = wait_until(PATIENCE, || async { logged.path.exists() }).await;
    assert!(reopened, "{}", logged.gateway.child.log_tail());
    logged.ask("after", client().get(logged.url("/info"))).await;
    assert_eq!(logged.lines().len(), 1);
    // What was answered last is written before the end.
    let last = client()
        .get(logged.url("/info"))
        .header("x-request-id", "last");
    assert_eq!(last.send().await.expect("an answer").status(), 200);
    let ended = logged.gateway.child.stop(PATIENCE).await.expect("it ends");
    assert!(ended.success(), "{ended}");
    logged.line("last").await;
}

/// Tells what it was sent, and breaks off.
async fn listener() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 8_192];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
            if head.starts_with("get /health") || head.starts_with("get /v1/models") {
                let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                let _ = stream.write_all(ok).await;
            } else {
                let _ = sender.send(head);
            }
        }
    });
    (url, receiver)
}

#[tokio::test]
async fn a_trace_and_a_request_go_by_one_name_from_client_to_worker() {
    let (url, mut heads) = listener().await;
    let logged = logged(&[url], "", "retry_attempts: 1").await;
    let traced = |request: RequestBuilder, parent: &'static str| {
        let request = request
            .header("traceparent", parent)
            .header("tracestate", "a=1");
        request.timeout(PATIENCE)
    };
    for (id, path) in [("generation", "/generate"), ("passing", "/tokenize")] {
        let request = client().post(logged.url(path)).json(&generate(3));
        let (status, line) = logged.ask(id, traced(request, TRACEPARENT)).await;
        assert_eq!(status, 502, "{line:#}");
        assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        let head = heads.recv().await.expect("a request");
        for sent in [
            format!("traceparent: {TRACEPARENT}"),
            "tracestate: a=1".to_owned(),
            format!("x-request-id: {id}"),
        ] {
            assert!(head.contains(&sent), "{sent} is not in {head}");
        }
        wait_fleet(&logged.gateway, "it is trusted again", |fleet| {
            workers(fleet)[0]["takes_requests"] == json!(true)
        })
        .await;
        while heads.try_recv().is_ok() {}
    }
    let request = client().post(logged.url("/generate")).json(&generate(3));
    let (_, line) = logged.ask("untraced", traced(request, "00-nonsense")).await;
    assert_eq!(line["trace_id"], Value::Null);
    let head = heads.recv().await.expect("a request");
    assert!(
        !head.contains("traceparent") && !head.contains("tracestate"),
        "{head}"
    );
}
