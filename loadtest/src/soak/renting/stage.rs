//! The fake Vast, and a gateway that rents there in scaled time.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::account::Machine;
use super::books;
use crate::harness::{ConfigDir, FakeVast, Gateway, http_client, tidegate_binary};

pub const ENDPOINT: &str = "model";
pub const KEY: &str = "the-key-of-the-account";
/// The market's time runs so much faster than the clock; settings that are durations are divided by it.
pub const SPEED: f64 = 120.0;
pub const ORPHAN_AFTER: Duration = Duration::from_secs(6);
/// The program's own variable: the key is in no file.
const KEY_VARIABLE: &str = "VAST_API_KEY";

/// What the market does besides renting.
#[derive(Clone, Debug)]
pub struct Rules {
    pub seed: u64,
    /// Share that each fault strikes.
    pub faults: f64,
    /// Prices and offers stand still.
    pub calm: bool,
    /// All prices, shown and owed, are multiplied by this.
    pub price_scale: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            seed: 1,
            faults: 0.0,
            calm: false,
            price_scale: 1.0,
        }
    }
}

pub async fn market(rules: &Rules) -> Result<FakeVast> {
    let mut flags = vec![
        format!("--seed={}", rules.seed),
        format!("--speed={SPEED}"),
        format!("--api-key={KEY}"),
        format!("--fault=all={}", rules.faults),
        format!("--price-scale={}", rules.price_scale),
        "--credit=100000".to_owned(),
    ];
    if rules.calm {
        flags.push("--calm".to_owned());
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    FakeVast::start(&flags).await
}

/// A configuration whose durations fit the market's speed; `more` is further server settings.
pub fn configuration(market: &FakeVast, more: &str) -> Result<ConfigDir> {
    let config = ConfigDir::new("")?;
    let (public_url, scale, orphan_after) =
        (config.base_url(), 1.0 / SPEED, ORPHAN_AFTER.as_secs_f64());
    config.write_server(&format!(
        "scaler_interval: 0.1\ngrace_period: 3\npublic_url: {public_url}\norphan_after: {orphan_after}\n\
         vast: {{url: \"{}\", interval_scale: {scale}, search_interval: 0.3}}\n{more}",
        market.url,
    ))?;
    Ok(config)
}

/// One group of single cards behind vLLM, with capacity kept for `min_load` tokens a second.
pub fn endpoint(min_load: f64) -> String {
    format!(
        "endpoint_name: {ENDPOINT}\nmarket: vast\nmin_load: {min_load}\nmax_workers: 8\ninactivity_timeout: 1\n\
         scale_down_delay: 1\nprobe_interval: 0.2\n\
         benchmark: off\ninterruptible: burst\n\
         timeouts: {{boot: 8, scheduling: 1, offline: 2, unresponsive: 2, drain: 1, drain_limit: 2}}\nworker_groups:\n  - name: small\n    \
         engine: vllm\n    search_params: \"num_gpus=1 gpu_ram>=20\"\n    \
         launch_args: \"--image vllm/vllm-openai:v0.6 --disk 40 --ssh --direct --env '-p 8000:8000' --onstart-cmd 'vllm serve small-model'\"\n    \
         tokens_per_second: 700\n    concurrency: 32\n    image_gb: 0\n    model_gb: 0\n"
    )
}

/// The endpoint of the example for a 70B model: its words to the market as they stand there, durations divided.
pub fn seed_endpoint() -> Result<String> {
    const EXAMPLE: &str = include_str!("../../../../conf/examples/vast-70b/endpoints/llama.yaml");
    let groups = EXAMPLE.find("worker_groups:").context("no worker groups")?;
    // Sizes are not divided: by them no machine would be there in time.
    let sized = |line: &&str| line.contains("image_gb:") || line.contains("model_gb:");
    let groups: Vec<&str> = EXAMPLE[groups..]
        .lines()
        .filter(|line| !sized(line))
        .collect();
    let groups = format!("{}\n    image_gb: 0\n    model_gb: 0\n", groups.join("\n"));
    Ok(format!(
        "endpoint_name: {ENDPOINT}\nmarket: vast\nmin_load: 0\ntarget_util: 0.9\nmax_workers: 6\ninactivity_timeout: 3\n\
         scale_down_delay: 2\nprobe_interval: 0.2\nbenchmark: {{seconds: 2, output_tokens: 16}}\n\
         timeouts: {{boot: 12, scheduling: 2, offline: 3, benchmark: 4, unresponsive: 2, drain: 2, drain_limit: 5}}\n{groups}"
    ))
}

pub async fn start(config: ConfigDir) -> Result<Gateway> {
    Gateway::start_with(gateway_command()?, config).await
}

pub fn gateway_command() -> Result<Command> {
    let mut command = Command::new(tidegate_binary()?);
    command.env(KEY_VARIABLE, KEY);
    command.env("HUGGING_FACE_HUB_TOKEN", "no-token");
    Ok(command)
}

/// What an operator does in need; returns when nothing is left, or after a while.
pub async fn stop_spending(gateway: &Gateway) -> Result<()> {
    let mut command = gateway_command()?;
    command
        .args(["stop-spending", "--wait", "40", "--config"])
        .arg(gateway.config.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.context("tidegate stop-spending")?;
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "stop-spending: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Of the installation under test and existing.
pub async fn own(market: &FakeVast) -> Result<Vec<Machine>> {
    let rows = market.existing().await?;
    let machines = rows.into_iter().map(Machine::read);
    let machines: Vec<Machine> = machines.collect::<Result<_>>()?;
    Ok(machines.into_iter().filter(Machine::is_ours).collect())
}

/// The instances that the ledger holds; `?` for an intention whose outcome is not known.
pub fn held(gateway: &Gateway) -> Result<BTreeSet<String>> {
    let open = books::open_rentals(&gateway.config.state_dir())?;
    Ok(open
        .into_values()
        .map(|instance| instance.unwrap_or_else(|| "?".to_owned()))
        .collect())
}

/// Machines that are not ours: without a label, with somebody's label, with another installation's. To be rented before
/// there are faults.
pub async fn rent_foreign(market: &FakeVast, count: usize) -> Result<Vec<u64>> {
    let labels = [
        Value::Null,
        json!("a notebook"),
        json!("tidegate/foreign/model/w-1"),
    ];
    let mut rented = Vec::new();
    let found = call(market, "POST", "bundles/", &json!({"limit": 50})).await?;
    let offers = found["offers"].as_array().cloned().unwrap_or_default();
    for offer in offers {
        if rented.len() == count {
            break;
        }
        let body = json!({
            "client_id": "me", "image": "ubuntu:24.04", "disk": 10.0, "runtype": "ssh", "onstart": "sleep 1000000",
            "label": labels[rented.len() % labels.len()],
        });
        // The market has an interval between two creations.
        tokio::time::sleep(Duration::from_secs_f64(6.0 / SPEED)).await;
        // Offers go meanwhile: another one will do.
        if let Ok(answer) = call(market, "PUT", &format!("asks/{}/", offer["id"]), &body).await {
            rented.extend(answer["new_contract"].as_u64());
        }
    }
    ensure!(
        rented.len() == count,
        "only {} foreign machines",
        rented.len()
    );
    Ok(rented)
}

async fn call(market: &FakeVast, method: &str, path: &str, body: &Value) -> Result<Value> {
    let url = format!("{}/api/v0/{path}", market.url);
    let request = http_client()?.request(method.parse()?, url);
    let answer = request.bearer_auth(KEY).json(body).send().await?;
    Ok(answer.error_for_status()?.json().await?)
}
