//! Everything that may go wrong, as a customer sees it.

use std::time::Duration;

use loadtest::harness::wait_until;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::*;

fn idle() -> Value {
    tgi_with(json!({"onstart": "true"}))
}

async fn exists_with_label(fake: &Fake, label: &str) -> bool {
    let page = fake.get("/api/v1/instances/?select_filters={}").await;
    page["label_counts"][label] == 1
}

#[tokio::test]
async fn a_lost_answer_leaves_an_instance_behind() {
    let fake = faulty(&["lost_answer=1", "never_boots=1"]).await;
    let mut seen = Vec::new();
    for number in 0..12 {
        let label = format!("lost{number}");
        let offer = fake.offer().await;
        let answer = fake.create(offer, tgi_with(json!({"label": label}))).await;
        let told = answer.as_ref().is_ok_and(|answer| {
            serde_json::from_str::<Value>(&answer.text)
                .is_ok_and(|body| body["new_contract"].is_u64())
        });
        assert!(!told, "{answer:?}");
        assert!(
            exists_with_label(&fake, &label).await,
            "{label}: {answer:?}"
        );
        seen.push(answer.map_or(0, |answer| answer.status));
    }
    let audit = fake.get("/fake/audit").await;
    for call in audit["calls"].as_array().unwrap() {
        assert_eq!(
            (&call["done"], &call["answered"]),
            (&json!(true), &json!(false))
        );
        assert!(
            call["instance"].is_u64() && call["body"]["label"].is_string(),
            "{call}"
        );
    }
    assert!(
        seen.contains(&0) && seen.iter().any(|status| *status > 0),
        "{seen:?}"
    );
}

#[tokio::test]
async fn an_offer_that_vanished_is_gone_by_404_or_410() {
    let fake = faulty(&["offer_vanishes=1"]).await;
    for (cancel, status) in [(false, 404), (true, 410)] {
        let offer = fake.offer().await;
        let rental = tgi_with(json!({"cancel_unavail": cancel}));
        let answer = fake.create(offer, rental).await.unwrap();
        let body = answer.json();
        assert_eq!(
            (answer.status, &body["error"]),
            (status, &json!("no_such_ask"))
        );
        assert_eq!(body["ask_id"], offer);
        assert!(
            fake.search(json!({}))
                .await
                .iter()
                .all(|row| row["id"] != offer)
        );
    }
    let page = fake.get("/api/v1/instances/?select_filters={}").await;
    assert_eq!(page["total_instances"], 0);
}

#[tokio::test]
async fn of_two_buyers_of_one_offer_both_are_accepted_and_one_never_runs() {
    let fake = fake(|settings| settings.speed = 60.0).await;
    for _ in 0..2 {
        let offer = fake.offer().await;
        // Sent at once: the second comes while the first is fresh.
        let (first, second) = tokio::join!(fake.create(offer, idle()), fake.create(offer, idle()));
        let mut ids: Vec<u64> = [first, second]
            .map(|answer| answer.unwrap().json()["new_contract"].as_u64().unwrap())
            .into();
        ids.sort_unstable();
        fake.wait_status(ids[0], "running").await;
        fake.wait(ids[1], "lost", |row| {
            row.is_null() || row["cur_state"] == "stopped"
        })
        .await;
        let audit = fake.get("/fake/audit").await;
        let calls = audit["calls"].as_array().unwrap();
        assert!(
            calls.iter().all(|call| call["error"].is_null()),
            "{calls:?}"
        );
    }
}

#[tokio::test]
async fn a_buyer_who_lost_silently_owes_no_gpu() {
    let fake = faulty(&["two_buyers=1"]).await;
    let mut gone = 0;
    for _ in 0..8 {
        let id = fake.rent(idle()).await;
        fake.wait(id, "lost", |row| {
            row.is_null() || row["cur_state"] == "stopped"
        })
        .await;
        gone += usize::from(fake.instance(id).await.is_null());
        assert_eq!(
            fake.account().await["instances"][id.to_string()]["gpu"],
            0.0
        );
    }
    assert!((1..8).contains(&gone), "{gone} of 8 vanished");
}

