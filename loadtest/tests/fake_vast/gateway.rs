//! The gateway rents on the fake, from nothing to an answer and back to nothing.

use std::process::Command;
use std::time::Duration;

use loadtest::harness::{ConfigDir, FakeVast, Gateway, http_client, tidegate_binary, wait_until};
use serde_json::{Value, json};

use crate::support::PATIENCE;

/// Speed of the market; the gateway's own waits are short instead.
const SPEED: &str = "60";

/// TGI with a 70B model on four RTX 4090, as Vast's command line has it.
const ENDPOINT: &str = r#"
endpoint_name: llama
min_load: 0
market: vast
inactivity_timeout: 3
scale_down_delay: 1
max_workers: 2
probe_interval: 0.2
worker_groups:
  - name: tgi
    engine: tgi
    search_params: "gpu_ram>=23 num_gpus=4 gpu_name=RTX_4090 inet_down>128 direct_port_count>3 disk_space>=192 driver_version>=535.86.05 rented=False"
    launch_args: "--onstart-cmd 'wget -O - https://example.invalid/launch_tgi.sh | bash' --env '-e MODEL_ARGS=\"--model-id TheBloke/Llama-2-70B-chat-GPTQ --quantize gptq\" -p 3000:3000' --image ghcr.io/huggingface/text-generation-inference:1.0.3 --disk 200 --ssh --direct"
    tokens_per_second: 700
    concurrency: 32
"#;

async fn start() -> (FakeVast, Gateway) {
    start_with(&[]).await
}

async fn start_with(more: &[&str]) -> (FakeVast, Gateway) {
    let flags = ["--speed", SPEED, "--seed", "3", "--calm"];
    let fake = FakeVast::start(&[&flags[..], more].concat()).await.unwrap();
    let config = ConfigDir::new("").unwrap();
    let server = format!(
        "scaler_interval: 0.1\ngrace_period: 5\npublic_url: {}\norphan_after: 5\n\
         vast: {{api_key: '${{VAST_API_KEY}}', url: '{}', search_interval: 1, interval_scale: 0.02}}",
        config.base_url(),
        fake.url
    );
    config.write_server(&server).unwrap();
    config.write_endpoint("llama", ENDPOINT).unwrap();
    let mut command = Command::new(tidegate_binary().unwrap());
    command.env("VAST_API_KEY", "testkey");
    let gateway = Gateway::start_with(command, config).await.unwrap();
    (fake, gateway)
}

async fn generate(gateway: &Gateway) -> (u16, Value) {
    let body = json!({"inputs": "once upon a time", "parameters": {"max_new_tokens": 8}});
    let request = http_client()
        .unwrap()
        .post(format!("{}/generate", gateway.base_url));
    let answer = request.json(&body).timeout(PATIENCE).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn nothing_exists(fake: &FakeVast) -> bool {
    fake.existing().await.unwrap().is_empty()
}

#[tokio::test]
async fn a_request_rents_a_machine_and_silence_gives_it_back() {
    let (fake, gateway) = start().await;
    let (status, answer) = generate(&gateway).await;
    assert_eq!(status, 200, "{answer}\n{}", gateway.child.log_tail());
    assert!(answer["generated_text"].is_string(), "{answer}");
    let empty = wait_until(PATIENCE, || nothing_exists(&fake)).await;
    assert!(empty, "{}", gateway.child.log_tail());
    for row in fake.instances().await.unwrap() {
        assert_eq!(
            (&row["gpu_name"], &row["num_gpus"]),
            (&json!("RTX 4090"), &json!(4))
        );
        assert_eq!(row["ended"], "destroyed");
        assert!(
            row["label"].as_str().unwrap().starts_with("tidegate/"),
            "{row}"
        );
    }
}

#[tokio::test]
async fn machines_end_themselves_when_their_gateway_is_gone() {
    let (fake, mut gateway) = start().await;
    assert_eq!(generate(&gateway).await.0, 200);
    gateway.child.kill().unwrap();
    // `orphan_after` and a minute.
    let limit = Duration::from_secs(65);
    assert!(wait_until(limit, || nothing_exists(&fake)).await);
    let rows = fake.instances().await.unwrap();
    assert!(
        rows.iter().any(|row| row["ended"] == "destroyed by itself"),
        "{rows:?}"
    );
}

/// The value of a metric, with its labels as they are written.
async fn metric(gateway: &Gateway, name: &str) -> f64 {
    let url = format!("{}/metrics", gateway.admin_url);
    let answer = http_client().unwrap().get(url).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn used_up_searches_wait_for_their_day_and_touch_nothing_that_runs() {
    const USED_UP: &str = "tidegate_vast_searches_used_up";
    const REFUSED: &str = "tidegate_vast_calls_total{call=\"search\",outcome=\"quota_used_up\"}";
    // A day of twelve seconds here.
    let day = ["--searches-a-day", "2", "--search-day-s", "720"];
    let (fake, gateway) = start_with(&day).await;
    assert_eq!(generate(&gateway).await.0, 200);
    let is_used_up = || async { metric(&gateway, USED_UP).await == 1.0 };
    assert!(wait_until(PATIENCE, is_used_up).await);
    let (refused, existing) = (
        metric(&gateway, REFUSED).await,
        fake.existing().await.unwrap(),
    );
    assert_eq!(generate(&gateway).await.0, 200);
    let over = || async { metric(&gateway, USED_UP).await == 0.0 };
    assert!(wait_until(PATIENCE, over).await);
    let refused_since = metric(&gateway, REFUSED).await - refused;
    assert!(
        refused_since <= 1.0,
        "asked {refused_since} times too early"
    );
    assert!(!existing.is_empty());
    let searches = fake.searches().await.unwrap().len();
    let more = || async { fake.searches().await.unwrap().len() > searches.max(2) };
    assert!(wait_until(PATIENCE, more).await, "it searches again");
}
