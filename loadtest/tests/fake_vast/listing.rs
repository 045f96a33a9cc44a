//! Lists of instances: pages, filters, columns.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::*;

/// A fake with so many instances that never boot, so that no process is needed.
async fn crowd(count: usize) -> (Fake, Vec<u64>) {
    let fake = faulty(&["never_boots=1"]).await;
    let offers = fake
        .search(json!({"verified": {}, "order": [["id", "asc"]]}))
        .await;
    let mut ids = Vec::new();
    for (number, offer) in offers.iter().take(count).enumerate() {
        let rental = tgi_with(json!({"label": format!("crowd{}", number % 2)}));
        ids.push(fake.rent_offer(offer["id"].as_u64().unwrap(), rental).await);
    }
    (fake, ids)
}

async fn page(fake: &Fake, query: &str) -> Value {
    let order = "order_by=[{\"col\":\"id\",\"dir\":\"asc\"}]";
    fake.get(&format!("/api/v1/instances/?{order}&{query}"))
        .await
}

fn ids(page: &Value) -> Vec<u64> {
    let rows = page["instances"].as_array().unwrap();
    rows.iter().map(|row| row["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn pages_hold_25_rows_and_lead_to_the_end() {
    let (fake, all) = crowd(30).await;
    let first = page(&fake, "select_filters={}&limit=100").await;
    assert_eq!(ids(&first), all[..25]);
    assert_eq!(
        (&first["instances_found"], &first["total_instances"]),
        (&json!(30), &json!(30))
    );
    assert_eq!(first["label_counts"], json!({"crowd0": 15, "crowd1": 15}));
    // One that goes meanwhile shifts nothing.
    fake.delete(all[3]).await;
    let token = first["next_token"].as_str().unwrap();
    let second = page(&fake, &format!("select_filters={{}}&after_token={token}")).await;
    assert_eq!(ids(&second), all[25..]);
    assert!(second["next_token"].is_null());
    let old = fake.get("/api/v0/instances?owner=me").await;
    assert_eq!(old["instances"].as_array().unwrap().len(), 29);
}

#[tokio::test]
async fn rows_are_chosen_by_stored_columns_only_and_cut_to_those_wanted() {
    let (fake, all) = crowd(4).await;
    let query = "select_filters={\"label\":{\"in\":[\"crowd1\"]}}&select_cols=[\"id\",\"label\"]";
    let found = page(&fake, query).await;
    assert_eq!(ids(&found), [all[1], all[3]]);
    assert_eq!(
        (&found["instances_found"], &found["total_instances"]),
        (&json!(2), &json!(4))
    );
    assert_eq!(
        found["instances"][0],
        json!({"id": all[1], "label": "crowd1"})
    );
    let path = "/api/v1/instances/?select_filters={\"dph_total\":{\"lt\":1}}";
    let refused = fake.call(Method::GET, path, &Value::Null).await.unwrap();
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn the_old_list_may_be_gone() {
    let fake = fake(|settings| settings.old_list = false).await;
    let path = "/api/v0/instances/?owner=me";
    let answer = fake.call(Method::GET, path, &Value::Null).await.unwrap();
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (410, Some("deprecated_endpoint"))
    );
}

#[tokio::test]
async fn a_bad_listing_never_shows_the_whole_truth() {
    let (fake, all) = crowd(4).await;
    let shares = json!({"bad_listing": 1.0});
    fake.call(Method::POST, "/fake/faults", &shares)
        .await
        .unwrap();
    let mut empty = 0;
    for _ in 0..40 {
        let page = page(&fake, "select_filters={}").await;
        let rows = page["instances"].as_array();
        let whole =
            rows.is_some_and(|rows| rows.len() == all.len()) && page["total_instances"] == 4;
        assert!(!whole, "{page}");
        empty += usize::from(page["instances_found"] == 0);
    }
    assert!(
        (1..40).contains(&empty),
        "{empty} of 40 claimed that there is nothing"
    );
}
