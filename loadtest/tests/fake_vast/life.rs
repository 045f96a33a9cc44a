//! Instances from creation to destruction: real processes, ports and scripts.

use reqwest::Method;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_rented_machine_runs_its_script_and_answers_on_its_mapped_port() {
    let fake = fake(|_| {}).await;
    let id = fake.rent(tgi()).await;
    let row = fake.wait_status(id, "running").await;
    let variables = &row["extra_env"];
    assert_eq!(
        variables,
        &json!([
            ["-p 3000:3000", "1"],
            ["MODEL_ARGS", "--model-id some/model --quantize gptq"],
        ])
    );
    wait_engine(&address(&row, "3000/tcp")).await;
    let log = fake.log(id).await;
    assert!(log.contains("some/model on port 3000"), "{log}");
}

#[tokio::test]
async fn a_script_finds_what_a_container_of_vast_has_in_its_environment() {
    let fake = fake(|_| {}).await;
    let script = "echo id=$CONTAINER_ID ip=$PUBLIC_IPADDR port=$VAST_TCP_PORT_3000 gpus=$GPU_COUNT \
                  label=$VAST_CONTAINERLABEL key=${#CONTAINER_API_KEY} mine=$MINE; \
                  cd \"$DATA_DIRECTORY\" && echo home=$HOME here=$PWD; env | grep -c '^-p'; echo end";
    let env = json!({"MINE": "a=b", "-p 3000:3000": "1"});
    let id = fake
        .rent(tgi_with(json!({"onstart": script, "env": env})))
        .await;
    let row = fake.wait_status(id, "running").await;
    let log = fake.wait_log(id, "end").await;
    let port = row["ports"]["3000/tcp"][0]["HostPort"].as_str().unwrap();
    let expected = format!("id={id} ip=127.0.0.1 port={port} gpus={}", row["num_gpus"]);
    assert!(log.contains(&expected), "{log}");
    let label = format!("label=C.{id} key=40 mine=a=b");
    assert!(log.contains(&label) && log.contains("\n0\nend"), "{log}");
}

#[tokio::test]
async fn stopping_ends_the_processes_and_starting_makes_new_ones() {
    let fake = fake(|_| {}).await;
    let id = fake.rent(tgi()).await;
    let before = address(&fake.wait_status(id, "running").await, "3000/tcp");
    wait_engine(&before).await;
    let path = format!("/api/v0/instances/{id}/");
    assert_eq!(
        fake.put(&path, json!({"state": "stopped"})).await.status,
        200
    );
    let row = fake.instance(id).await;
    assert_eq!(
        (&row["actual_status"], &row["intended_status"]),
        (&json!("stopped"), &json!("stopped"))
    );
    assert!(row["ports"].is_null());
    wait_silent(&before).await;
    assert_eq!(
        fake.put(&path, json!({"state": "running"})).await.status,
        200
    );
    let after = address(&fake.wait_status(id, "running").await, "3000/tcp");
    wait_engine(&after).await;
    assert_ne!(before, after);
}

#[tokio::test]
async fn a_destroyed_instance_is_gone_with_its_processes() {
    let fake = fake(|_| {}).await;
    let id = fake.rent(tgi()).await;
    let address = address(&fake.wait_status(id, "running").await, "3000/tcp");
    wait_engine(&address).await;
    assert_eq!(fake.delete(id).await.json()["success"], true);
    assert!(fake.instance(id).await.is_null());
    wait_silent(&address).await;
    let again = fake.delete(id).await;
    assert_eq!(
        (again.status, again.json()["error"].as_str()),
        (404, Some("no_such_instance"))
    );
    assert_eq!(fake.truth(id).await["ended"], "destroyed");
}

#[tokio::test]
async fn a_process_that_left_its_group_ends_with_its_instance_too() {
    let fake = fake(|_| {}).await;
    let script = "setsid sh -c 'trap \"\" HUP; exec text-generation-launcher --port 3000' & wait";
    let id = fake.rent(tgi_with(json!({"onstart": script}))).await;
    let address = address(&fake.wait_status(id, "running").await, "3000/tcp");
    wait_engine(&address).await;
    fake.delete(id).await;
    wait_silent(&address).await;
}

#[tokio::test]
async fn an_image_with_arguments_runs_its_own_entrypoint() {
    let fake = fake(|_| {}).await;
    let args = [
        "--model",
        "some/model",
        "--served-model-name",
        "mine",
        "--port",
        "8000",
    ];
    let id = fake
        .rent(tgi_with(json!({
            "image": "vllm/vllm-openai:latest", "runtype": "args", "args": args, "onstart": null,
            "env": {"-p 8000:8000": "1"},
        })))
        .await;
    let row = fake.wait_status(id, "running").await;
    wait_engine(&address(&row, "8000/tcp")).await;
    let url = format!("http://{}/v1/models", address(&row, "8000/tcp"));
    let models = loadtest::harness::http_client()
        .unwrap()
        .get(url)
        .send()
        .await
        .unwrap();
    assert!(models.text().await.unwrap().contains("\"mine\""));
}

