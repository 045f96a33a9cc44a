//! New workers are measured before they serve, and sent away when they fall far short.

use loadtest::harness::Gateway;
use serde_json::Value;

use crate::support::*;

const MEASURED: &str =
    "min_load: 10\nbenchmark: {prompt_tokens: 20, output_tokens: 24, seconds: 10}";

async fn probes(gateway: &Gateway, outcome: &str) -> f64 {
    let url = format!("{}/metrics", gateway.admin_url);
    let text = client().get(url).send().await.expect("an answer");
    let text = text.text().await.expect("a body");
    let line = format!("tidegate_probes_total{{endpoint=\"fake\",outcome=\"{outcome}\"}} ");
    let found = text.lines().find_map(|text| text.strip_prefix(&*line));
    found.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

#[tokio::test]
async fn a_new_worker_is_measured_and_what_it_showed_is_what_is_believed_of_it() {
    let gateway = local_gateway(MEASURED, "").await;
    let fleet = wait_fleet(&gateway, "a worker is ready", |fleet| {
        phases(fleet).iter().any(|phase| phase == "ready")
    })
    .await;
    let worker = workers(&fleet).remove(0);
    let benchmark = &worker["benchmark"];
    assert_eq!(benchmark["concurrency"], 8, "{worker}");
    assert_eq!(benchmark["failed_requests"], 0, "{worker}");
    let measured = benchmark["tokens_per_second"].as_f64().expect("a number");
    let believed = worker["speed"].as_f64().expect("a number");
    assert!(
        measured > 0.0 && (0.7..1.4).contains(&(believed / measured)),
        "{worker}"
    );
    assert_eq!(probes(&gateway, "measured").await, 1.0);
    let (status, _) = post_json(&format!("{}/generate", gateway.base_url), &generate(5)).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_worker_far_slower_than_its_group_is_stated_to_be_never_serves() {
    let gateway = local_gateway(MEASURED, "--a-ms 800").await;
    wait_fleet(&gateway, "a worker was found too slow", |fleet| {
        let too_slow = |worker: &Value| worker["phase"]["reason"] == "too_slow";
        assert!(
            !phases(fleet).iter().any(|phase| phase == "ready"),
            "{fleet}"
        );
        workers(fleet).iter().any(too_slow)
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_does_not_answer_the_benchmark_is_given_up() {
    let gateway = local_gateway(MEASURED, "--context-tokens 16").await;
    wait_fleet(&gateway, "a worker could not be measured", |fleet| {
        let failed = |worker: &Value| worker["phase"]["reason"] == "benchmark_failed";
        workers(fleet).iter().any(failed)
    })
    .await;
}
