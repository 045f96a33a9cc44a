//! The fake as a program: nothing outlives it.

use std::path::Path;
use std::process::Command;

use loadtest::harness::{FakeVast, Program, http_client, wait_until};
use serde_json::{Value, json};

use crate::support::*;

async fn rent(url: &str, script: &str) -> u64 {
    let client = http_client().unwrap();
    let call = |request: reqwest::RequestBuilder, body: Value| async move {
        let answer = request
            .bearer_auth("testkey")
            .json(&body)
            .send()
            .await
            .unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let search = client.post(format!("{url}/api/v0/bundles/"));
    let offers = call(search, json!({"limit": 1})).await;
    let create = client.put(format!("{url}/api/v0/asks/{}/", offers["offers"][0]["id"]));
    let created = call(create, tgi_with(json!({"onstart": script}))).await;
    created["new_contract"].as_u64().unwrap()
}

/// The engine's address, once it answers.
async fn engine(fake: &FakeVast, id: u64) -> String {
    let port = std::cell::Cell::new(0);
    let up = wait_until(PATIENCE, || async {
        let rows = fake.instances().await.unwrap();
        let row = rows.iter().find(|row| row["id"] == id).unwrap();
        port.set(row["ports"]["3000/tcp"].as_u64().unwrap_or(0));
        port.get() != 0 && generate(&format!("127.0.0.1:{}", port.get())).await == Some(200)
    })
    .await;
    assert!(up, "{}", fake.child.log_tail());
    format!("127.0.0.1:{}", port.get())
}

#[tokio::test]
async fn containers_end_with_the_program_even_when_it_is_killed() {
    let mut fake = FakeVast::start(&["--speed", "600", "--seed", "11"])
        .await
        .unwrap();
    assert!(fake.child.log().contains("seed 11"));
    let id = rent(&fake.url, "text-generation-launcher --port 3000").await;
    let address = engine(&fake, id).await;
    fake.child.kill().unwrap();
    wait_silent(&address).await;
}

#[tokio::test]
async fn a_next_start_in_the_same_folder_ends_what_was_left() {
    let mut fake = FakeVast::start(&["--speed", "600"]).await.unwrap();
    // It leaves its group, and so lives on.
    let id = rent(
        &fake.url,
        "setsid text-generation-launcher --port 3000 & wait",
    )
    .await;
    let address = engine(&fake, id).await;
    fake.child.kill().unwrap();
    assert_eq!(
        generate(&address).await,
        Some(200),
        "nothing was left to end"
    );
    let folder = fake.folder().join("containers");
    let next = start_in(&folder, &fake.folder().join("next.log"));
    wait_silent(&address).await;
    drop(next);
}

fn start_in(folder: &Path, log: &Path) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fake-vast"));
    command
        .arg("--dir")
        .arg(folder)
        .args(["--worker", env!("CARGO_BIN_EXE_fake-worker")]);
    Program::start("fake-vast", command, log).unwrap()
}

#[tokio::test]
async fn faults_outages_and_the_record_are_reached_through_the_harness() {
    let fake = FakeVast::start(&["--speed", "600", "--fault", "all=0.0"])
        .await
        .unwrap();
    let shares = fake.set_faults(&json!({"never_boots": 1.0})).await.unwrap();
    assert_eq!(
        (&shares["never_boots"], &shares["outbid"]),
        (&json!(1.0), &json!(0.0))
    );
    assert!(fake.set_faults(&json!({"never_boot": 1.0})).await.is_err());
    let id = rent(&fake.url, "true").await;
    let existing = fake.existing().await.unwrap();
    assert_eq!((existing.len(), &existing[0]["id"]), (1, &json!(id)));
    let audit = fake.audit().await.unwrap();
    assert_eq!((audit.len(), &audit[0]["instance"]), (1, &json!(id)));
    fake.strike(id, "vanish").await.unwrap();
    assert!(fake.existing().await.unwrap().is_empty());
    assert_eq!(fake.instances().await.unwrap().len(), 1);
    assert!(fake.account().await.unwrap()["accounts"][0]["owed"].as_f64() > Some(0.0));
}
