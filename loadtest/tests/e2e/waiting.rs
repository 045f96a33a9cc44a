//! The waiting room as its clients meet it: order, bounds, time limits, what they are told.

use std::sync::Arc;

use loadtest::fakes::worker::{Settings, Worker};
use loadtest::harness::{ConfigDir, Gateway};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::*;

/// One place at the only worker.
const ONE_AT_A_TIME: &str =
    "worker_groups: [{name: given, engine: fake, max_concurrency: 1}]\nmax_wait_time_busy: 30";

const LOUD_KEY: &str = "Bearer loud-secret-000001";
const LOUD_SHA256: &str = "bc8d72b81fffa0a90bedf8df8a512bfcaecbaa54637d972fc4463b003c739837";
const QUIET_KEY: &str = "Bearer quiet-secret-00001";
const QUIET_SHA256: &str = "2854336ab188a7fa41088b56426db5a4e1706bba54f3a1c553f543cfc460c2fb";

/// A stream that holds a worker's place until it is dropped.
async fn hang(url: &str) -> Response {
    let mut body = generate(100);
    body["parameters"]["user"] = json!("fault:hang=1");
    post(&format!("{url}/generate_stream"), &body).await
}

async fn ask(url: &str, headers: &[(&str, &str)], body: &Value) -> Response {
    let mut request = client().post(url).json(body).timeout(PATIENCE);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

fn seconds_of(answer: &Response) -> u64 {
    let after = answer.headers().get("retry-after").expect("Retry-After");
    let after = after.to_str().expect("text");
    after.parse().expect("seconds")
}

#[tokio::test]
async fn a_clients_urgent_requests_are_served_before_its_others() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], ONE_AT_A_TIME).await;
    let running = hang(&gateway.base_url).await;
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    let wishes = [
        ("ordinary", json!(null), None),
        ("patient", json!(5), None),
        ("urgent", json!(-5), None),
        ("by header", json!(9), Some(("x-priority", "-7"))),
    ];
    for (n, (who, priority, header)) in wishes.into_iter().enumerate() {
        let mut body = generate(2);
        body["priority"] = priority;
        let url = format!("{}/generate", gateway.base_url);
        let served = Arc::clone(&served);
        waiters.push(tokio::spawn(async move {
            let status = ask(&url, header.as_slice(), &body).await.status();
            served.lock().await.push(who);
            status
        }));
        wait_fleet(&gateway, "it waits", |fleet| waiting(fleet) == n as u64 + 1).await;
    }
    drop(running);
    for waiter in waiters {
        assert_eq!(waiter.await.expect("an answer"), 200);
    }
    assert_eq!(
        *served.lock().await,
        ["by header", "urgent", "ordinary", "patient"]
    );
}

#[tokio::test]
async fn a_priority_that_is_no_integer_is_refused() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    let mut body = chat(2, false);
    assert_eq!(
        ask(&url, &[("x-priority", "high")], &body).await.status(),
        400
    );
    body["priority"] = json!("high");
    let answer: Value = ask(&url, &[], &body).await.json().await.expect("JSON");
    assert_eq!(answer["error"]["param"], "priority");
}

#[tokio::test]
async fn the_time_a_request_may_wait_is_that_of_what_it_waits_for() {
    let gateway = local_gateway(
        "max_workers: 1\nmax_wait_time: 0.7\nmax_wait_time_busy: 30\ninactivity_timeout: -1",
        "--load-time 4",
    )
    .await;
    let url = format!("{}/generate", gateway.base_url);
    let early = post(&url, &generate(2)).await;
    assert_eq!(early.status(), 503, "no worker was there in time");
    assert!(seconds_of(&early) >= 2, "the worker takes seconds yet");
    wait_fleet(&gateway, "a worker", |fleet| phases(fleet) == ["ready"]).await;
    assert_eq!(post(&url, &generate(2)).await.status(), 200);
    // Eight places, then one who waits longer than it could for a worker to start.
    let mut running = Vec::new();
    for _ in 0..8 {
        running.push(hang(&gateway.base_url).await);
    }
    let waiter = tokio::spawn(async move { post(&url, &generate(2)).await.status() });
    wait_fleet(&gateway, "one waits for a busy worker", |fleet| {
        fleet["endpoints"][0]["waiting"]["reason"] == "all_busy"
            && waited_ms(fleet).is_some_and(|waited| waited > 1_000)
    })
    .await;
    drop(running);
    assert_eq!(waiter.await.expect("an answer"), 200);
}

