//! Everything at once, on a seed: whatever is asked and goes wrong, the fake's own books stay right.

use loadtest::harness::wait_until;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::*;

const CALLS: usize = 150;

/// One call that a confused customer might make.
async fn blunder(fake: &Fake, rng: &mut fastrand::Rng, ids: &[u64]) {
    let id = ids.get(rng.usize(..ids.len().max(1))).copied().unwrap_or(1);
    let one = format!("/api/v0/instances/{id}/");
    let bid = rng.bool().then_some(rng.f64() * 3.0);
    let (method, path, body) = match rng.u8(..8) {
        0 => (Method::DELETE, one, json!({})),
        1 => (Method::PUT, one, json!({"state": "stopped"})),
        2 => (Method::PUT, one, json!({"state": "running"})),
        3 => (
            Method::PUT,
            format!("/api/v0/instances/reboot/{id}/"),
            json!({}),
        ),
        4 => {
            let path = "/api/v1/instances/?select_filters={}".to_owned();
            (Method::GET, path, Value::Null)
        }
        _ => {
            let query = json!({"limit": 8, "verified": {}});
            let path = "/api/v0/bundles/";
            let found = fake.call(Method::POST, path, &query).await;
            let text = found.map_or(String::new(), |answer| answer.text);
            let found: Value = serde_json::from_str(&text).unwrap_or_default();
            let ask = found["offers"][rng.usize(..8)]["id"].as_u64().unwrap_or(7);
            let script = ["true", "text-generation-launcher --port 3000"][rng.usize(..2)];
            let rental = tgi_with(json!({"price": bid, "onstart": script}));
            (Method::PUT, format!("/api/v0/asks/{ask}/"), rental)
        }
    };
    // Many of these fail: that is what they are for.
    let _ = fake.call(method, &path, &body).await;
}

async fn truth(fake: &Fake) -> Vec<Value> {
    let answer = fake.get("/fake/instances").await;
    answer["instances"].as_array().unwrap().clone()
}

#[tokio::test]
async fn after_a_storm_every_instance_is_accounted_for_and_no_process_is_left() {
    let seed = 42;
    let mut rng = fastrand::Rng::with_seed(seed);
    let fake = fake(|settings| {
        (settings.seed, settings.speed, settings.calm) = (seed, 3_000.0, false);
        settings.credit = 1e6;
        settings.faults.set("all=0.15").unwrap();
    })
    .await;
    for _ in 0..CALLS {
        let rows = truth(&fake).await;
        let ids: Vec<u64> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
        blunder(&fake, &mut rng, &ids).await;
    }
    let clear = json!({"clear": true});
    fake.call(Method::POST, "/fake/faults", &clear)
        .await
        .unwrap();
    let rows = truth(&fake).await;
    assert!(rows.len() > 10, "{} rented", rows.len());
    let audit = fake.get("/fake/audit").await;
    let calls = audit["calls"].as_array().unwrap();
    for row in &rows {
        let made = calls
            .iter()
            .filter(|call| call["instance"] == row["id"])
            .count();
        assert_eq!(made, 1, "{row}");
    }
    for row in rows.iter().filter(|row| row["exists"] == true) {
        fake.delete(row["id"].as_u64().unwrap()).await;
    }
    let account = fake.account().await;
    let parts: f64 = account["instances"]
        .as_object()
        .unwrap()
        .values()
        .map(|owed| owed["total"].as_f64().unwrap())
        .sum();
    assert!((parts - account["owed"].as_f64().unwrap()).abs() < 1e-9);
    assert!(truth(&fake).await.iter().all(|row| row["exists"] == false));
    let ended = wait_until(PATIENCE, || async { fake.processes() == 0 }).await;
    assert!(ended, "{} processes are left", fake.processes());
}
