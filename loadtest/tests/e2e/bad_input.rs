//! Mistakes of clients: an answer at once, in the shape of the interface they called, and no worker disturbed.

use loadtest::fakes::worker::Settings;
use serde_json::{Value, json};

use crate::support::*;

async fn raw(method: &str, url: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let method = method.parse().expect("a method");
    let answer = client()
        .request(method, url)
        .header("content-type", "application/json")
        .body(body)
        .timeout(PATIENCE)
        .send()
        .await
        .expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("a JSON error"))
}

#[track_caller]
fn check_tgi(answer: (u16, Value), status: u16) {
    assert_eq!(answer.0, status, "{}", answer.1);
    assert!(
        answer.1["error"].is_string() && answer.1["error_type"].is_string(),
        "{}",
        answer.1
    );
}

#[track_caller]
fn check_openai(answer: (u16, Value), status: u16) {
    assert_eq!(answer.0, status, "{}", answer.1);
    let error = &answer.1["error"];
    assert!(
        error["message"].is_string() && error["type"].is_string(),
        "{}",
        answer.1
    );
}

#[tokio::test]
async fn wrong_requests_are_refused_in_the_shape_of_their_interface() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "max_new_tokens: 4096").await;
    let base = &gateway.base_url;
    let tgi = format!("{base}/generate");
    let openai = format!("{base}/v1/chat/completions");

    check_tgi(raw("POST", &tgi, "{not json").await, 422);
    check_tgi(raw("POST", &tgi, "").await, 422);
    check_tgi(raw("POST", &tgi, "[1, 2]").await, 422);
    for parameters in [
        json!({"max_new_tokens": -1}),
        json!({"max_new_tokens": 0}),
        json!({"max_new_tokens": 1e30}),
        json!({"max_new_tokens": 4097}),
        json!({"max_new_tokens": "12"}),
        json!([]),
    ] {
        let body = json!({"inputs": "a", "parameters": parameters}).to_string();
        check_tgi(raw("POST", &tgi, body).await, 422);
    }
    check_tgi(raw("POST", &tgi, r#"{"inputs": 7}"#).await, 422);
    check_tgi(raw("POST", &tgi, r#"{"parameters": {}}"#).await, 422);

    check_openai(raw("POST", &openai, "{not json").await, 400);
    for (key, value) in [
        ("max_tokens", json!(-3)),
        ("max_tokens", json!(1_000_000)),
        ("messages", json!("hello")),
        ("messages", json!([])),
        ("stream", json!("yes")),
        ("n", json!(0)),
    ] {
        let mut body = chat(5, false);
        body[key] = value;
        check_openai(raw("POST", &openai, body.to_string()).await, 400);
    }

    check_openai(raw("GET", &format!("{base}/v1/nothing"), "").await, 404);
    check_tgi(raw("GET", &tgi, "").await, 405);
    check_openai(raw("PUT", &openai, "").await, 405);

    let figures = worker.figures();
    assert_eq!((figures.running, figures.waiting), (0, 0));
    assert_eq!(
        workers(&fleet(&gateway).await)[0]["requests_total"],
        json!(0),
        "a worker was disturbed"
    );
}

#[tokio::test]
async fn an_unknown_model_is_named_together_with_those_there_are() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "model_names: [llama-3]").await;
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    let mut body = chat(5, false);
    body["model"] = json!("gpt-9");
    let (status, answer) = post_json(&url, &body).await;
    assert_eq!(status, 404);
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("gpt-9") && message.contains("fake") && message.contains("llama-3"),
        "{message}"
    );
    body["model"] = json!("llama-3");
    assert_eq!(post_json(&url, &body).await.0, 200);
    let (status, answer) = post_json(
        &format!("{}/nobody/generate", gateway.base_url),
        &generate(2),
    )
    .await;
    assert_eq!(status, 404, "{answer}");
    assert!(
        answer["error"]
            .as_str()
            .is_some_and(|text| text.contains("fake")),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_is_framed() {
    let worker = fake_worker(Settings::default()).await;
    let config = loadtest::harness::ConfigDir::new(&format!("{SERVER}max_body_bytes: 10000\n"))
        .expect("config");
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &[worker.url()], ""))
        .expect("an endpoint file");
    let gateway = loadtest::harness::Gateway::start(config)
        .await
        .expect("a gateway");
    let url = format!("{}/generate", gateway.base_url);
    let body = json!({"inputs": "x".repeat(20_000)}).to_string();
    check_tgi(raw("POST", &url, body.clone()).await, 413);
    let parts: Vec<Result<Vec<u8>, std::io::Error>> = body
        .as_bytes()
        .chunks(1_000)
        .map(|part| Ok(part.to_vec()))
        .collect();
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    check_tgi(raw("POST", &url, chunked).await, 413);
}

#[tokio::test]
async fn a_full_waiting_room_answers_503_with_retry_after() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(
        &[&worker],
        "max_waiting_requests: 1\nmax_wait_time_busy: 0.5\nworker_groups: [{name: given, engine: fake, max_concurrency: 1}]",
    )
    .await;
    let url = format!("{}/generate_stream", gateway.base_url);
    let mut hang = generate(100);
    hang["parameters"]["user"] = json!("fault:hang=1");
    let held = post(&url, &hang).await;
    let waiter = tokio::spawn({
        let url = url.clone();
        async move { post(&url, &generate(3)).await.status().as_u16() }
    });
    wait_fleet(&gateway, "one waits", |fleet| waiting(fleet) == 1).await;
    let refused = post(&url, &generate(3)).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(
        waiter.await.expect("an answer"),
        503,
        "waited longer than max_wait_time_busy"
    );
    drop(held);
}