#[tokio::test]
async fn a_container_whose_entrypoint_ends_has_exited_and_stays_so() {
    let fake = fake(|_| {}).await;
    let rental = json!({"runtype": "args", "onstart": "bash", "args": ["-c", "echo bye; exit 3"]});
    let id = fake.rent(tgi_with(rental)).await;
    let row = fake.wait_status(id, "exited").await;
    assert_eq!(
        (&row["intended_status"], &row["cur_state"]),
        (&json!("running"), &json!("running"))
    );
    let log = fake.log(id).await;
    assert!(
        log.contains("bye") && log.contains("container ended with 3"),
        "{log}"
    );
}

#[tokio::test]
async fn an_engine_on_a_port_that_is_not_mapped_cannot_be_reached() {
    let fake = fake(|_| {}).await;
    let rental = json!({"onstart": "text-generation-launcher --port 5001"});
    let id = fake.rent(tgi_with(rental)).await;
    fake.wait_log(id, "port 5001, which is not mapped").await;
    let row = fake.instance(id).await;
    assert_eq!(generate(&address(&row, "3000/tcp")).await, None);
}

#[tokio::test]
async fn a_container_may_end_itself_with_its_own_key_and_nobody_else() {
    let fake = fake(|_| {}).await;
    let other = fake.rent(tgi()).await;
    let destroy = |id: &str| {
        format!(
            "curl -s -X DELETE -H \"Authorization: Bearer $CONTAINER_API_KEY\" {}/api/v0/instances/{id}/",
            fake.url
        )
    };
    let script = format!(
        "{}; while [ ! -e go ]; do sleep 0.05; done; {}",
        destroy(&other.to_string()),
        destroy("$CONTAINER_ID")
    );
    let id = fake.rent(tgi_with(json!({"onstart": script}))).await;
    fake.wait_log(id, "no_such_instance").await;
    assert!(!fake.instance(other).await.is_null());
    let log = fake.truth(id).await["log"].as_str().unwrap().to_owned();
    std::fs::write(log.replace("/log", "/root/go"), "").unwrap();
    fake.wait(id, "gone", |row| row.is_null()).await;
    assert_eq!(fake.truth(id).await["ended"], "destroyed by itself");
    let audit = fake.get("/fake/audit").await;
    let last = audit["calls"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["container"], &last["done"]),
        (&json!(id), &json!(true))
    );
}

#[tokio::test]
async fn labels_and_bids_are_changed_and_only_by_their_owner() {
    let fake = fake(|settings| settings.keys = vec!["testkey".into(), "other".into()]).await;
    let offer = fake.search(json!({"type": "bid", "limit": 1})).await[0].clone();
    let bid = offer["min_bid"].as_f64().unwrap() * 1.5;
    let id = fake
        .rent_offer(
            offer["id"].as_u64().unwrap(),
            tgi_with(json!({"price": bid})),
        )
        .await;
    let path = format!("/api/v0/instances/{id}/");
    assert_eq!(
        fake.put(&path, json!({"label": "tidegate/a/b/c"}))
            .await
            .status,
        200
    );
    let price = format!("/api/v0/instances/bid_price/{id}/");
    let body = json!({"client_id": "me", "price": bid * 2.0});
    assert_eq!(fake.put(&price, body.clone()).await.status, 200);
    let row = fake.instance(id).await;
    assert_eq!(
        (&row["label"], &row["is_bid"]),
        (&json!("tidegate/a/b/c"), &json!(true))
    );
    assert_eq!(row["dph_base"].as_f64(), Some(bid * 2.0));
    for (method, path) in [(Method::PUT, &price), (Method::DELETE, &path)] {
        let answer = fake.call_as("other", method, path, &body).await.unwrap();
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_script_reaches_its_own_engine_under_the_port_inside() {
    let fake = fake(|_| {}).await;
    let script = "text-generation-launcher --port 3000 & \
                  until curl -sf http://127.0.0.1:3000/info; do sleep 0.05; done; \
                  until wget -q -O - http://localhost:3000/health; do sleep 0.05; done; echo; echo reached; wait";
    let id = fake.rent(tgi_with(json!({"onstart": script}))).await;
    let log = fake.wait_log(id, "reached").await;
    assert!(
        log.contains("\"model_id\"") && log.contains("{\"status\":\"ok\"}"),
        "{log}"
    );
}