fn waited_ms(fleet: &Value) -> Option<u64> {
    let since = fleet["endpoints"][0]["waiting"]["oldest_since"].as_u64()?;
    fleet["taken_at"].as_u64()?.checked_sub(since)
}

async fn gateway_with_keys(worker: &Worker, more: &str) -> Gateway {
    let keys = format!(
        "api_keys: [{{name: loud, sha256: {LOUD_SHA256}}}, {{name: quiet, sha256: {QUIET_SHA256}}}]\n"
    );
    let config = ConfigDir::new(&format!("{SERVER}{keys}")).expect("a directory");
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &[worker.url()], more))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    wait_fleet(&gateway, "a worker", |fleet| phases(fleet) == ["ready"]).await;
    gateway
}

#[tokio::test]
async fn a_flood_of_one_key_fills_its_share_of_the_room_and_another_key_is_served_next() {
    let worker = fake_worker(Settings::default()).await;
    let more = format!("{ONE_AT_A_TIME}\nmax_waiting_requests: 10\nmax_waiting_share: 0.5");
    let gateway = gateway_with_keys(&worker, &more).await;
    let url = format!("{}/generate", gateway.base_url);
    let loud = [("authorization", LOUD_KEY)];
    let quiet = [("authorization", QUIET_KEY)];
    let mut body = generate(100);
    body["parameters"]["user"] = json!("fault:hang=1");
    let stream = format!("{}/generate_stream", gateway.base_url);
    let running = ask(&stream, &loud, &body).await;
    let flood: Vec<_> = (0..5)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { ask(&url, &loud, &generate(150)).await.status() })
        })
        .collect();
    wait_fleet(&gateway, "its share waits", |fleet| waiting(fleet) == 5).await;
    let refused = ask(&url, &loud, &generate(150)).await;
    assert_eq!(refused.status(), 503);
    assert!(
        refused
            .text()
            .await
            .expect("text")
            .contains("of this client")
    );
    let other = tokio::spawn({
        let url = url.clone();
        async move { ask(&url, &quiet, &generate(2)).await.status() }
    });
    wait_fleet(&gateway, "the other waits too", |fleet| waiting(fleet) == 6).await;
    drop(running);
    assert_eq!(other.await.expect("an answer"), 200);
    let left = waiting(&fleet(&gateway).await);
    assert!(
        left >= 3,
        "the other did not wait for the flood: {left} left"
    );
    for request in flood {
        assert_eq!(request.await.expect("an answer"), 200);
    }
}

const TELL: (&str, &str) = ("x-tidegate-wait-events", "on");