#[tokio::test]
async fn an_instance_may_stick_on_its_way_up() {
    for (fault, status, words) in [
        ("stuck_loading=1", json!("loading"), "Pulling"),
        ("error_status=1", json!("loading"), "rror"),
        ("never_boots=1", Value::Null, ""),
    ] {
        let fake = faulty(&[fault]).await;
        let id = fake.rent(idle()).await;
        let settled = |row: &Value| {
            let message = row["status_msg"].as_str().unwrap_or_default();
            row["actual_status"] == status && message.contains(words)
        };
        fake.wait(id, fault, settled).await;
        // Ten minutes of the market, in which a healthy one would run.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(settled(&fake.instance(id).await), "{fault}");
        assert_eq!(
            fake.account().await["instances"][id.to_string()]["gpu"],
            0.0
        );
    }
}

#[tokio::test]
async fn a_stopped_instance_may_never_get_its_gpus_back() {
    let fake = faulty(&["no_restart=1"]).await;
    let id = fake.rent(idle()).await;
    fake.wait_status(id, "running").await;
    let path = format!("/api/v0/instances/{id}/");
    fake.put(&path, json!({"state": "stopped"})).await;
    assert_eq!(
        fake.put(&path, json!({"state": "running"})).await.status,
        200
    );
    fake.wait_scheduling(id).await;
    assert_eq!(fake.truth(id).await["starts"], 1);
}

#[tokio::test]
async fn a_restart_waits_while_somebody_else_has_the_gpus() {
    let fake = fake(|_| {}).await;
    let id = fake.rent(idle()).await;
    let row = fake.wait_status(id, "running").await;
    let path = format!("/api/v0/instances/{id}/");
    fake.put(&path, json!({"state": "stopped"})).await;
    let query = json!({"machine_id": {"eq": row["machine_id"]}});
    let offer = fake.search(query).await[0]["id"].as_u64().unwrap();
    let other = fake.rent_offer(offer, idle()).await;
    fake.put(&path, json!({"state": "running"})).await;
    fake.wait_scheduling(id).await;
    fake.delete(other).await;
    fake.wait_status(id, "running").await;
}

#[tokio::test]
async fn an_outbid_instance_loses_its_gpus_and_its_processes() {
    let fake = fake(|_| {}).await;
    let offer = fake.search(json!({"type": "bid", "limit": 1})).await[0].clone();
    let price = offer["min_bid"].as_f64().unwrap() * 1.2;
    let ask = offer["id"].as_u64().unwrap();
    let id = fake
        .rent_offer(ask, tgi_with(json!({"price": price})))
        .await;
    let address = address(&fake.wait_status(id, "running").await, "3000/tcp");
    wait_engine(&address).await;
    let strike = json!({"instance": id, "fault": "outbid"});
    fake.call(Method::POST, "/fake/strike", &strike)
        .await
        .unwrap();
    let row = fake.wait_scheduling(id).await;
    assert!(row["ports"].is_null() && row["actual_status"] == "stopped");
    wait_silent(&address).await;
}

#[tokio::test]
async fn a_price_that_rises_above_a_bid_takes_the_gpus_away() {
    let fake = fake(|settings| settings.calm = false).await;
    let outbid = wait_until(PATIENCE, || async {
        // Just above the lowest: the next ticks are as likely to pass it as not. What moved meanwhile is refused.
        let query = json!({"type": "bid", "order": [["dph_total", "asc"]]});
        let offer = fake.search(query).await[0].clone();
        let price = offer["min_bid"].as_f64().unwrap() * 1.005;
        let mut rental = idle();
        rental["price"] = json!(price);
        let ask = offer["id"].as_u64().unwrap();
        fake.create(ask, rental).await.unwrap();
        let truth = fake.get("/fake/instances").await;
        let rows = truth["instances"].as_array().unwrap().clone();
        let scheduling = rows
            .iter()
            .find(|row| row["state"] == "scheduling")
            .cloned();
        scheduling.is_some_and(|row| row["status_msg"].as_str().unwrap().starts_with("outbid"))
    })
    .await;
    assert!(outbid);
}

#[tokio::test]
async fn a_dead_host_is_offline_and_owed_nothing() {
    let fake = faulty(&["dead_host=1"]).await;
    let id = fake.rent(tgi()).await;
    fake.wait_status(id, "offline").await;
    let owed = async || fake.account().await["instances"][id.to_string()].clone();
    let before = owed().await;
    let truth = fake.truth(id).await;
    assert_eq!(
        (
            &truth["gpu_usd_per_hour_now"],
            &truth["storage_usd_per_hour_now"]
        ),
        (&json!(0.0), &json!(0.0))
    );
    if fake.instance(id).await["actual_status"] == "offline" {
        assert_eq!(owed().await, before);
    }
}

