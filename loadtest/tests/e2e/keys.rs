//! Keys, what they open, and their limits; whose key goes where.

use std::process::Command;

use loadtest::fakes::worker::{Settings, Worker};
use loadtest::harness::{ConfigDir, FakeWorker, Gateway, tidegate_binary};
use reqwest::Response;
use serde_json::{Value, json};

use crate::eavesdropper::Eavesdropper;
use crate::support::*;

const ALICE: &str = "alice-secret-00001";
const BOB: &str = "bob-secret-0000002";
const WORKER: &str = "worker-secret-0003";

/// A gateway whose environment holds the keys.
async fn gateway(server: &str, endpoints: &[(&str, String)]) -> Gateway {
    let config = ConfigDir::new(&format!("{SERVER}{server}\n")).expect("a configuration");
    for (name, yaml) in endpoints {
        config.write_endpoint(name, yaml).expect("an endpoint file");
    }
    let mut command = Command::new(tidegate_binary().expect("tidegate is built"));
    command.envs([
        ("ALICE_KEY", ALICE),
        ("BOB_KEY", BOB),
        ("WORKER_KEY", WORKER),
        ("TOKEN", "an-admin-token-0001"),
    ]);
    Gateway::start_with(command, config)
        .await
        .expect("the gateway starts")
}

async fn one_endpoint(worker: &Worker, server: &str, more: &str) -> Gateway {
    let endpoint = fixed_endpoint("fake", &[worker.url()], more);
    gateway(server, &[("fake", endpoint)]).await
}

async fn call(gateway: &Gateway, path: &str, key: Option<&str>, body: &Value) -> Response {
    let request = client()
        .post(format!("{}{path}", gateway.base_url))
        .json(body)
        .timeout(PATIENCE);
    let request = match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    request.send().await.expect("an answer")
}

fn header(answer: &Response, name: &str) -> String {
    let value = answer.headers().get(name);
    value
        .unwrap_or_else(|| panic!("no {name}: {:?}", answer.headers()))
        .to_str()
        .expect("text")
        .to_owned()
}

fn count(answer: &Response, name: &str) -> i64 {
    header(answer, name).parse().expect("a whole number")
}

async fn metrics(gateway: &Gateway) -> String {
    let url = format!("{}/metrics", gateway.admin_url);
    let answer = client().get(url).send().await.expect("metrics");
    answer.text().await.expect("text")
}

#[tokio::test]
async fn calls_need_a_key_where_keys_are_configured() {
    let worker = fake_worker(Settings::default()).await;
    let server = "api_keys: [{name: alice, key: '${ALICE_KEY}'}]";
    let gateway = one_endpoint(&worker, server, "").await;
    let openai = "/v1/chat/completions";
    let refused = call(&gateway, openai, None, &chat(2, false)).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(header(&refused, "www-authenticate"), "Bearer");
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "invalid_api_key");
    for key in [BOB, "", "alice-secret-0000", "alice-secret-000010"] {
        let refused = call(&gateway, "/generate", Some(key), &generate(2)).await;
        assert_eq!(refused.status(), 401, "{key:?}");
    }
    let answer = call(&gateway, "/generate", Some(ALICE), &generate(2)).await;
    assert_eq!(answer.status(), 200);
    assert!(
        !gateway.child.log().contains("alice-secret"),
        "a key in the log"
    );
    let shown = [metrics(&gateway).await, fleet(&gateway).await.to_string()].concat();
    assert!(!shown.contains("alice-secret"), "a key is shown");
    let refused = shown
        .lines()
        .find_map(|line| {
            line.strip_prefix("tidegate_key_refusals_total{key=\"\",rule=\"unknown_key\"} ")
        })
        .map(|count| count.parse::<u32>());
    assert!(matches!(refused, Some(Ok(5..))), "{refused:?}");
}

#[tokio::test]
async fn a_key_opens_its_endpoints_and_no_other() {
    let worker = fake_worker(Settings::default()).await;
    let urls = [worker.url()];
    let own = "api_keys: [{name: bob, key: '${BOB_KEY}'}]";
    let gateway = gateway(
        "api_keys: [{name: alice, key: '${ALICE_KEY}', endpoints: [one]}]",
        &[
            ("one", fixed_endpoint("one", &urls, "")),
            ("two", fixed_endpoint("two", &urls, own)),
        ],
    )
    .await;
    for (key, endpoint, status) in [
        (ALICE, "one", 200),
        (ALICE, "two", 403),
        (BOB, "one", 403),
        (BOB, "two", 200),
    ] {
        let by_path = format!("/{endpoint}/generate");
        let answer = call(&gateway, &by_path, Some(key), &generate(2)).await;
        assert_eq!(answer.status(), status, "{key} {by_path}");
        let mut body = chat(2, false);
        body["model"] = json!(endpoint);
        let answer = call(&gateway, "/v1/chat/completions", Some(key), &body).await;
        assert_eq!(answer.status(), status, "{key} model {endpoint}");
        if status == 403 {
            let body: Value = answer.json().await.expect("JSON");
            assert_eq!(body["error"]["code"], "insufficient_permissions");
        }
    }
    let mut wrong = chat(2, false);
    wrong["model"] = json!("three");
    let answer = call(&gateway, "/v1/chat/completions", Some(BOB), &wrong).await;
    let said = answer.text().await.expect("text");
    assert!(said.contains("there is two"), "names of others: {said}");
    let models = client()
        .get(format!("{}/v1/models", gateway.base_url))
        .bearer_auth(BOB)
        .send()
        .await
        .expect("models");
    let models: Value = models.json().await.expect("JSON");
    assert_eq!(models["data"].as_array().map(Vec::len), Some(1), "{models}");
    assert_eq!(models["data"][0]["id"], "two");
}

