//! The command line against a running gateway.

use std::process::{Command, Output};
use std::thread;

use loadtest::harness::{ConfigDir, Gateway, tidegate_binary};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::*;

/// Runs `tidegate COMMAND --config DIR ...` beside the runtime.
async fn tidegate(config: &ConfigDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(tidegate_binary().expect("built"));
    command
        .arg(arguments[0])
        .arg("--config")
        .arg(config.path())
        .args(&arguments[1..])
        .env_remove("TIDEGATE_ADMIN");
    run(command).await
}

async fn run(mut command: Command) -> Output {
    let (send, ended) = tokio::sync::oneshot::channel();
    thread::spawn(move || send.send(command.output()));
    let output = tokio::time::timeout(2 * PATIENCE, ended).await;
    let output = output.expect("it ends in time").expect("a thread");
    output.expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        complained(output)
    );
    said(output)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("not JSON: {text}"))
}

/// A gateway with one worker that stays, and that worker's name.
async fn one_worker() -> (Gateway, String) {
    let gateway = local_gateway(
        "min_load: 100\ninactivity_timeout: -1\ntimeouts: {drain: 1}",
        "",
    )
    .await;
    wait_ready(&gateway, 1).await;
    let id = workers(&fleet(&gateway).await)[0]["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    (gateway, id)
}

/// Where the gateway's worker listens.
async fn worker_url(gateway: &Gateway) -> String {
    let address = workers(&fleet(gateway).await)[0]["address"].clone();
    format!("http://{}/health", address.as_str().expect("an address"))
}

async fn is_alive(url: &str) -> bool {
    client().get(url).timeout(PATIENCE).send().await.is_ok()
}

#[tokio::test]
async fn status_shows_each_worker_with_its_phase_speed_and_price() {
    let (gateway, id) = one_worker().await;
    let text = succeeded(&tidegate(&gateway.config, &["status"]).await);
    let line = text.lines().find(|line| line.contains(&id));
    let line = line.unwrap_or_else(|| panic!("no {id} in\n{text}"));
    assert!(
        line.contains("ready") && line.contains("400") && line.contains("$0.1000"),
        "{line}"
    );
    let json: Value = serde_json::from_str(&succeeded(
        &tidegate(&gateway.config, &["status", "--json"]).await,
    ))
    .expect("JSON");
    assert_eq!(json["endpoints"][0]["workers"][0]["id"], id.as_str());
}

#[tokio::test]
async fn plan_says_what_is_offered_and_rents_nothing() {
    let gateway = local_gateway("max_workers: 1", "").await;
    let plans: Value = serde_json::from_str(&succeeded(
        &tidegate(&gateway.config, &["plan", "--json"]).await,
    ))
    .expect("JSON");
    assert_eq!(plans[0]["endpoint"], "fake");
    assert_eq!(plans[0]["offers"][0]["offers"][0]["usd_per_hour"], 0.1);
    let text = succeeded(&tidegate(&gateway.config, &["plan"]).await);
    assert!(
        text.contains("nothing to do") && text.contains("$0.1000"),
        "{text}"
    );
    assert!(workers(&fleet(&gateway).await).is_empty());
}

#[tokio::test]
async fn a_gateway_that_is_not_there_and_a_wrong_command_have_codes_of_their_own() {
    let gateway = local_gateway("", "").await;
    let nobody = loadtest::harness::free_port().expect("a port");
    let url = format!("http://127.0.0.1:{nobody}");
    let output = tidegate(&gateway.config, &["status", "--admin", &url]).await;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{complaint}");
    assert!(
        complaint.contains("refused") && complaint.contains(&url),
        "{complaint}"
    );
    assert_eq!(
        tidegate(&gateway.config, &["status", "--no-such"])
            .await
            .status
            .code(),
        Some(2)
    );
}

#[tokio::test]
async fn completions_name_the_commands() {
    let mut command = Command::new(tidegate_binary().expect("built"));
    command.args(["completions", "bash"]);
    let script = succeeded(&run(command).await);
    assert!(
        script.contains("status") && script.contains("plan"),
        "{script}"
    );
}

#[tokio::test]
async fn a_workers_story_money_and_log_are_there_to_read_while_it_runs() {
    let (gateway, id) = one_worker().await;
    let text = succeeded(&tidegate(&gateway.config, &["why", &id]).await);
    for part in [
        "rented",
        "intended",
        "ready",
        "decision ",
        "rent one of cpu",
        "tokens/s wanted",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let rentals = succeeded(&tidegate(&gateway.config, &["ledger", "--rentals", "--json"]).await);
    assert_eq!(json(&rentals)[0]["worker"], id.as_str());
    let csv = succeeded(
        &tidegate(
            &gateway.config,
            &["ledger", "--by", "endpoint", "--since", "1d", "--csv"],
        )
        .await,
    );
    assert!(csv.starts_with("endpoint,rentals,total_usd"), "{csv}");
    succeeded(&tidegate(&gateway.config, &["logs", &id, "-n", "5"]).await);
    for command in ["logs", "why"] {
        let output = tidegate(&gateway.config, &[command, "nobody"]).await;
        assert_eq!(output.status.code(), Some(1), "{}", complained(&output));
        assert!(
            complained(&output).contains("nobody"),
            "{}",
            complained(&output)
        );
    }
    let last = succeeded(&tidegate(&gateway.config, &["why", "fake"]).await);
    assert!(last.contains("for fake"), "{last}");
}

#[tokio::test]
async fn offers_are_shown_for_the_endpoint_asked_for() {
    let gateway = local_gateway("", "").await;
    let text = succeeded(&tidegate(&gateway.config, &["offers", "fake"]).await);
    assert!(
        text.contains("the one to rent") && text.contains("$0.1000"),
        "{text}"
    );
    let output = tidegate(&gateway.config, &["offers", "other"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", complained(&output));
}

#[tokio::test]
async fn stop_spending_ends_everything_a_running_gateway_has_until_it_is_taken_back() {
    let (gateway, _) = one_worker().await;
    let text = succeeded(&tidegate(&gateway.config, &["stop-spending", "--wait", "60"]).await);
    assert!(text.contains("nothing is left"), "{text}");
    assert!(workers(&fleet(&gateway).await).is_empty());
    let output = tidegate(&gateway.config, &["plan"]).await;
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(
        said(&output).contains("nothing can be rented"),
        "{}",
        said(&output)
    );
    let status = succeeded(&tidegate(&gateway.config, &["status"]).await);
    assert!(status.contains("spending is stopped"), "{status}");
    succeeded(&tidegate(&gateway.config, &["stop-spending", "--resume"]).await);
    wait_ready(&gateway, 1).await;
}

#[tokio::test]
async fn what_a_killed_gateway_left_is_shown_and_ended_without_one() {
    let (mut gateway, id) = one_worker().await;
    let url = worker_url(&gateway).await;
    gateway.child.kill().expect("killed");
    let output = tidegate(&gateway.config, &["status"]).await;
    let text = succeeded(&output);
    assert!(text.contains(&id) && text.contains("running"), "{text}");
    assert!(
        complained(&output).contains("no gateway runs"),
        "{}",
        complained(&output)
    );
    assert!(is_alive(&url).await, "looking ends nothing");
    // Even with an endpoint that cannot be read.
    gateway
        .config
        .write_endpoint("fake", "endpoint_name: [")
        .expect("written");
    let text = succeeded(&tidegate(&gateway.config, &["stop-spending"]).await);
    assert!(text.contains("nothing is left"), "{text}");
    assert!(!is_alive(&url).await);
    gateway
        .config
        .write_endpoint("fake", &local_endpoint("", ""))
        .expect("written");
    let rentals = succeeded(&tidegate(&gateway.config, &["ledger", "--rentals", "--json"]).await);
    assert_eq!(json(&rentals)[0]["state"], "ended");
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_does_not_keep_spending_from_being_stopped() {
    let (gateway, _) = one_worker().await;
    let url = worker_url(&gateway).await;
    gateway.child.signal(Signal::STOP).expect("frozen");
    let output = tidegate(&gateway.config, &["stop-spending"]).await;
    let text = succeeded(&output);
    assert!(text.contains("nothing is left"), "{text}");
    assert!(
        complained(&output).contains("does not answer"),
        "{}",
        complained(&output)
    );
    assert!(!is_alive(&url).await);
    // It sees the mark when it goes on.
    gateway.child.signal(Signal::CONT).expect("on again");
    wait_fleet(&gateway, "nothing is rented again", |fleet| {
        fleet["money"]["stopped"] == true && workers(fleet).is_empty()
    })
    .await;
}
