//! Calls to instances and to the account.

use super::*;

#[tokio::test]
async fn calls_to_an_instance_are_those_of_the_command_line() {
    let (market, vast) = market(|_, _| Reply::Json(200, json!({"success": true}))).await;
    let id = InstanceId::new("9001");
    market.stop(&id).await.expect("stopped");
    market.start(&id).await.expect("started");
    market.destroy(&id).await.expect("ended");
    market.set_bid(&id, UsdPerHour(0.7)).await.expect("bid");
    let asked: Vec<_> = vast
        .asked()
        .into_iter()
        .map(|asked| (asked.method, asked.path, asked.body))
        .collect();
    let path = "/api/v0/instances/9001/".to_owned();
    assert_eq!(
        asked,
        [
            ("PUT".to_owned(), path.clone(), json!({"state": "stopped"})),
            ("PUT".to_owned(), path.clone(), json!({"state": "running"})),
            ("DELETE".to_owned(), path, json!({})),
            (
                "PUT".to_owned(),
                "/api/v0/instances/bid_price/9001/".to_owned(),
                json!({"client_id": "me", "price": 0.7})
            ),
        ]
    );
}

#[tokio::test]
async fn an_instance_that_is_gone_is_ended_and_a_wrong_key_ends_nothing() {
    for (status, body, ended) in [
        (
            404,
            json!({"success": false, "error": "no_such_instance", "msg": "x"}),
            true,
        ),
        (410, json!({"success": false}), true),
        (
            200,
            json!({"success": false, "error": "no_such_instance"}),
            true,
        ),
        (
            404,
            json!({"success": false, "error": "auth_error", "msg": "Invalid user key"}),
            false,
        ),
        (500, json!({"success": false}), false),
        (
            400,
            json!({"success": false, "error": "missing_billing"}),
            false,
        ),
    ] {
        let shown = body.to_string();
        let (market, _vast) = market(move |_, _| Reply::Json(status, body.clone())).await;
        let result = market.destroy(&InstanceId::new("1")).await;
        assert_eq!(result.is_ok(), ended, "{status} {shown}: {result:?}");
    }
    let (market, _vast) = market(|_, _| Reply::Text(404, "", "<html>no such page</html>")).await;
    assert!(market.destroy(&InstanceId::new("1")).await.is_err());
}

#[tokio::test]
async fn an_id_that_is_no_number_goes_nowhere() {
    let (market, vast) = market(|_, _| Reply::Json(200, json!({"success": true}))).await;
    for id in ["", "../users/current", "1/2", "-1"] {
        assert!(market.destroy(&InstanceId::new(id)).await.is_err(), "{id}");
    }
    assert!(vast.asked().is_empty());
}

#[tokio::test]
async fn logs_are_fetched_from_where_they_lie_without_the_key() {
    let vast = StandIn::start(|asked, before| match (asked.method.as_str(), before) {
        ("PUT", _) => {
            let host = asked
                .head
                .lines()
                .find_map(|line| line.strip_prefix("host: "));
            let url = format!("http://{}/logs/1", host.expect("a host").trim());
            Reply::Json(200, json!({"success": true, "result_url": url}))
        }
        (_, 1) => Reply::Text(404, "", "not yet"),
        _ => Reply::Text(200, "", "loading weights\nready"),
    })
    .await;
    let market = market_at(&vast.url, settings());
    let logs = market.logs(&InstanceId::new("1"), 50).await.expect("logs");
    assert_eq!(logs, "loading weights\nready");
    let asked = vast.asked();
    assert_eq!(asked[0].body, json!({"tail": "50"}));
    assert_eq!(asked[0].path, "/api/v0/instances/request_logs/1/");
    assert_eq!(asked.len(), 3);
    for fetch in &asked[1..] {
        assert!(!fetch.head.contains("authorization"), "{}", fetch.head);
    }
}

#[tokio::test]
async fn the_account_tells_what_is_left() {
    let (market, vast) =
        market(|_, _| Reply::Json(200, json!({"id": 1, "credit": 12.5, "balance": 0}))).await;
    let account = market
        .account()
        .await
        .expect("an answer")
        .expect("an account");
    assert_eq!(account.credit.0, 12.5);
    assert_eq!(vast.asked()[0].path, "/api/v0/users/current");
}

#[tokio::test]
async fn charges_of_an_instance_are_added_up_over_days_by_kind() {
    let day = |amount: f64, storage: f64| {
        json!({
            "type": "instance", "source": "instance-7", "amount": amount, "start": 1, "end": 2,
            "items": [
                {"type": "gpu", "amount": amount - storage - 0.5},
                {"type": "storage", "description": "disk", "amount": storage},
                {"type": "bandwidth", "description": "download", "amount": 0.5}
            ]
        })
    };
    let (market, vast) = market(move |asked, _| {
        let last = asked.query.contains("after_token=more");
        let next = if last { Value::Null } else { json!("more") };
        Reply::Json(
            200,
            json!({"results": [day(3.0, 1.0)], "count": 1, "next_token": next}),
        )
    })
    .await;
    let since = Timestamp::from_millis(86_400_000 * 3 + 5);
    let charges = market.charges(since).await.expect("charges");
    assert_eq!(charges.len(), 1);
    let charge = &charges[0];
    assert_eq!(charge.instance.as_str(), "7");
    assert_eq!(
        (charge.gpu.0, charge.storage.0, charge.traffic.0),
        (3.0, 2.0, 1.0)
    );
    assert!(
        vast.asked()[0].query.contains("259200"),
        "{}",
        vast.asked()[0].query
    );
}

#[test]
fn a_key_is_shown_nowhere() {
    let shown = format!("{:?}", settings());
    assert!(!shown.contains(KEY), "{shown}");
}
