//! Workers that die, lie or stumble before the client has seen a byte.

use loadtest::fakes::worker::{Settings, SpeedLaw};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_worker_killed_between_requests_loses_no_later_request() {
    let gateway = local_gateway("min_load: 700\nmax_workers: 3\ninactivity_timeout: -1", "").await;
    let url = format!("{}/generate", gateway.base_url);
    wait_fleet(&gateway, "two workers", |fleet| {
        phases(fleet)
            .iter()
            .filter(|phase| *phase == "ready")
            .count()
            >= 2
    })
    .await;
    for round in 0..3 {
        assert_eq!(post_json(&url, &generate(4)).await.0, 200);
        let seen = fleet(&gateway).await;
        let victim = workers(&seen)
            .into_iter()
            .find(|worker| worker["phase"]["name"] == "ready")
            .expect("a ready worker");
        kill_listener(victim["address"].as_str().expect("an address"));
        for request in 0..10 {
            let (status, body) = post_json(&url, &generate(4)).await;
            assert_eq!(status, 200, "round {round}, request {request}: {body}");
        }
        wait_fleet(&gateway, "the dead worker is replaced", |fleet| {
            let alive = workers(fleet);
            alive.iter().all(|worker| worker["id"] != victim["id"])
                && phases(fleet)
                    .iter()
                    .filter(|phase| *phase == "ready")
                    .count()
                    >= 2
        })
        .await;
    }
}

#[tokio::test]
async fn a_worker_ejected_twice_is_replaced_and_the_ledger_says_why() {
    let gateway = local_gateway(
        "min_load: 1500\nmax_workers: 4\ninactivity_timeout: -1\nretry_budget: 1\nslow_start: 0\n\
         ejection: {base_time: 0.2, share_max: 0.5}\ntimeouts: {drain: 0.5}",
        "",
    )
    .await;
    wait_ready(&gateway, 4).await;
    let victim = workers(&fleet(&gateway).await).remove(0);
    let address = victim["address"].as_str().expect("an address");
    let order = json!({"fault": "status=500"});
    post_json(&format!("http://{address}/control"), &order).await;
    let url = format!("{}/generate", gateway.base_url);
    let body = generate(20);
    let replaced = async {
        loop {
            // More than the others have places for: one on probation is asked when nobody else can be.
            let asked = (0..40).map(|_| post_json(&url, &body));
            for (status, body) in futures_util::future::join_all(asked).await {
                assert_eq!(status, 200, "{body}");
            }
            let alive = workers(&fleet(&gateway).await);
            let is_ready = |worker: &serde_json::Value| worker["phase"]["name"] == "ready";
            let is_gone = alive.iter().all(|worker| worker["id"] != victim["id"]);
            if is_gone && alive.iter().filter(|worker| is_ready(worker)).count() == 4 {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, replaced).await;
    assert!(in_time.is_ok(), "never\n{}", gateway.child.log_tail());
    let id = victim["id"].as_str().expect("an id");
    let why = client()
        .get(format!("{}/why/{id}", gateway.admin_url))
        .send()
        .await
        .expect("an answer");
    let why = why.text().await.expect("text");
    assert!(
        why.contains("ejected twice within an hour: errors"),
        "{why}"
    );
}

/// SIGKILL for the process that has `address` in its arguments.
fn kill_listener(address: &str) {
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let pid = process.file_name().to_string_lossy().parse::<i32>().ok();
        let is_it = arguments
            .split(|byte| *byte == 0)
            .any(|argument| argument == address.as_bytes());
        if let (true, Some(pid)) = (is_it, pid.and_then(rustix::process::Pid::from_raw)) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("SIGKILL");
        }
    }
}

#[tokio::test]
async fn a_failing_worker_is_passed_over_and_the_client_sees_the_answer_of_another() {
    let good = fake_worker(Settings::default()).await;
    let bad = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&good, &bad], "").await;
    let control = json!({"fault": "status=500", "count": null});
    assert!(
        post(&format!("{}/control", bad.url()), &control)
            .await
            .status()
            .is_success()
    );
    for _ in 0..10 {
        let (status, body) =
            post_json(&format!("{}/generate", gateway.base_url), &generate(3)).await;
        assert_eq!(status, 200, "{body}");
    }
}

#[tokio::test]
async fn when_every_worker_fails_the_client_gets_the_workers_own_error() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    let control = json!({"fault": "status=500", "count": null});
    assert!(
        post(&format!("{}/control", worker.url()), &control)
            .await
            .status()
            .is_success()
    );
    let (status, body) = post_json(&format!("{}/generate", gateway.base_url), &generate(3)).await;
    assert_eq!(status, 500, "{body}");
    let (status, body) = post_json(
        &format!("{}/v1/chat/completions", gateway.base_url),
        &chat(3, false),
    )
    .await;
    assert_eq!(status, 500, "{body}");
}

#[tokio::test]
async fn a_given_worker_that_dies_and_returns_is_used_again() {
    let law = Settings {
        law: SpeedLaw::TINY,
        ..Settings::default()
    };
    let worker = fake_worker(law.clone()).await;
    let address = worker.address();
    let gateway = fixed_gateway(&[&worker], "timeouts: {unresponsive: 0.3}").await;
    let url = format!("{}/generate", gateway.base_url);
    assert_eq!(post_json(&url, &generate(3)).await.0, 200);
    drop(worker);
    // Longer than a rented one would be kept.
    wait_fleet(&gateway, "it is given up", |fleet| {
        phases(fleet) == ["failed"] || phases(fleet) == ["starting"]
    })
    .await;
    let held = tokio::spawn(async move { post_json(&url, &generate(3)).await.0 });
    wait_fleet(&gateway, "the request is held", |fleet| waiting(fleet) == 1).await;
    let again = loadtest::fakes::worker::start(address, law)
        .await
        .expect("the same address");
    assert_eq!(held.await.expect("an answer"), 200);
    drop(again);
}
