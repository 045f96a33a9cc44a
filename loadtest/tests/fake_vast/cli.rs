//! The command line beside Vast's own, and against machines that nobody looks after any more.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use loadtest::harness::{ConfigDir, FakeVast, Gateway, http_client, tidegate_binary};
use serde_json::{Value, json};

use crate::support::{PATIENCE, tgi_with};

const QUERY: &str =
    "gpu_ram>=23 num_gpus=1 gpu_name=RTX_4090 inet_down>128 direct_port_count>3 disk_space>=192";
const DISK_GB: &str = "40";

fn endpoint() -> String {
    format!(
        "endpoint_name: llama\nmarket: vast\nmin_load: 100\ninactivity_timeout: -1\nmax_workers: 1\nprobe_interval: 0.2\n\
         worker_groups:\n  - name: tgi\n    engine: tgi\n    search_params: \"{QUERY}\"\n    \
         launch_args: \"--image ghcr.io/huggingface/text-generation-inference:1.0.3 --disk {DISK_GB} --ssh --direct \
         --env '-e MODEL_ARGS=\\\"--model-id some/model\\\" -p 3000:3000' \
         --onstart-cmd 'wget -O - https://example.invalid/launch_tgi.sh | bash'\"\n    \
         tokens_per_second: 200\n    concurrency: 8\n"
    )
}

fn configuration(fake: &FakeVast) -> ConfigDir {
    let server = format!(
        "scaler_interval: 0.1\ngrace_period: 5\n\
         vast: {{api_key: '${{VAST_API_KEY}}', url: '{}', search_interval: 1, interval_scale: 0.02}}",
        fake.url
    );
    let config = ConfigDir::new(&server).unwrap();
    config.write_endpoint("llama", &endpoint()).unwrap();
    config
}

async fn output(mut command: Command) -> Output {
    let ended = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(2 * PATIENCE, ended).await;
    ended.expect("it ends in time").unwrap().unwrap()
}

async fn tidegate(config: &ConfigDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(tidegate_binary().unwrap());
    command
        .arg(arguments[0])
        .arg("--config")
        .arg(config.path())
        .args(&arguments[1..])
        .env("VAST_API_KEY", "testkey")
        .env_remove("TIDEGATE_ADMIN");
    output(command).await
}

#[track_caller]
fn said(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&said(output)).unwrap()
}

/// What the unmodified command line of Vast finds: ids, and what an hour costs.
async fn vast_search(fake: &FakeVast) -> BTreeSet<(String, String)> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    said(&output(Command::new(repository.join("loadtest/clients/setup"))).await);
    let mut search = Command::new(repository.join(".tidegate/clients/venv/bin/vastai"));
    search
        .args(["search", "offers", QUERY, "--raw", "--storage", DISK_GB])
        .args(["--url", &fake.url, "--api-key", "testkey"])
        .env("HOME", fake.folder())
        .env("VASTAI_NO_UPDATE_CHECK", "1");
    let offers = json_of(&output(search).await);
    let offers = offers.as_array().unwrap().iter();
    let told = |offer: &Value| (offer["id"].to_string(), price(&offer["dph_total"]));
    offers.map(told).collect()
}

fn price(of: &Value) -> String {
    format!("{:.6}", of.as_f64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_and_vasts_own_search_see_the_same_offers() {
    let fake = FakeVast::start(&["--speed", "60", "--seed", "3", "--calm"])
        .await
        .unwrap();
    let config = configuration(&fake);
    let theirs = vast_search(&fake).await;
    let planned = tidegate(&config, &["plan", "--json"]).await;
    let plan = &json_of(&planned)[0];
    let offers = plan["offers"][0]["offers"].as_array().unwrap().iter();
    let on_demand = offers.filter(|offer| offer["interruptible"] == false);
    let ours: BTreeSet<_> = on_demand
        .map(|offer| {
            let id = offer["id"].as_str().unwrap().to_owned();
            (id, price(&offer["usd_per_hour"]))
        })
        .collect();
    assert!(!theirs.is_empty());
    assert_eq!(ours, theirs);
    // It would rent one of them, and says which and why; it rents nothing.
    let chosen = plan["choices"][0]["chosen"].as_str().unwrap();
    assert!(ours.iter().any(|(id, _)| id == chosen), "{chosen}");
    assert_eq!(plan["actions"][0]["action"], "rent");
    let text = said(&tidegate(&config, &["plan"]).await);
    assert!(text.contains(&format!("by offer {chosen}")), "{text}");
    assert!(fake.instances().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_a_killed_gateway_left_is_emptied_and_what_is_not_ours_stays() {
    let fake = FakeVast::start(&["--speed", "60", "--seed", "3", "--calm"])
        .await
        .unwrap();
    let config = configuration(&fake);
    let mut command = Command::new(tidegate_binary().unwrap());
    command.env("VAST_API_KEY", "testkey");
    let mut gateway = Gateway::start_with(command, config).await.unwrap();
    let rented = loadtest::harness::wait_until(PATIENCE, || async {
        !fake.existing().await.unwrap().is_empty()
    })
    .await;
    assert!(rented, "{}", gateway.child.log_tail());
    gateway.child.kill().unwrap();
    let foreign = rent_by_hand(&fake).await;

    let status = said(&tidegate(&gateway.config, &["status"]).await);
    assert!(status.contains("tgi-"), "{status}");
    let stopped = said(&tidegate(&gateway.config, &["stop-spending", "--wait", "100"]).await);
    assert!(stopped.contains("nothing is left"), "{stopped}");
    let left = fake.existing().await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["id"], foreign);

    let rentals = json_of(&tidegate(&gateway.config, &["ledger", "--rentals", "--json"]).await);
    assert_eq!(rentals[0]["state"], "ended");
    let worker = rentals[0]["worker"].as_str().unwrap();
    let story = said(&tidegate(&gateway.config, &["why", worker]).await);
    assert!(story.contains("rented by offer"), "{story}");
}

/// A machine of the same account with a label that is nobody's.
async fn rent_by_hand(fake: &FakeVast) -> Value {
    let client = http_client().unwrap();
    let search = client
        .post(format!("{}/api/v0/bundles/", fake.url))
        .bearer_auth("testkey")
        .json(&json!({"order": [["dph_total", "asc"]], "limit": 1}));
    let found: Value = search.send().await.unwrap().json().await.unwrap();
    let offer = &found["offers"][0]["id"];
    let url = format!("{}/api/v0/asks/{offer}/", fake.url);
    let label = json!({"label": "tidegate-of-somebody"});
    // The gateway ordered just now, and the market wants a pause between two orders: one that comes too early
    // begins the pause anew, so ask more seldom than it lasts.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rent = client.put(&url).bearer_auth("testkey");
        let answer = rent.json(&tgi_with(label.clone())).send().await.unwrap();
        if answer.status().is_success() {
            let rented: Value = answer.json().await.unwrap();
            return rented["new_contract"].clone();
        }
        assert!(Instant::now() < deadline, "{}", answer.status());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
