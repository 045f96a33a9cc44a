//! From nothing to an answer, up and down with the load, and back to nothing.

use loadtest::harness::tidegate_binary;
use loadtest::harness::{Gateway, wait_until};

use crate::support::*;

#[tokio::test]
async fn the_first_request_is_held_until_a_worker_runs_and_idleness_ends_it_again() {
    let gateway = local_gateway(
        "inactivity_timeout: 1\nscale_down_delay: 0.5",
        "--load-time 0.3",
    )
    .await;
    assert!(
        workers(&fleet(&gateway).await).is_empty(),
        "no worker before the first request"
    );
    for round in 0..2 {
        let (status, body) =
            post_json(&format!("{}/generate", gateway.base_url), &generate(8)).await;
        assert_eq!(status, 200, "round {round}: {body}");
        assert!(
            body["generated_text"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{body}"
        );
        wait_fleet(&gateway, "no worker after idling", |fleet| {
            workers(fleet).is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn more_load_starts_more_workers_and_less_load_stops_them() {
    let gateway = local_gateway(
        "max_workers: 4\ninactivity_timeout: 2\nscale_down_delay: 1\ndrain_backlog_within: 2",
        "--a-ms 20 --c-ms 1 --max-batch 8",
    )
    .await;
    let url = format!("{}/generate", gateway.base_url);
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { post_json(&url, &generate(60)).await.0 })
        })
        .collect();
    wait_fleet(&gateway, "several workers under load", |fleet| {
        phases(fleet)
            .iter()
            .filter(|phase| *phase == "ready")
            .count()
            >= 3
    })
    .await;
    for request in requests {
        assert_eq!(request.await.expect("a request"), 200);
    }
    wait_fleet(&gateway, "no worker after the load", |fleet| {
        workers(fleet).is_empty()
    })
    .await;
}

#[tokio::test]
async fn workers_of_a_killed_gateway_serve_under_the_next_and_none_is_left_behind() {
    let mut gateway = local_gateway("min_load: 100\ninactivity_timeout: -1", "").await;
    let before = wait_fleet(&gateway, "a worker for min_load", |fleet| {
        phases(fleet) == ["ready"]
    })
    .await;
    let worker = workers(&before).remove(0);
    gateway.child.kill().expect("SIGKILL");
    let mut gateway = gateway
        .restart_with(std::process::Command::new(
            tidegate_binary().expect("built"),
        ))
        .await
        .expect("the next gateway starts");
    let after = wait_fleet(&gateway, "the worker is found again", |fleet| {
        phases(fleet) == ["ready"]
    })
    .await;
    let again = workers(&after).remove(0);
    assert_eq!(
        (&again["id"], &again["address"]),
        (&worker["id"], &worker["address"])
    );
    let (status, _) = post_json(&format!("{}/generate", gateway.base_url), &generate(4)).await;
    assert_eq!(status, 200);
    let address = worker["address"].as_str().expect("an address").to_owned();
    gateway.child.stop(PATIENCE).await.expect("a clean end");
    assert!(
        nobody_listens(&address).await,
        "a worker outlived its gateway"
    );
}

#[tokio::test]
async fn a_gateway_that_ended_its_workers_leaves_no_ghosts_to_the_next() {
    let mut gateway = local_gateway("", "").await;
    let url = format!("{}/generate", gateway.base_url);
    assert_eq!(post_json(&url, &generate(4)).await.0, 200);
    gateway.child.stop(PATIENCE).await.expect("a clean end");
    let gateway = gateway
        .restart_with(std::process::Command::new(
            tidegate_binary().expect("built"),
        ))
        .await
        .expect("the next gateway starts");
    let found = fleet(&gateway).await;
    assert!(workers(&found).is_empty(), "{found:#}");
}

#[tokio::test]
async fn a_worker_rented_in_the_moment_of_the_kill_is_not_lost() {
    // Killed at many moments of the first rental: before, while and after the process starts.
    for delay_ms in [0, 5, 15, 30, 60, 120] {
        let mut gateway = local_gateway("inactivity_timeout: 0.2\nscale_down_delay: 0.1", "").await;
        let url = format!("{}/generate", gateway.base_url);
        let request = tokio::spawn(async move {
            let _ = client().post(url).json(&generate(500)).send().await;
        });
        wait_fleet(&gateway, "the rental began", |fleet| {
            !workers(fleet).is_empty()
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(delay_ms)).await;
        gateway.child.kill().expect("SIGKILL");
        request.await.expect("the client sees a broken connection");
        let gateway = gateway
            .restart_with(std::process::Command::new(
                tidegate_binary().expect("built"),
            ))
            .await
            .expect("the next gateway starts");
        wait_fleet(&gateway, "nothing is left, as nothing is wanted", |fleet| {
            workers(fleet).is_empty()
        })
        .await;
        let gone = wait_until(PATIENCE, || async { no_process_of(&gateway) }).await;
        assert!(gone, "a process is left after {delay_ms} ms");
    }
}

/// No process of the machine carries a label of this gateway's installation.
fn no_process_of(gateway: &Gateway) -> bool {
    let state = gateway.config.state_dir();
    let own = gateway.child.pid().to_string();
    let marker = state.to_string_lossy().into_owned();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    processes.flatten().all(|process| {
        let name = process.file_name().to_string_lossy().into_owned();
        let log = process.path().join("fd/1");
        let output = std::fs::read_link(log).unwrap_or_default();
        name == own
            || !output
                .to_string_lossy()
                .contains(&format!("{marker}/local"))
    })
}

async fn nobody_listens(address: &str) -> bool {
    wait_until(PATIENCE, || async {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await
}