#[tokio::test]
async fn slow_hardware_is_slower_than_its_name_promises() {
    let fake = faulty(&["slow_hardware=1"]).await;
    let id = fake.rent(idle()).await;
    let row = fake.wait_status(id, "running").await;
    assert!(row["gpu_name"].is_string());
    assert!(fake.truth(id).await["slowness"].as_f64() > Some(2.9));
}

#[tokio::test]
async fn an_outage_fails_everything_and_then_heals() {
    let fake = fake(|_| {}).await;
    let id = fake.rent(idle()).await;
    fake.wait_status(id, "running").await;
    let outage = json!({"seconds": 600});
    fake.call(Method::POST, "/fake/outage", &outage)
        .await
        .unwrap();
    let list = async || {
        let path = "/api/v1/instances/?select_filters={}";
        let answer = fake.call(Method::GET, path, &Value::Null).await.ok()?;
        let body: Value = serde_json::from_str(&answer.text).ok()?;
        (answer.status == 200).then_some(body["total_instances"].clone())
    };
    for _ in 0..12 {
        assert_eq!(list().await, None);
    }
    let over = json!({"seconds": 0});
    fake.call(Method::POST, "/fake/outage", &over)
        .await
        .unwrap();
    assert_eq!(list().await, Some(json!(1)));
    assert_eq!(fake.instance(id).await["actual_status"], "running");
}

#[tokio::test]
async fn calls_that_come_too_early_are_refused_in_plain_text() {
    let fake = fake(|settings| (settings.rate_limits, settings.speed) = (true, 1.0)).await;
    let path = "/api/v1/instances/?select_filters={}";
    let list = async || fake.call(Method::GET, path, &Value::Null).await.unwrap();
    assert_eq!(list().await.status, 200);
    let refused = list().await;
    assert_eq!(refused.status, 429);
    assert_eq!(
        refused.text,
        "API requests too frequent: endpoint threshold=1.0"
    );
    let heals = wait_until(PATIENCE, || async { list().await.status == 200 }).await;
    assert!(heals);
}

#[tokio::test]
async fn a_seed_gives_each_instance_the_same_fate() {
    let fates = async || {
        let fake = faulty(&["stuck_loading=0.3", "never_boots=0.3", "error_status=0.3"]).await;
        for _ in 0..8 {
            fake.rent(idle()).await;
        }
        let truth = fake.get("/fake/instances").await;
        let rows = truth["instances"].as_array().unwrap().clone();
        let fates = rows
            .iter()
            .map(|row| (row["id"].clone(), row["offer"].clone(), row["fate"].clone()));
        fates.collect::<Vec<_>>()
    };
    let (once, again) = (fates().await, fates().await);
    assert_eq!(once, again);
    assert!(once.iter().any(|(.., fate)| *fate != once[0].2), "{once:?}");
}

#[tokio::test]
async fn an_offer_that_others_took_is_refused_or_waited_for_as_the_caller_wants() {
    let fake = fake(|settings| (settings.calm, settings.speed) = (false, 5_000.0)).await;
    // Somebody else takes one sooner or later.
    let known = fake.search(json!({"verified": {}})).await;
    let taken = wait_until(PATIENCE, || async {
        let cancel = tgi_with(json!({"cancel_unavail": true, "onstart": "true"}));
        for offer in &known {
            let ask = offer["id"].as_u64().unwrap();
            let machine = json!({"machine_id": {"eq": offer["machine_id"]}, "verified": {}});
            if !fake.search(machine).await.is_empty() {
                continue;
            }
            let refused = fake.create(ask, cancel.clone()).await.unwrap();
            let made = fake.create(ask, idle()).await.unwrap();
            if refused.status == 410 && made.status == 200 {
                let id = made.json()["new_contract"].as_u64().unwrap();
                let row = fake
                    .wait(id, "settled", |row| !row["actual_status"].is_null())
                    .await;
                return row["intended_status"] == "running";
            }
        }
        false
    })
    .await;
    assert!(taken);
}
