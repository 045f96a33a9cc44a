//! Offers and how they are searched.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::*;

fn number(row: &Value, field: &str) -> f64 {
    row[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field} in {row}"))
}

#[tokio::test]
async fn a_query_as_the_command_line_sends_it_finds_exactly_what_fits() {
    let fake = fake(|_| {}).await;
    // Captured from vastai 1.9.1.
    let found = fake
        .search(json!({
            "verified": {"eq": true}, "external": {"eq": false}, "rentable": {"eq": true},
            "gpu_ram": {"gte": 23000.0}, "num_gpus": {"eq": "4"}, "gpu_name": {"eq": "RTX 4090"},
            "inet_down": {"gt": "128"}, "direct_port_count": {"gt": "3"}, "disk_space": {"gte": "192"},
            "driver_version": {"gte": "535086005"}, "rented": {"eq": false},
            "order": [["score", "desc"]], "type": "on-demand", "allocated_storage": 5.0
        }))
        .await;
    let all = fake.search(json!({"order": [["score", "desc"]]})).await;
    let fits = |row: &&Value| {
        row["gpu_name"] == "RTX 4090"
            && row["num_gpus"] == 4
            && number(row, "direct_port_count") > 3.0
    };
    let expected: Vec<&Value> = all.iter().filter(fits).map(|row| &row["id"]).collect();
    let ids: Vec<&Value> = found.iter().map(|row| &row["id"]).collect();
    assert_eq!(ids, expected);
    assert!(!ids.is_empty() && ids.len() < all.len());
}

#[tokio::test]
async fn the_price_includes_the_disk_that_is_asked_for() {
    let fake = fake(|_| {}).await;
    let small = fake
        .search(json!({"allocated_storage": 10.0, "order": [["id", "asc"]]}))
        .await;
    let large = fake
        .search(json!({"allocated_storage": 110.0, "order": [["id", "asc"]]}))
        .await;
    for (small, large) in small.iter().zip(&large) {
        let more = number(large, "dph_total") - number(small, "dph_total");
        let month = 24.0 * 30.0;
        assert!((more - number(small, "storage_cost") * 100.0 / month).abs() < 1e-9);
    }
}

#[tokio::test]
async fn bids_start_below_the_price_on_demand() {
    let fake = fake(|_| {}).await;
    let demand = fake.search(json!({"order": [["id", "asc"]]})).await;
    let bids = fake
        .search(json!({"type": "bid", "order": [["id", "asc"]]}))
        .await;
    assert_eq!(demand.len(), bids.len());
    for (demand, bid) in demand.iter().zip(&bids) {
        assert!(bid["is_bid"] == true && demand["is_bid"] == false);
        assert!(number(bid, "dph_total") < number(demand, "dph_total"));
        assert_eq!(number(bid, "dph_base"), number(demand, "min_bid"));
    }
}

#[tokio::test]
async fn a_rented_offer_is_listed_no_more_and_returns_under_another_id() {
    let fake = fake(|_| {}).await;
    let offer = fake.offer().await;
    let machine = |offers: &[Value], id: u64| {
        let found = offers.iter().find(|row| row["id"] == id);
        found.map(|row| row["machine_id"].clone())
    };
    let before = fake.search(json!({})).await;
    let rented = machine(&before, offer).unwrap();
    let id = fake.rent_offer(offer, tgi()).await;
    let during = fake.search(json!({})).await;
    assert!(during.iter().all(|row| row["machine_id"] != rented));
    assert_eq!(fake.delete(id).await.status, 200);
    let after = fake.search(json!({})).await;
    let again = after
        .iter()
        .find(|row| row["machine_id"] == rented)
        .unwrap();
    assert_ne!(again["id"], offer);
    assert_eq!(fake.create(offer, tgi()).await.unwrap().status, 404);
}

#[tokio::test]
async fn a_seed_gives_the_same_market_and_another_seed_another() {
    let offers = async |seed| {
        let fake = fake(|settings| settings.seed = seed).await;
        let mut rows = fake.search(json!({"order": [["id", "asc"]]})).await;
        for row in &mut rows {
            // Counted from the start.
            for moving in ["start_date", "end_date", "duration"] {
                row[moving] = Value::Null;
            }
        }
        rows
    };
    let (one, same, other) = (offers(7).await, offers(7).await, offers(8).await);
    assert_eq!(one, same);
    assert_ne!(one, other);
}

#[tokio::test]
async fn a_moving_market_changes_its_prices_and_offers() {
    let fake = fake(|settings| (settings.calm, settings.speed) = (false, 20_000.0)).await;
    let view = async || {
        let rows = fake.search(json!({"order": [["id", "asc"]]})).await;
        let seen = rows
            .into_iter()
            .map(|row| (row["id"].clone(), row["dph_base"].clone()));
        seen.collect::<Vec<_>>()
    };
    let before = view().await;
    let moved = loadtest::harness::wait_until(PATIENCE, || async {
        let now = view().await;
        let ids =
            |seen: &[(Value, Value)]| seen.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        ids(&now) != ids(&before) && now.iter().zip(&before).any(|(a, b)| a.1 != b.1)
    })
    .await;
    assert!(moved);
}

#[tokio::test]
async fn a_wrong_key_and_a_misspelt_field_are_said() {
    let fake = fake(|_| {}).await;
    let search = async |key, body: Value| {
        let path = "/api/v0/bundles/";
        fake.call_as(key, Method::POST, path, &body).await.unwrap()
    };
    let answer = search("wrong", json!({})).await;
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (404, Some("auth_error"))
    );
    let answer = search("testkey", json!({"gpu_nam": {"eq": "RTX 4090"}})).await;
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (400, Some("invalid_args"))
    );
    let path = "/api/v0/users/current?api_key=testkey";
    let answer = fake
        .call_as("", Method::GET, path, &Value::Null)
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.content_type.as_str()),
        (200, "application/json")
    );
}

#[tokio::test]
async fn a_days_searches_are_counted_for_each_key_and_the_refusal_says_when_there_are_more() {
    let fake = fake(|settings| {
        settings.searches_a_day = Some(2);
        settings.keys.push("other".into());
    })
    .await;
    let search = |key: &'static str| {
        let url = format!("{}/api/v0/bundles/", fake.url);
        let request = loadtest::harness::http_client().unwrap().post(url);
        async move {
            let request = request.bearer_auth(key).json(&json!({}));
            request.send().await.unwrap()
        }
    };
    for _ in 0..2 {
        assert_eq!(search("testkey").await.status(), 200);
    }
    let refused = search("testkey").await;
    assert_eq!(refused.status(), 429);
    let reset: u64 = refused.headers()["x-ratelimit-reset"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // A day at the fake's speed.
    assert!(
        (now..=now + 86_400 / 600 + 1).contains(&reset),
        "{reset} at {now}"
    );
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"], "search_quota_exceeded");
    assert_eq!(search("other").await.status(), 200);
}
