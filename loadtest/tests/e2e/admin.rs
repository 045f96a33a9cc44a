//! The admin port: metrics, readiness, decisions, reload.

use std::io::Write;
use std::process::{Command, Stdio};

use loadtest::fakes::worker::Settings;
use loadtest::harness::{ConfigDir, Gateway, tidegate_binary};

use crate::support::*;

async fn get(gateway: &Gateway, path: &str) -> String {
    let url = format!("{}{path}", gateway.admin_url);
    let answer = client()
        .get(url)
        .timeout(PATIENCE)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200, "{path}");
    answer.text().await.expect("a body")
}

#[tokio::test]
async fn metrics_please_promtool_and_hold_what_happened() {
    let gateway = local_gateway("", "").await;
    assert_eq!(
        post_json(&format!("{}/generate", gateway.base_url), &generate(5))
            .await
            .0,
        200
    );
    let stream = post(
        &format!("{}/generate_stream", gateway.base_url),
        &generate(5),
    )
    .await;
    events(stream).await.expect("whole");
    let text = get(&gateway, "/metrics").await;
    assert!(text.len() > 4_000, "only {} bytes", text.len());
    for line in [
        r#"tidegate_requests_total{api="generate",endpoint="fake",outcome="ok"} 1"#,
        r#"tidegate_output_tokens_total{endpoint="fake"} 10"#,
        r#"tidegate_scaling_actions_total{action="rent",endpoint="fake","#,
        r#"tidegate_workers{endpoint="fake",phase="ready"} 1"#,
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        assert!(std::env::var_os("CI").is_none(), "promtool is missing");
        return;
    };
    promtool
        .stdin
        .take()
        .expect("a pipe")
        .write_all(text.as_bytes())
        .expect("written");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "promtool: {said}"
    );
}

#[tokio::test]
async fn readiness_needs_no_worker_and_every_action_has_its_reason() {
    let gateway = local_gateway("inactivity_timeout: 0.3\nscale_down_delay: 0.2", "").await;
    assert_eq!(get(&gateway, "/readyz").await, "ready\n");
    assert_eq!(get(&gateway, "/healthz").await, "ok\n");
    assert_eq!(
        post_json(&format!("{}/generate", gateway.base_url), &generate(5))
            .await
            .0,
        200
    );
    wait_fleet(&gateway, "idle", |fleet| workers(fleet).is_empty()).await;
    let decisions: serde_json::Value =
        serde_json::from_str(&get(&gateway, "/decisions").await).expect("JSON");
    let rules: Vec<_> = decisions
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|decision| decision["plan"]["actions"].as_array().expect("actions"))
        .map(|action| {
            (
                action["action"].as_str().expect("an action"),
                action["reason"]["rule"].as_str().expect("a rule"),
            )
        })
        .collect();
    assert_eq!(
        rules.first(),
        Some(&("rent", "requests_wait_at_zero")),
        "{rules:?}"
    );
    assert!(rules.contains(&("drain", "idle")), "{rules:?}");
    let log = std::fs::read_to_string(gateway.config.state_dir().join("decisions.jsonl"))
        .expect("the log");
    assert_eq!(
        log.lines().count(),
        decisions.as_array().expect("a list").len()
    );
}

#[tokio::test]
async fn a_wrong_configuration_is_not_taken_on_reload_and_a_right_one_is() {
    let worker = fake_worker(Settings::default()).await;
    let config =
        ConfigDir::new(&format!("{SERVER}admin_token: admin-secret-00001\n")).expect("config");
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &[worker.url()], ""))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("a gateway");
    let reload = |token: &'static str| {
        client()
            .post(format!("{}/reload", gateway.admin_url))
            .bearer_auth(token)
            .send()
    };
    assert_eq!(reload("wrong").await.expect("an answer").status(), 401);
    gateway
        .config
        .write_endpoint(
            "fake",
            &fixed_endpoint(
                "fake",
                &[worker.url()],
                "targt_util: 0.5\nmax_workers: none",
            ),
        )
        .expect("an endpoint file");
    let answer = reload("admin-secret-00001").await.expect("an answer");
    assert_eq!(answer.status(), 422);
    let text = answer.text().await.expect("mistakes");
    assert!(
        text.contains("targt_util") && text.contains("max_workers"),
        "{text}"
    );
    assert_eq!(
        post_json(&format!("{}/generate", gateway.base_url), &generate(2))
            .await
            .0,
        200
    );
    gateway
        .config
        .write_endpoint("fake", &fixed_endpoint("other", &[worker.url()], ""))
        .expect("an endpoint file");
    assert_eq!(
        reload("admin-secret-00001")
            .await
            .expect("an answer")
            .status(),
        200
    );
    let (status, _) = post_json(&format!("{}/fake/generate", gateway.base_url), &generate(2)).await;
    assert_eq!(status, 404, "the endpoint is gone");
    assert_eq!(
        post_json(
            &format!("{}/other/generate", gateway.base_url),
            &generate(2)
        )
        .await
        .0,
        200
    );
}

#[tokio::test]
async fn check_and_start_list_every_mistake_with_its_place() {
    let config = ConfigDir::new("listen_on: 1\n").expect("config");
    config
        .write_endpoint(
            "bad",
            "endpoint_name: bad\ntarget_util: 3\nmax_workers: many\n",
        )
        .expect("an endpoint file");
    for command in ["check", "run"] {
        let output = Command::new(tidegate_binary().expect("built"))
            .args([command, "--config"])
            .arg(config.path())
            .output()
            .expect("it runs");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        for part in [
            "listen_on",
            "bad.yaml:2:",
            "target_util",
            "bad.yaml:3:",
            "worker_groups",
        ] {
            assert!(said.contains(part), "{command}: no {part} in\n{said}");
        }
    }
}
