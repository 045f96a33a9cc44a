//! Which worker a request goes to: not to one that fails or is slow, and to the one that has read its beginning.

use loadtest::fakes::worker::Worker;
use loadtest::harness::Gateway;
use serde_json::{Value, json};

use crate::support::*;

/// `/fleet`'s row of this worker.
fn row(fleet: &Value, worker: &Worker) -> Value {
    let address = json!(worker.address().to_string());
    let mut rows = workers(fleet).into_iter();
    rows.find(|row| row["address"] == address)
        .unwrap_or_default()
}

async fn answered_by(gateway: &Gateway, worker: &Worker) -> u64 {
    let row = row(&fleet(gateway).await, worker);
    row["requests_total"].as_u64().expect("a count")
}

#[tokio::test]
async fn a_worker_that_fails_what_it_is_sent_gets_nothing_more_and_no_client_sees_it() {
    let (good, bad) = (fake_worker(pace(1.0)).await, fake_worker(pace(1.0)).await);
    let more = "retry_budget: 1\nejection: {share_max: 0.5, base_time: 300}";
    let gateway = fixed_gateway(&[&good, &bad], more).await;
    let order = json!({"fault": "status=500"});
    post_json(&format!("{}/control", bad.url()), &order).await;
    let url = format!("{}/generate", gateway.base_url);
    let body = generate(20);
    let ejected = async {
        loop {
            let asked = (0..4).map(|_| post_json(&url, &body));
            for (status, body) in futures_util::future::join_all(asked).await {
                assert_eq!(status, 200, "{body}");
            }
            let standing = row(&fleet(&gateway).await, &bad)["standing"].clone();
            if standing["state"] == "ejected" {
                return standing;
            }
        }
    };
    let standing = tokio::time::timeout(PATIENCE, ejected).await;
    let standing = standing.expect("the worker is never ejected");
    assert_eq!(standing["fault"], "errors");
    let asked_before = bad.figures();
    let answered_before = answered_by(&gateway, &good).await;
    for _ in 0..20 {
        assert_eq!(post_json(&url, &generate(1)).await.0, 200);
    }
    assert_eq!(answered_by(&gateway, &good).await - answered_before, 20);
    assert_eq!(bad.figures(), asked_before);
}

#[tokio::test]
async fn a_worker_at_half_the_speed_of_its_equals_is_passed_over() {
    let slow = fake_worker(pace(60.0)).await;
    let others = [fake_worker(pace(30.0)).await, fake_worker(pace(30.0)).await];
    let more =
        "prefer: latency\nslow_start: 0\nejection: {slow_for: 3, share_max: 0.5, base_time: 300}";
    let gateway = fixed_gateway(&[&slow, &others[0], &others[1]], more).await;
    let url = format!("{}/generate_stream", gateway.base_url);
    let clients: Vec<_> = (0..9)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                loop {
                    let answer = events(post(&url, &generate(40)).await).await;
                    assert!(answer.is_ok_and(|events| !events.is_empty()));
                }
            })
        })
        .collect();
    let at = wait_fleet(&gateway, "the slow worker is ejected", |fleet| {
        row(fleet, &slow)["standing"]["state"] == "ejected"
    })
    .await;
    assert_eq!(row(&at, &slow)["standing"]["fault"], "slower_than_peers");
    wait_fleet(
        &gateway,
        "it has nothing to do while others have",
        |fleet| row(fleet, &slow)["in_flight"] == 0 && in_flight(fleet) > 0,
    )
    .await;
    for client in clients {
        client.abort();
        assert!(
            client.await.is_err_and(|end| end.is_cancelled()),
            "a client failed"
        );
    }
}

#[tokio::test]
async fn two_prompts_with_the_same_long_beginning_are_read_by_the_same_worker() {
    let (one, two) = (fake_worker(pace(1.0)).await, fake_worker(pace(1.0)).await);
    // Otherwise who has answered more is trusted more.
    let gateway = fixed_gateway(&[&one, &two], "slow_start: 0").await;
    let url = format!("{}/generate", gateway.base_url);
    let ask = |inputs: String| {
        let url = url.clone();
        async move {
            let body = json!({"inputs": inputs, "parameters": {"max_new_tokens": 1}});
            assert_eq!(post_json(&url, &body).await.0, 200);
        }
    };
    // Of two idle workers one is chosen always; it is made busy while the long prompt comes.
    ask("which of the two?".to_owned()).await;
    let (usual, other) = match answered_by(&gateway, &one).await {
        1 => (&one, &two),
        _ => (&two, &one),
    };
    let mut hang = generate(50);
    hang["parameters"]["user"] = json!("fault:hang=1");
    let busy = post(&format!("{}/generate_stream", gateway.base_url), &hang).await;
    wait_fleet(&gateway, "the usual one is busy", |fleet| {
        row(fleet, usual)["in_flight"] == 1
    })
    .await;
    let long = "a rule of the house ".repeat(400);
    ask(format!("{long} what is the first?")).await;
    assert_eq!(answered_by(&gateway, other).await, 1);
    drop(busy);
    wait_fleet(&gateway, "nothing is in flight", |fleet| {
        in_flight(fleet) == 0
    })
    .await;
    ask(format!("{long} what is the second?")).await;
    assert_eq!(
        answered_by(&gateway, other).await,
        2,
        "it has read most of it"
    );
    ask("another house ".repeat(400)).await;
    assert_eq!(
        answered_by(&gateway, other).await,
        2,
        "of which it knows nothing"
    );
}