#[tokio::test]
async fn requests_over_the_rate_get_429_and_when_to_come_back() {
    let worker = fake_worker(Settings::default()).await;
    // One in a hundred seconds: no pause of a busy machine earns another.
    let server =
        "api_keys: [{name: alice, key: '${ALICE_KEY}', requests_per_second: 0.01, burst: 2}]";
    let gateway = one_endpoint(&worker, server, "").await;
    let mut left = Vec::new();
    for _ in 0..2 {
        let mut body = generate(2);
        body["stream"] = json!(true);
        let answer = call(&gateway, "/", Some(ALICE), &body).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "content-type"), "text/event-stream");
        assert_eq!(count(&answer, "x-ratelimit-limit-requests"), 2);
        left.push(count(&answer, "x-ratelimit-remaining-requests"));
        answer.bytes().await.expect("a whole stream");
    }
    assert_eq!(left, [1, 0]);
    let refused = call(&gateway, "/v1/completions", Some(ALICE), &json!({})).await;
    assert_eq!(refused.status(), 429);
    assert!((90..=100).contains(&count(&refused, "retry-after")));
    assert_eq!(count(&refused, "x-ratelimit-remaining-requests"), 0);
    assert!(header(&refused, "x-ratelimit-reset-requests").starts_with("3m"));
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["error"]["type"], "rate_limit_error");
    let refused = call(&gateway, "/generate", Some(ALICE), &generate(2)).await;
    assert_eq!(refused.status(), 429);
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["error_type"], "rate_limited");
    let metrics = metrics(&gateway).await;
    let line = "tidegate_key_refusals_total{key=\"alice\",rule=\"requests_per_second\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn tokens_are_charged_when_a_request_comes_and_corrected_when_it_ends() {
    let worker = fake_worker(Settings::default()).await;
    let server = "api_keys: [{name: alice, key: '${ALICE_KEY}', tokens_per_minute: 40}]";
    let gateway = one_endpoint(&worker, server, "").await;
    let answer = call(&gateway, "/generate", Some(ALICE), &generate(60)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(count(&answer, "x-ratelimit-limit-tokens"), 40);
    let left = count(&answer, "x-ratelimit-remaining-tokens");
    assert!(
        (5..35).contains(&left),
        "some are charged at arrival: {left} left"
    );
    answer.bytes().await.expect("an answer");
    // It took more than a minute's tokens, which was not foreseen: not even the shortest passes now.
    let refused = call(&gateway, "/generate", Some(ALICE), &generate(1)).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(count(&refused, "x-ratelimit-remaining-tokens"), 0);
    let after = count(&refused, "retry-after");
    assert!((15..=60).contains(&after), "retry after {after} s");
    let used = metrics(&gateway).await;
    let used = used
        .lines()
        .find_map(|line| line.strip_prefix("tidegate_key_tokens_total{key=\"alice\"} "))
        .expect("tokens of alice")
        .parse::<u64>()
        .expect("a number");
    assert!((60..80).contains(&used), "{used} used");
}

