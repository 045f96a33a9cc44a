//! Requests that change their worker: taken from one that is going, asked of a second one when the first is late.

use std::path::Path;
use std::time::Duration;

use loadtest::fakes::worker::{Settings, Worker};
use loadtest::harness::Gateway;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::late_refuser::LateRefuser;
use crate::support::*;

fn story(tokens: u32) -> Value {
    json!({"prompt": "once upon a time", "max_tokens": tokens, "temperature": 0, "stream": true})
}

/// The text of a stream that must be whole.
fn stream(base_url: &str, tokens: u32) -> JoinHandle<String> {
    let url = format!("{base_url}/v1/completions");
    tokio::spawn(async move {
        let events = events(post(&url, &story(tokens)).await)
            .await
            .expect("no break");
        let (done, chunks) = events.split_last().expect("events");
        assert_eq!(done.data, "[DONE]");
        let text = |event: &Event| {
            let chunk = event.json();
            assert!(chunk["error"].is_null(), "{chunk}");
            chunk["choices"][0]["text"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        chunks.iter().map(text).collect()
    })
}

/// What any worker says alone.
async fn undisturbed(tokens: u32) -> String {
    let worker = fake_worker(pace(1.0)).await;
    stream(&worker.url(), tokens).await.expect("a text")
}

async fn order(worker: &Worker, order: Value) {
    let answer = post(&format!("{}/control", worker.url()), &order).await;
    assert!(answer.status().is_success());
}

fn write_workers(gateway: &Gateway, workers: &[&Worker], more: &str) {
    let urls: Vec<String> = workers.iter().map(|worker| worker.url()).collect();
    gateway
        .config
        .write_endpoint("fake", &fixed_endpoint("fake", &urls, more))
        .expect("an endpoint file");
}

async fn metric(gateway: &Gateway, line: &str) -> f64 {
    let text = client()
        .get(format!("{}/metrics", gateway.admin_url))
        .send()
        .await
        .expect("metrics");
    let text = text.text().await.expect("text");
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    found.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

#[tokio::test]
async fn streams_of_a_worker_that_leaves_the_configuration_go_on_at_another() {
    let (one, two) = (fake_worker(pace(30.0)).await, fake_worker(pace(30.0)).await);
    let drain = "timeouts: {drain: 0.3}";
    let gateway = fixed_gateway(&[&one, &two], drain).await;
    let undisturbed = undisturbed(300).await;
    let streams: Vec<_> = (0..4).map(|_| stream(&gateway.base_url, 300)).collect();
    wait_fleet(&gateway, "both workers have streams", |fleet| {
        workers(fleet)
            .iter()
            .all(|worker| worker["in_flight"] == 2 && worker["output_tokens_total"] != 0)
    })
    .await;
    write_workers(&gateway, &[&two], drain);
    for stream in streams {
        assert_eq!(stream.await.expect("a text"), undisturbed);
    }
    let moved = metric(
        &gateway,
        "tidegate_streams_broken_total{endpoint=\"fake\",outcome=\"resumed\"}",
    );
    assert_eq!(moved.await, 2.0);
}

/// How often a broken stream went on elsewhere.
async fn resumed(gateway: &Gateway) -> f64 {
    let line = "tidegate_streams_broken_total{endpoint=\"fake\",outcome=\"resumed\"}";
    metric(gateway, line).await
}

#[tokio::test]
async fn a_stream_that_can_end_at_a_worker_that_left_the_configuration_does() {
    let (one, two) = (fake_worker(pace(20.0)).await, fake_worker(pace(20.0)).await);
    let gateway = fixed_gateway(&[&one, &two], "").await;
    let streams: Vec<_> = (0..2).map(|_| stream(&gateway.base_url, 100)).collect();
    wait_fleet(&gateway, "a stream at each worker", |fleet| {
        workers(fleet)
            .iter()
            .all(|worker| worker["in_flight"] == 1 && worker["output_tokens_total"] != 0)
    })
    .await;
    write_workers(&gateway, &[&two], "");
    wait_fleet(&gateway, "the worker drains", |fleet| {
        phases(fleet).contains(&"draining".to_owned())
    })
    .await;
    for stream in streams {
        stream.await.expect("a whole stream");
    }
    assert_eq!(resumed(&gateway).await, 0.0);
    wait_fleet(&gateway, "it is gone", |fleet| phases(fleet) == ["ready"]).await;
}

#[tokio::test]
async fn a_stream_stays_with_its_draining_worker_until_another_has_a_place() {
    let (one, two) = (fake_worker(pace(20.0)).await, fake_worker(pace(20.0)).await);
    let more = "timeouts: {drain: 0.2, silence: 60, between_bytes: 60}\nworker_groups: [{max_concurrency: 1}]";
    let gateway = fixed_gateway(&[&one, &two], more).await;
    // It holds its place, says nothing and cannot be moved.
    let mut hang = story(50);
    hang["logprobs"] = json!(1);
    hang["user"] = json!("fault:hang=1");
    let url = format!("{}/v1/completions", gateway.base_url);
    let hung = post(&url, &hang).await;
    let at = wait_fleet(&gateway, "one place is taken", |fleet| {
        in_flight(fleet) == 1
    })
    .await;
    let taken = workers(&at)
        .into_iter()
        .find(|worker| worker["in_flight"] == 1)
        .expect("a worker");
    let kept = match taken["address"] == json!(one.address().to_string()) {
        true => &one,
        false => &two,
    };
    let asked = post(&url, &story(150)).await;
    write_workers(&gateway, &[kept], more);
    wait_fleet(&gateway, "it waits for a place elsewhere", |fleet| {
        waiting(fleet) == 1
    })
    .await;
    let all = events(asked).await.expect("no break");
    assert_eq!(all.last().expect("events").data, "[DONE]");
    let gaps = all.windows(2).map(|pair| pair[1].at - pair[0].at);
    let longest = gaps.max().expect("events");
    assert!(
        longest < Duration::from_secs(2),
        "nothing came for {longest:?}"
    );
    assert_eq!(resumed(&gateway).await, 0.0);
    drop(hung);
}

#[tokio::test]
async fn a_drain_that_takes_too_long_moves_its_streams_and_cuts_none() {
    let more = |min_load| {
        format!(
            "min_load: {min_load}\nmax_workers: 2\nscale_down_delay: 0\ntimeouts: {{drain: 0.3}}\n"
        )
    };
    let gateway = local_gateway(&more(700), "--a-ms 40").await;
    wait_fleet(&gateway, "two workers", |fleet| {
        phases(fleet) == ["ready", "ready"]
    })
    .await;
    let undisturbed = undisturbed(100).await;
    let streams: Vec<_> = (0..2).map(|_| stream(&gateway.base_url, 100)).collect();
    wait_fleet(&gateway, "a stream at each worker", |fleet| {
        workers(fleet).iter().all(|worker| worker["in_flight"] == 1)
    })
    .await;
    gateway
        .config
        .write_endpoint("fake", &local_endpoint(&more(1), "--a-ms 40"))
        .expect("an endpoint file");
    wait_fleet(&gateway, "one worker has both streams", |fleet| {
        workers(fleet).iter().any(|worker| worker["in_flight"] == 2)
    })
    .await;
    for stream in streams {
        assert_eq!(stream.await.expect("a text"), undisturbed);
    }
}

#[tokio::test]
async fn a_request_that_waits_at_a_worker_that_fell_silent_is_answered_by_another() {
    let (one, two) = (fake_worker(pace(1.0)).await, fake_worker(pace(1.0)).await);
    let gateway = fixed_gateway(&[&one, &two], "").await;
    for worker in [&one, &two] {
        order(worker, json!({"fault": "hang", "count": 1})).await;
    }
    let url = format!("{}/generate", gateway.base_url);
    let held = tokio::spawn(async move { post_json(&url, &generate(5)).await });
    let at = wait_fleet(&gateway, "it waits at a worker", |fleet| {
        in_flight(fleet) == 1
    })
    .await;
    let busy = workers(&at)
        .into_iter()
        .find(|worker| worker["in_flight"] == 1)
        .expect("a worker");
    let (silent, other) = if busy["address"] == json!(one.address().to_string()) {
        (&one, &two)
    } else {
        (&two, &one)
    };
    order(other, json!({"clear": true})).await;
    order(silent, json!({"health": 500})).await;
    let (status, body) = held.await.expect("an answer");
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_first_token_that_is_late_is_asked_of_a_second_worker() {
    let once = tempfile::tempdir().expect("a folder");
    let settings = |once: &Path| Settings {
        once_dir: Some(once.to_owned()),
        ..pace(1.0)
    };
    let one = fake_worker(settings(once.path())).await;
    let two = fake_worker(settings(once.path())).await;
    let gateway = fixed_gateway(&[&one, &two], "hedge_share: 1\nhedge_after_min: 0.3").await;
    let url = format!("{}/v1/completions", gateway.base_url);
    for _ in 0..110 {
        let answer = post(&url, &story(1)).await;
        assert!(answer.status().is_success());
        answer.text().await.expect("whole");
    }
    let mut late = story(5);
    late["user"] = json!("fault:hang#late");
    let began = tokio::time::Instant::now();
    let answer = events(post(&url, &late).await).await.expect("whole");
    assert_eq!(answer.last().expect("events").data, "[DONE]");
    // Without a second worker it would hang for the ten minutes of `timeouts.first_byte`.
    assert!(began.elapsed() < Duration::from_secs(20));
    let won = metric(
        &gateway,
        "tidegate_hedges_total{endpoint=\"fake\",outcome=\"won\"}",
    );
    assert!(won.await >= 1.0);
    wait_fleet(&gateway, "the loser is let go", |fleet| {
        in_flight(fleet) == 0
    })
    .await;
}

#[tokio::test]
async fn both_of_two_workers_that_failed_a_late_request_count_as_tried() {
    let workers = [LateRefuser::start().await, LateRefuser::start().await];
    let urls: Vec<String> = workers.iter().map(|worker| worker.url.clone()).collect();
    let config = loadtest::harness::ConfigDir::new(SERVER).expect("a configuration");
    let more = "hedge_share: 1\nhedge_after_min: 0.2\nretry_attempts: 9\nejection: {consecutive_errors: 0}";
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &urls, more))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    wait_ready(&gateway, 2).await;
    let url = format!("{}/v1/completions", gateway.base_url);
    for _ in 0..110 {
        let answer = post(&url, &story(1)).await;
        assert!(answer.status().is_success());
        answer.text().await.expect("whole");
    }
    let mut late = story(1);
    late["user"] = json!("late");
    assert_eq!(post_json(&url, &late).await.0, 500);
    let asked = workers.each_ref().map(LateRefuser::refused);
    assert_eq!(asked, [1, 1]);
}

#[tokio::test]
async fn a_broken_fleet_is_asked_again_within_the_budget_only() {
    let (one, two) = (fake_worker(pace(1.0)).await, fake_worker(pace(1.0)).await);
    let gateway = fixed_gateway(&[&one, &two], "retry_budget: 0").await;
    for worker in [&one, &two] {
        order(worker, json!({"fault": "status=500"})).await;
    }
    let url = format!("{}/generate", gateway.base_url);
    for _ in 0..120 {
        assert_eq!(post_json(&url, &generate(1)).await.0, 500);
    }
    let retries = |outcome: &str| {
        format!("tidegate_retries_total{{endpoint=\"fake\",outcome=\"{outcome}\"}}")
    };
    assert!(metric(&gateway, &retries("retried")).await <= 100.0);
    assert!(metric(&gateway, &retries("over_budget")).await >= 20.0);
}
