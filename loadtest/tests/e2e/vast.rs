//! A gateway that rents on the fake Vast: from nothing to an answer, and what is left when it is killed.

use std::process::Command;
use std::time::Duration;

use loadtest::harness::{ConfigDir, FakeVast, Gateway, tidegate_binary, wait_until};
use serde_json::Value;

use crate::support::{client, generate, post_json};

/// Renting, booting and loading, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
const ORPHAN_AFTER_S: u64 = 3;

const SMALL: &str = "endpoint_name: llama
market: vast
inactivity_timeout: 300
probe_interval: 0.2
worker_groups:
  - name: small
    engine: tgi
    search_params: num_gpus=1 gpu_ram>=20
    launch_args: >-
      --image ghcr.io/huggingface/text-generation-inference:1.0.3 --disk 40 --ssh --direct --env '-p 3000:3000'
      --onstart-cmd 'text-generation-launcher --port 3000 >/dev/null 2>&1 &'
    tokens_per_second: 400
    concurrency: 8
";

/// With intervals as far apart as the fake's clock runs fast: it refuses whoever is too fast.
async fn gateway(vast: &FakeVast, endpoint: &str) -> Gateway {
    let config = ConfigDir::new("").expect("a configuration");
    let server = format!(
        "scaler_interval: 0.1\ngrace_period: 2\nvast: {{url: \"{}\", interval_scale: 0.05, search_interval: 2}}\n\
         public_url: {}/\norphan_after: {ORPHAN_AFTER_S}\n",
        vast.url,
        config.base_url()
    );
    config.write_server(&server).expect("written");
    config.write_endpoint("llama", endpoint).expect("written");
    let mut command = Command::new(tidegate_binary().expect("built"));
    command
        .env("VAST_API_KEY", "testkey")
        .env("HUGGING_FACE_HUB_TOKEN", "hf_token");
    Gateway::start_with(command, config)
        .await
        .expect("the gateway starts")
}

async fn fake_vast() -> FakeVast {
    let flags = ["--speed", "50", "--calm", "--worker-time-scale", "10"];
    FakeVast::start(&flags).await.expect("the fake Vast starts")
}

async fn answered(gateway: &Gateway) {
    let url = format!("{}/generate", gateway.base_url);
    let (status, body) = post_json(&url, &generate(8)).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["generated_text"].is_string(), "{body}");
}

async fn existing(vast: &FakeVast) -> Vec<Value> {
    vast.existing().await.expect("the fake's instances")
}

#[tokio::test]
async fn a_first_request_rents_a_machine_and_a_killed_gateway_leaves_none() {
    let vast = fake_vast().await;
    let mut gateway = gateway(&vast, SMALL).await;
    answered(&gateway).await;
    assert!(!existing(&vast).await.is_empty());
    let audit = vast.audit().await.expect("the fake's audit");
    let refused: Vec<_> = audit.iter().filter(|call| call["status"] == 429).collect();
    assert!(refused.is_empty(), "{refused:?}");
    gateway.child.kill().expect("killed");
    let gone = wait_until(PATIENCE, || async { existing(&vast).await.is_empty() }).await;
    assert!(gone, "machines whose gateway is gone end themselves");
}

#[tokio::test]
async fn the_70b_endpoint_that_is_shipped_runs_as_it_is() {
    let vast = fake_vast().await;
    let endpoint = include_str!("../../../conf/examples/vast-70b/endpoints/llama.yaml");
    let gateway = gateway(&vast, endpoint).await;
    answered(&gateway).await;
}

#[tokio::test]
async fn machines_hear_of_their_own_gateway_only_and_leave_no_line() {
    let config = ConfigDir::new("access_log: access.log").expect("a configuration");
    let log = config.path().join("access.log");
    config
        .write_server(&format!("access_log: {}", log.display()))
        .expect("written");
    let endpoint = crate::support::local_endpoint("", "");
    config.write_endpoint("fake", &endpoint).expect("written");
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    let status = |path: String| {
        let request = client().get(format!("{}{path}", gateway.base_url)).send();
        async { request.await.expect("an answer").status().as_u16() }
    };
    assert_eq!(status("/tidegate/alive/another".into()).await, 404);
    assert_eq!(status("/health".into()).await, 200);
    let logged =
        || async { std::fs::read_to_string(&log).is_ok_and(|lines| lines.contains("/health")) };
    assert!(wait_until(PATIENCE, logged).await, "the other request");
    let lines = std::fs::read_to_string(&log).expect("the access log");
    assert!(!lines.contains("alive"), "{lines}");
}
