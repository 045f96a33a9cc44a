//! What is owed, and who sees it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::*;

fn hours(seconds: f64) -> f64 {
    seconds / 3600.0
}

#[tokio::test]
async fn the_gpu_is_owed_while_it_runs_and_the_disk_as_long_as_there_is_one() {
    let fake = fake(|_| {}).await;
    let id = fake.rent(tgi_with(json!({"onstart": "true"}))).await;
    let row = fake.wait_status(id, "running").await;
    fake.put(
        &format!("/api/v0/instances/{id}/"),
        json!({"state": "stopped"}),
    )
    .await;
    let stopped = fake.truth(id).await;
    fake.delete(id).await;
    let ended = fake.truth(id).await;
    let account = fake.account().await;
    let owed = &account["instances"][id.to_string()];
    let at = |truth: &Value, what: &str| truth[what].as_f64().unwrap();
    let ran = at(&stopped, "phase_since_s") - at(&stopped, "first_running_s");
    let existed = at(&ended, "ended_s") - at(&ended, "created_s");
    let gpu = hours(ran) * at(&row, "dph_base");
    let storage = hours(existed) * at(&row, "storage_total_cost");
    assert!((at(owed, "gpu") - gpu).abs() < 1e-12, "{owed} {gpu}");
    assert!(
        (at(owed, "storage") - storage).abs() < 1e-12,
        "{owed} {storage}"
    );
    let total = at(owed, "gpu") + at(owed, "storage");
    assert!((at(&account, "owed") - total).abs() < 1e-12);
    assert!((at(&account, "credit") - (100.0 - total)).abs() < 1e-9);
    assert_eq!(
        fake.account().await["owed"],
        account["owed"],
        "it goes on costing"
    );
}

#[tokio::test]
async fn charges_tell_the_account_by_instance_and_kind() {
    let fake = fake(|settings| (settings.pull_gb, settings.bill_scale) = (1.0, 100.0)).await;
    let first = fake.rent(tgi_with(json!({"onstart": "true"}))).await;
    let second = fake
        .rent(tgi_with(json!({"onstart": "true", "label": "other"})))
        .await;
    for id in [first, second] {
        fake.wait_status(id, "running").await;
        fake.delete(id).await;
    }
    let account = fake.account().await;
    let query =
        "select_filters={\"day\":{\"gte\":0,\"lte\":9999999999},\"type\":{\"in\":[\"instance\"]}}";
    let charges = fake.get(&format!("/api/v0/charges/?{query}&limit=1")).await;
    assert_eq!(
        (&charges["count"], &charges["total"]),
        (&json!(1), &json!(2))
    );
    let token = charges["next_token"].as_str().unwrap();
    let more = fake
        .get(&format!("/api/v0/charges/?{query}&after_token={token}"))
        .await;
    for (page, id) in [(&charges, first), (&more, second)] {
        let row = &page["results"][0];
        let owed = &account["instances"][id.to_string()];
        assert_eq!(row["source"], format!("instance-{id}"));
        assert_eq!(
            (&row["amount"], &row["metadata"]["label"]),
            (&owed["total"], &owed["label"])
        );
        for (item, kind, name) in [
            (0, "gpu", "gpu"),
            (1, "disk", "storage"),
            (2, "bwd", "traffic"),
        ] {
            let item = &row["items"][item];
            assert_eq!(
                (&item["type"], &item["amount"]),
                (&json!(kind), &owed[name])
            );
            assert!(item["amount"].as_f64() > Some(0.0), "{kind}");
        }
    }
    let path = "/api/v0/charges/";
    let refused = fake.call(Method::GET, path, &Value::Null).await.unwrap();
    assert_eq!(refused.status, 400, "the day is required");
}

#[tokio::test]
async fn an_account_without_credit_has_all_it_runs_stopped_and_rents_no_more() {
    let fake = fake(|settings| (settings.credit, settings.bill_scale) = (0.05, 3_600.0)).await;
    let id = fake.rent(tgi_with(json!({"onstart": "true"}))).await;
    fake.wait(id, "stopped", |row| row["intended_status"] == "stopped")
        .await;
    let offer = fake.offer().await;
    let answer = fake.create(offer, tgi()).await.unwrap();
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (400, Some("insufficient_credit"))
    );
}

#[tokio::test]
async fn accounts_do_not_see_each_other() {
    let fake = fake(|settings| settings.keys = vec!["testkey".into(), "other".into()]).await;
    let id = fake.rent(tgi_with(json!({"onstart": "true"}))).await;
    let path = "/api/v1/instances/?select_filters={}";
    let list = fake
        .call_as("other", Method::GET, path, &Value::Null)
        .await
        .unwrap();
    assert_eq!(list.json()["total_instances"], 0);
    let path = format!("/api/v0/instances/{id}/");
    let one = fake
        .call_as("other", Method::GET, &path, &Value::Null)
        .await
        .unwrap();
    assert!(one.json()["instances"].is_null());
    let accounts = fake.get("/fake/account").await;
    assert_eq!(accounts["accounts"][1]["owed"], 0.0);
}