/// Reads on until the text holds `what`; returns all that was read.
async fn read_until(answer: &mut Response, mut text: String, what: &str) -> String {
    while !text.contains(what) {
        let chunk = answer.chunk().await.expect("an open stream");
        let chunk = chunk.unwrap_or_else(|| panic!("ended without {what:?}: {text}"));
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

#[tokio::test]
async fn a_held_client_that_wants_it_is_told_its_place_and_then_gets_an_ordinary_stream() {
    let worker = fake_worker(Settings::default()).await;
    let more = format!("{ONE_AT_A_TIME}\nwait_events_interval: 0.2");
    let gateway = fixed_gateway(&[&worker], &more).await;
    let running = hang(&gateway.base_url).await;
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    let mut held = ask(&url, &[TELL], &chat(3, true)).await;
    assert_eq!(held.status(), 200);
    assert_eq!(held.headers()["content-type"], "text/event-stream");
    let text = read_until(&mut held, String::new(), "\n\n: waiting").await;
    assert!(
        text.starts_with(": waiting place=1 of=1 expected="),
        "{text}"
    );
    let mut second = ask(&url, &[TELL], &chat(3, true)).await;
    let place = read_until(&mut second, String::new(), "\n\n").await;
    assert!(
        place.starts_with(": waiting place=2 of=2 expected="),
        "{place}"
    );
    drop(running);
    for mut answer in [held, second] {
        let text = read_until(&mut answer, String::new(), "data: [DONE]\n\n").await;
        let events = text
            .split("\n\n")
            .filter(|event| event.starts_with("data: {"));
        assert!(events.count() >= 3, "{text}");
        assert_eq!(answer.chunk().await.expect("a proper end"), None);
    }
}

#[tokio::test]
async fn who_was_told_and_then_refused_reads_so_in_its_stream() {
    let worker = fake_worker(Settings::default()).await;
    let more = "worker_groups: [{name: given, engine: fake, max_concurrency: 1}]\n\
                max_wait_time_busy: 0.6\nwait_events: true\nwait_events_interval: 0.2";
    let gateway = fixed_gateway(&[&worker], more).await;
    let _running = hang(&gateway.base_url).await;
    let url = format!("{}/generate_stream", gateway.base_url);
    let told = ask(&url, &[], &generate(3)).await;
    assert_eq!(told.status(), 200);
    let text = told.text().await.expect("a proper end");
    assert!(text.starts_with(": waiting place=1 of=1"), "{text}");
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    let event: Value =
        serde_json::from_str(last.strip_prefix("data:").expect("data")).expect("JSON");
    let error = event["error"].as_str().expect("an error event");
    assert!(error.contains("no worker became free"), "{text}");
    let off = [("x-tidegate-wait-events", "off")];
    assert_eq!(ask(&url, &off, &generate(3)).await.status(), 503);
    let whole = format!("{}/generate", gateway.base_url);
    assert_eq!(ask(&whole, &[TELL], &generate(3)).await.status(), 503);
}

#[tokio::test]
async fn a_worker_that_fails_after_the_first_word_to_the_client_is_replaced_unseen() {
    let (bad, good) = (
        fake_worker(Settings::default()).await,
        fake_worker(Settings::default()).await,
    );
    let more = format!("{ONE_AT_A_TIME}\nwait_events_interval: 0.2");
    let gateway = fixed_gateway(&[&bad, &good], &more).await;
    let first = hang(&gateway.base_url).await;
    let fleet = wait_fleet(&gateway, "one is busy", |fleet| in_flight(fleet) == 1).await;
    let second = hang(&gateway.base_url).await;
    let busy = workers(&fleet)
        .into_iter()
        .find(|worker| worker["in_flight"] == 1)
        .expect("a busy worker");
    let first_is_bad = bad
        .url()
        .ends_with(busy["address"].as_str().expect("an address"));
    let (on_bad, on_good) = if first_is_bad {
        (first, second)
    } else {
        (second, first)
    };
    let order = json!({"fault": "status=500", "count": null});
    post(&format!("{}/control", bad.url()), &order).await;
    let url = format!("{}/generate_stream", gateway.base_url);
    let mut held = ask(&url, &[TELL], &generate(3)).await;
    let text = read_until(&mut held, String::new(), "\n\n").await;
    drop(on_bad);
    wait_fleet(&gateway, "it waits again", |fleet| {
        waiting(fleet) == 1 && in_flight(fleet) == 1
    })
    .await;
    drop(on_good);
    let text = read_until(&mut held, text, "\"generated_text\":\"").await;
    assert!(!text.contains("error"), "{text}");
    assert_eq!(held.chunk().await.expect("a proper end"), None);
}
