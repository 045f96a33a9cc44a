//! "What would last week have cost?", asked of the log that the gateway itself wrote.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use loadtest::harness::{ConfigDir, Gateway, tidegate_binary, wait_until};
use serde_json::{Value, json};

use crate::support::*;

/// Runs `tidegate simulate` beside the runtime.
async fn simulate(config: &ConfigDir, trace: &PathBuf, more: &[&str]) -> Output {
    let mut command = Command::new(tidegate_binary().expect("built"));
    command.arg("simulate").arg("--config").arg(config.path());
    command.arg("--trace").arg(trace).args(more);
    let (send, ended) = tokio::sync::oneshot::channel();
    thread::spawn(move || send.send(command.output()));
    let output = tokio::time::timeout(2 * PATIENCE, ended).await;
    let output = output.expect("it ends in time").expect("a thread");
    output.expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A gateway with a local worker that has answered so many streams and logged them.
async fn logged(streams: usize) -> (Gateway, PathBuf) {
    let config = ConfigDir::new(SERVER).expect("a configuration");
    let path = config.path().join("access.jsonl");
    let server = format!("{SERVER}access_log: {}\n", path.display());
    config.write_server(&server).expect("settings");
    let endpoint = local_endpoint("min_load: 100\ninactivity_timeout: -1", "");
    config.write_endpoint("fake", &endpoint).expect("a file");
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    wait_ready(&gateway, 1).await;
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    for _ in 0..streams {
        let request = client().post(&url).json(&chat(6, true)).timeout(PATIENCE);
        let answer = request.send().await.expect("an answer");
        answer.bytes().await.expect("a whole body");
    }
    // One that no fleet would have served, and one without token counts.
    let nonsense = client().post(&url).json(&json!({"model": 7}));
    let _ = nonsense.timeout(PATIENCE).send().await.expect("an answer");
    let lines = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().count()
    };
    let written = wait_until(PATIENCE, || async { lines() > streams }).await;
    assert!(written, "{} lines", lines());
    (gateway, path)
}

#[tokio::test]
async fn the_gateways_own_log_says_what_it_would_have_cost() {
    let (gateway, log) = logged(12).await;
    let out = gateway.config.path().join("last-week");
    let out_flag = out.to_str().expect("a path").to_owned();
    let output = simulate(&gateway.config, &log, &["--json", "--out", &out_flag]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["endpoint"], "fake");
    let totals = &report["runs"][0]["totals"];
    assert_eq!(totals["requests"]["arrived"], 12, "{totals:#}");
    assert_eq!(totals["requests"]["served"], 12, "{totals:#}");
    let assumed = report["assumed"].to_string();
    assert!(assumed.contains("12 of the log's"), "{assumed}");
    let figures = report["figures"].as_array().expect("figures");
    let cost = figures.iter().find(|figure| figure["name"] == "cost");
    let cost = cost.and_then(|cost| cost["mean"].as_f64()).expect("a cost");
    assert!(cost > 0.0 && cost < 1.0, "{cost}");
    let written = std::fs::read_to_string(out.join("report.txt")).expect("a report");
    assert!(written.contains("would have cost $"), "{written}");
    let picture = std::fs::read_to_string(out.join("picture.svg")).expect("a picture");
    assert!(picture.starts_with("<svg"), "{picture:.100}");
}

#[tokio::test]
async fn a_simulation_replays_and_says_what_it_cannot_play() {
    let config = ConfigDir::new(SERVER).expect("a configuration");
    let endpoint = local_endpoint("", "");
    config.write_endpoint("fake", &endpoint).expect("a file");
    let trace = config.path().join("trace.csv");
    let mut rows = "arrival_s,input_tokens,output_tokens\n".to_owned();
    for n in 0..600 {
        rows.push_str(&format!("{},{},{}\n", n, 100 + n % 50, 20 + n % 70));
    }
    std::fs::write(&trace, &rows).expect("a trace");
    let flags = ["--json", "--seeds", "2", "--scale", "2.5", "--mtbf", "0.2"];
    let first = simulate(&config, &trace, &flags).await;
    let again = simulate(&config, &trace, &flags).await;
    assert!(first.status.success(), "{}", text(&first.stderr));
    let bare = |output: &Output| {
        let mut report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for run in report["runs"].as_array_mut().expect("runs") {
            run["plans_cpu_s"] = Value::Null;
        }
        report["runs"].clone()
    };
    assert_eq!(bare(&first), bare(&again));
    assert_ne!(bare(&first)[0]["totals"], bare(&first)[1]["totals"]);

    std::fs::write(&trace, "time,size\n1,2\n").expect("a trace");
    let output = simulate(&config, &trace, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("expected arrival_s"), "{said}");
    let market = config.path().join("market.yaml");
    std::fs::write(&trace, &rows).expect("a trace");
    std::fs::write(&market, "machines: [{group: cpu, speeed: 3}]\n").expect("a market");
    let market = market.to_str().expect("a path");
    let output = simulate(&config, &trace, &["--market", market]).await;
    let said = text(&output.stderr);
    assert!(said.contains("market.yaml:1:"), "{said}");
}
