//! The command line against a running gateway.

use std::process::{Command, Output};
use std::thread;

use loadtest::harness::{Gateway, tidegate_binary};
use serde_json::Value;

use crate::support::*;

/// Runs `tidegate COMMAND --config DIR ...` beside the runtime.
async fn tidegate(gateway: &Gateway, arguments: &[&str]) -> Output {
    let mut command = Command::new(tidegate_binary().expect("built"));
    command
        .arg(arguments[0])
        .arg("--config")
        .arg(gateway.config.path())
        .args(&arguments[1..])
        .env_remove("TIDEGATE_ADMIN");
    run(command).await
}

async fn run(mut command: Command) -> Output {
    let (send, ended) = tokio::sync::oneshot::channel();
    thread::spawn(move || send.send(command.output()));
    let output = tokio::time::timeout(PATIENCE, ended).await;
    output
        .expect("it ends in time")
        .expect("a thread")
        .expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", output.status);
    said(output)
}

#[tokio::test]
async fn status_shows_each_worker_with_its_phase_speed_and_price() {
    let gateway = local_gateway("min_load: 100\ninactivity_timeout: -1", "").await;
    wait_ready(&gateway, 1).await;
    let text = succeeded(&tidegate(&gateway, &["status"]).await);
    let id = workers(&fleet(&gateway).await)[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let line = text.lines().find(|line| line.contains(&id));
    let line = line.unwrap_or_else(|| panic!("no {id} in\n{text}"));
    assert!(
        line.contains("ready") && line.contains("400") && line.contains("$0.1000"),
        "{line}"
    );
    let json: Value =
        serde_json::from_str(&succeeded(&tidegate(&gateway, &["status", "--json"]).await))
            .expect("JSON");
    assert_eq!(json["endpoints"][0]["workers"][0]["id"], id.as_str());
}

#[tokio::test]
async fn plan_says_what_is_offered_and_rents_nothing() {
    let gateway = local_gateway("max_workers: 1", "").await;
    let plans: Value =
        serde_json::from_str(&succeeded(&tidegate(&gateway, &["plan", "--json"]).await))
            .expect("JSON");
    assert_eq!(plans[0]["endpoint"], "fake");
    assert_eq!(plans[0]["offers"][0]["offers"][0]["usd_per_hour"], 0.1);
    let text = succeeded(&tidegate(&gateway, &["plan"]).await);
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
    let output = tidegate(&gateway, &["status", "--admin", &url]).await;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{complaint}");
    assert!(
        complaint.contains("refused") && complaint.contains(&url),
        "{complaint}"
    );
    assert_eq!(
        tidegate(&gateway, &["status", "--no-such"])
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