#[tokio::test]
async fn what_was_given_is_charged_though_nobody_went_on_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["--a-ms", "5"];
    let worker = FakeWorker::start(&flags, folder.path())
        .await
        .expect("a worker");
    let more = "max_wait_time: 0.5\nmax_wait_time_busy: 0.5";
    let endpoint = fixed_endpoint("fake", std::slice::from_ref(&worker.url), more);
    let server = "api_keys: [{name: alice, key: '${ALICE_KEY}', tokens_per_minute: 1000}]";
    let gateway = gateway(server, &[("fake", endpoint)]).await;
    wait_ready(&gateway, 1).await;
    let mut body = generate(400);
    body["parameters"]["user"] = json!("fault:exit=60");
    let answer = call(&gateway, "/generate_stream", Some(ALICE), &body).await;
    let all = events(answer).await.expect("an end");
    assert!(all.len() >= 60, "{} events", all.len());
    assert!(!all.last().expect("events").json()["error"].is_null());
    let metrics = metrics(&gateway).await;
    let count = |line: &str| {
        let found = metrics.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |count| count.trim().parse::<u64>().expect("a number"))
    };
    let used = count("tidegate_key_tokens_total{key=\"alice\"}");
    assert!((60..100).contains(&used), "{used} used");
    let broken = |outcome: &str| {
        count(&format!(
            "tidegate_streams_broken_total{{endpoint=\"fake\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((broken("no_worker"), broken("resumed")), (1, 0));
}

#[tokio::test]
async fn a_key_has_no_more_requests_at_once_than_it_may() {
    let worker = fake_worker(Settings::default()).await;
    let server = "api_keys: [{name: alice, key: '${ALICE_KEY}', max_concurrency: 1}, {name: bob, key: '${BOB_KEY}'}]";
    let gateway = one_endpoint(&worker, server, "").await;
    let mut hang = generate(100);
    hang["parameters"]["user"] = json!("fault:hang=1");
    let held = call(&gateway, "/generate_stream", Some(ALICE), &hang).await;
    assert_eq!(held.status(), 200);
    let refused = call(&gateway, "/generate", Some(ALICE), &generate(2)).await;
    assert_eq!(refused.status(), 429);
    let other = call(&gateway, "/generate", Some(BOB), &generate(2)).await;
    assert_eq!(other.status(), 200, "another key has places of its own");
    drop(held);
    let freed = loadtest::harness::wait_until(PATIENCE, || async {
        let answer = call(&gateway, "/generate", Some(ALICE), &generate(2)).await;
        answer.status() == 200
    })
    .await;
    assert!(freed, "the place of a client that left is not free again");
}

#[tokio::test]
async fn a_reload_changes_keys_and_keeps_what_was_used() {
    let worker = fake_worker(Settings::default()).await;
    let server = |burst: u32, more: &str| {
        format!(
            "admin_token: '${{TOKEN}}'\napi_keys: [{{name: alice, key: '${{ALICE_KEY}}', requests_per_second: 0.001, burst: {burst}}}{more}]"
        )
    };
    let gateway = one_endpoint(&worker, &server(2, ""), "").await;
    let answer = call(&gateway, "/generate", Some(ALICE), &generate(2)).await;
    assert_eq!(count(&answer, "x-ratelimit-remaining-requests"), 1);
    let more = ", {name: bob, key: '${BOB_KEY}'}";
    gateway
        .config
        .write_server(&format!("{SERVER}{}", server(3, more)))
        .expect("written");
    let reloaded = client()
        .post(format!("{}/reload", gateway.admin_url))
        .bearer_auth("an-admin-token-0001")
        .send()
        .await
        .expect("an answer");
    assert_eq!(reloaded.status(), 200);
    let answer = call(&gateway, "/generate", Some(ALICE), &generate(2)).await;
    assert_eq!(
        count(&answer, "x-ratelimit-remaining-requests"),
        1,
        "three, and two are used"
    );
    let answer = call(&gateway, "/generate", Some(BOB), &generate(2)).await;
    assert_eq!(answer.status(), 200, "a new key opens at once");
}

#[tokio::test]
async fn the_clients_key_stays_here_and_the_workers_key_goes_only_to_the_worker() {
    let worker = Eavesdropper::start("x-worker-secret: worker-secret-0003\r\n").await;
    let endpoint = format!(
        "endpoint_name: fake\nmarket: {{kind: fixed, engine: vllm, workers: [{{url: \"{}\", api_key: '${{WORKER_KEY}}'}}]}}\n",
        worker.url
    );
    let server = "api_keys: [{name: alice, key: '${ALICE_KEY}'}]";
    let gateway = gateway(server, &[("fake", endpoint)]).await;
    let body = json!({"model": "fake", "prompt": "hi", "max_tokens": 2});
    let answer = call(&gateway, "/v1/completions", Some(ALICE), &body).await;
    let (status, headers) = (answer.status(), format!("{:?}", answer.headers()));
    let answer = answer.text().await.expect("a body");
    assert_eq!(status, 200, "{answer}");
    assert!(
        !headers.contains(WORKER) && !answer.contains(WORKER),
        "the worker's key reached the client: {headers}"
    );
    let heard = worker.heard();
    let bearer = format!("authorization: bearer {WORKER}");
    for request in ["GET /health", "GET /v1/models", "POST /v1/completions"] {
        let asked = heard
            .split("HTTP/1.1\r\n")
            .zip(heard.split("HTTP/1.1\r\n").skip(1));
        let found = asked
            .filter(|(before, _)| before.trim_end().ends_with(request))
            .any(|(_, after)| after.to_ascii_lowercase().contains(&bearer));
        assert!(found, "{request} without the worker's key:\n{heard}");
    }
    assert!(
        !heard.contains(ALICE),
        "the client's key reached the worker"
    );
    assert!(!gateway.child.log().contains(WORKER), "a key in the log");
}
