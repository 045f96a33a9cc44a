//! Searches and create calls, and what each way to fail says of what happened.

use super::*;
use crate::domain::{ExcludingFilter, SearchOperator, SearchValue};

async fn rent(
    reply: impl Fn(usize) -> Reply + Send + Sync + 'static,
) -> (Result<InstanceId, MarketError>, usize) {
    let (market, vast) = market(move |_, before| reply(before)).await;
    let rented = rent_at(&market, "555", launch()).await;
    (rented, vast.asked().len())
}

/// One answer, and the error it makes, as shown.
#[track_caller]
fn is_error(rented: &Result<InstanceId, MarketError>, kind: &str) {
    let shown = rented.as_ref().expect_err("an error").to_string();
    assert!(shown.starts_with(kind), "{shown} instead of {kind}");
    assert!(!shown.contains(KEY), "{shown}");
}

#[tokio::test]
async fn a_rented_machine_carries_the_label_and_its_number_comes_back() {
    let (market, vast) = market(|_, _| {
        Reply::Json(
            200,
            json!({"success": true, "new_contract": 9001, "instance_api_key": "k"}),
        )
    })
    .await;
    let rented = rent_at(&market, "555", launch()).await.expect("rented");
    assert_eq!(rented.as_str(), "9001");
    let asked = &vast.asked()[0];
    assert_eq!(
        (asked.method.as_str(), asked.path.as_str()),
        ("PUT", "/api/v0/asks/555/")
    );
    assert!(
        asked.head.contains(&format!("authorization: bearer {KEY}")),
        "{}",
        asked.head
    );
    assert!(!asked.path.contains(KEY) && asked.query.is_empty());
    assert_eq!(asked.body["label"], "tidegate/mine/chat/g-1");
    assert_eq!(asked.body["env"]["TIDEGATE_PORT"], "3000");
    assert_eq!(asked.body["price"], Value::Null);
    assert_eq!(asked.body["onstart"], "serve");
}

#[tokio::test]
async fn an_interruptible_offer_is_rented_at_the_bid_under_the_same_number() {
    let (market, vast) =
        market(|_, _| Reply::Json(200, json!({"success": true, "new_contract": "7"}))).await;
    let interruptible = Offer {
        interruptible: true,
        ..offer("555-bid")
    };
    let group = group(launch());
    for (bid, price) in [
        (Some(UsdPerHour(0.3)), 0.3),
        (None, 0.5),
        (Some(UsdPerHour(1e6)), 128.0),
    ] {
        let label = label();
        let order = Order::settled(&interruptible, bid, &group, &label);
        market.rent(&order).await.expect("rented");
        let asked = vast.asked().pop().expect("a call");
        assert_eq!(asked.path, "/api/v0/asks/555/");
        assert_eq!(asked.body["price"], price);
    }
}

#[tokio::test]
async fn an_offer_that_vanished_says_so_in_each_of_its_shapes() {
    for (status, body) in [
        (
            404,
            json!({"success": false, "error": "invalid_args", "msg": "error 404/3603: no_such_ask Instance type by id 555 is not available."}),
        ),
        (404, json!({"error": "no_such_ask", "ask_id": 555})),
        (
            410,
            json!({"success": false, "error": "no_such_ask", "msg": "gone"}),
        ),
        (200, json!({"success": false, "error": "no_such_ask"})),
    ] {
        let (rented, _) = rent(move |_| Reply::Json(status, body.clone())).await;
        is_error(&rented, "offer is gone");
    }
}

#[tokio::test]
async fn what_will_fail_again_is_refused() {
    for (status, body) in [
        (
            400,
            json!({"success": false, "error": "invalid_args", "msg": "bad image"}),
        ),
        (403, json!({"success": false, "msg": "not your machine"})),
        (
            401,
            json!({"success": false, "error": "auth_error", "msg": "Invalid user key a-key-that-nobody-may-see"}),
        ),
        // A wrong key may be told as 404: that is no vanished offer.
        (
            404,
            json!({"success": false, "error": "auth_error", "msg": "Invalid user key"}),
        ),
        (404, json!({"success": false, "msg": "Session expired..."})),
        (402, json!({"success": false, "error": "missing_billing"})),
    ] {
        let (rented, calls) = rent(move |_| Reply::Json(status, body.clone())).await;
        is_error(&rented, "market refused");
        assert_eq!(calls, 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_or_makes_no_sense_leaves_open_whether_it_was_rented() {
    for reply in [
        || Reply::Nothing,
        || Reply::Half("{\"success\": true, \"new_contr"),
        || {
            Reply::Text(
                200,
                "content-type: application/json\r\n",
                "{\"success\": true, \"new_",
            )
        },
        || {
            Reply::Text(
                200,
                "content-type: text/html\r\n",
                "<html>Just a moment...</html>",
            )
        },
        || Reply::Text(502, "", "<html>Bad Gateway</html>"),
        || Reply::Text(503, "", "upstream is down"),
        || Reply::Text(302, "location: /login\r\n", ""),
        || Reply::Text(404, "", "<html>nothing here</html>"),
        || Reply::Json(500, json!({"success": false, "error": "server_error"})),
        || Reply::Json(200, json!({"success": true})),
    ] {
        let (rented, calls) = rent(move |_| reply()).await;
        is_error(&rented, "market unavailable");
        assert_eq!(
            calls, 1,
            "a create call is never repeated when it may have worked"
        );
    }
}

#[tokio::test]
async fn haste_is_waited_out_and_then_it_is_rented() {
    for refusal in [
        || Reply::Text(429, "", "API requests too frequent: endpoint threshold=4.5"),
        || Reply::Text(429, "retry-after: 0.01\r\n", "{\"detail\": \"too many\"}"),
    ] {
        let (rented, calls) = rent(move |before| match before {
            0 => refusal(),
            _ => Reply::Json(200, json!({"success": true, "new_contract": 1})),
        })
        .await;
        assert_eq!((rented.expect("rented").as_str(), calls), ("1", 2));
    }
}

#[tokio::test]
async fn lasting_haste_and_a_long_pause_are_no_rental_and_no_doubt() {
    let (rented, calls) = rent(|_| Reply::Text(429, "", "API requests too frequent")).await;
    is_error(&rented, "market is full");
    assert_eq!(calls, 3);
    let (rented, calls) = rent(|_| Reply::Text(429, "retry-after: 3600\r\n", "")).await;
    is_error(&rented, "market is full");
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn without_a_connection_nothing_was_rented() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let market = market_at(&url, settings());
    is_error(&rent_at(&market, "5", launch()).await, "market is full");
}

fn row(id: u64) -> Value {
    json!({
        "id": id, "machine_id": 77, "host_id": "88", "dph_total": 1.5, "gpu_name": "RTX 4090",
        "num_gpus": 4, "gpu_ram": 24564, "dlperf": 400.5, "reliability2": 0.99, "geolocation": "Sweden, SE",
        "verification": "verified", "inet_down": 800.0, "inet_down_cost": 0.01, "inet_up_cost": "0.02",
        "storage_total_cost": 0.05, "duration": 86400.0
    })
}

#[tokio::test]
async fn a_search_asks_with_the_disk_and_reads_what_is_offered() {
    let (market, vast) = market(|_, _| {
        Reply::Json(
            200,
            json!({"offers": [row(1), {"id": 2}, {"dph_total": 1}]}),
        )
    })
    .await;
    let offers = market.offers(&group(launch())).await.expect("offers");
    assert_eq!(offers.len(), 1, "rows without a price or a number are none");
    let (offer, hardware) = (&offers[0], offers[0].hardware.as_ref().expect("hardware"));
    assert_eq!((offer.id.as_str(), offer.usd_per_hour.0), ("1", 1.5));
    assert_eq!((hardware.gpu_count, hardware.gpu_ram_mb_each), (4, 24564.0));
    assert_eq!(
        (hardware.up_usd_per_gb.0, hardware.storage_usd_per_hour.0),
        (0.02, 0.05)
    );
    assert_eq!(
        (
            hardware.machine.host.as_str(),
            hardware.machine.machine.as_str()
        ),
        ("88", "77")
    );
    assert_eq!(hardware.available_for, Duration::from_secs(86_400));
    let asked = &vast.asked()[0];
    assert_eq!(
        (asked.method.as_str(), asked.path.as_str()),
        ("POST", "/api/v0/bundles/")
    );
    assert_eq!(asked.body["allocated_storage"], 64.0);
    assert_eq!(asked.body["type"], "on-demand");
}

#[tokio::test]
async fn the_same_machine_on_demand_and_interruptible_is_two_offers() {
    let (market, _vast) = market(|_, _| Reply::Json(200, json!({"offers": [row(1)]}))).await;
    let mut group = group(launch());
    group.interruptible = true;
    let offers = market.offers(&group).await.expect("offers");
    let ids: Vec<_> = offers
        .iter()
        .map(|offer| (offer.id.as_str(), offer.interruptible))
        .collect();
    assert_eq!(ids, [("1", false), ("1-bid", true)]);
}

#[tokio::test]
async fn an_offer_that_was_tried_is_not_offered_again_from_memory() {
    let (market, _vast) = market(|asked, _| match asked.method.as_str() {
        "POST" => Reply::Json(200, json!({"offers": [row(1), row(2)]})),
        _ => Reply::Json(410, json!({"error": "no_such_ask"})),
    })
    .await;
    let group = group(launch());
    let offers = market.offers(&group).await.expect("offers");
    let label = label();
    let order = Order::settled(&offers[0], None, &group, &label);
    let rented = market.rent(&order).await;
    is_error(&rented, "offer is gone");
    let offers = market.offers(&group).await.expect("offers");
    assert_eq!((offers.len(), offers[0].id.as_str()), (1, "2"));
}

#[tokio::test]
async fn used_up_searches_are_not_asked_for_again_that_day() {
    let vast = StandIn::start(|_, _| {
        Reply::Text(
            429,
            "x-ratelimit-reset: 7200\r\n",
            "{\"success\": false, \"error\": \"search_quota_exceeded\", \"msg\": \"x\"}",
        )
    })
    .await;
    let mut settings = settings();
    settings.search_interval = Duration::ZERO;
    let market = market_at(&vast.url, settings);
    for _ in 0..3 {
        let error = market.offers(&group(launch())).await.expect_err("none");
        assert!(error.to_string().contains("used up until"), "{error}");
    }
    assert_eq!(vast.asked().len(), 1);
}

#[tokio::test]
async fn a_search_that_fails_is_an_error_and_no_empty_market() {
    for reply in [
        || Reply::Text(200, "", "<html></html>"),
        || Reply::Json(200, json!({"success": true})),
        || Reply::Nothing,
    ] {
        let (market, _vast) = market(move |_, _| reply()).await;
        let error = market.offers(&group(launch())).await.expect_err("none");
        assert!(matches!(error, MarketError::Unavailable(_)), "{error}");
    }
}

#[tokio::test]
async fn the_last_word_is_asked_when_an_orders_turn_has_come_and_keeps_it_from_going_out() {
    let vast =
        StandIn::start(|_, _| Reply::Json(200, json!({"success": true, "new_contract": 1}))).await;
    let mut settings = settings();
    settings.interval_scale = 0.05;
    let market = market_at(&vast.url, settings);
    let begun = Instant::now();
    rent_at(&market, "555", launch()).await.expect("rented");
    let asked_at = Mutex::new(None);
    let says_no = || {
        *asked_at.lock() = Some(Instant::now());
        Err(MarketError::Refused("no money".into()))
    };
    let (offer, group, label) = (offer("556"), group(launch()), label());
    let order = Order {
        last_word: &says_no,
        ..Order::settled(&offer, None, &group, &label)
    };
    is_error(&market.rent(&order).await, "market refused: no money");
    // A twentieth of the 4.5 s after the first order.
    let waited = asked_at.lock().expect("it was asked") - begun;
    assert!(waited >= Duration::from_millis(225), "{waited:?}");
    assert_eq!(vast.asked().len(), 1, "the second never went out");
}

#[tokio::test]
async fn the_last_word_is_asked_again_before_a_call_is_sent_again() {
    let (market, vast) = market(|_, _| Reply::Text(429, "", "API requests too frequent")).await;
    let asked = Mutex::new(0);
    let once = || {
        *asked.lock() += 1;
        match *asked.lock() {
            1 => Ok(()),
            _ => Err(MarketError::Refused("spending is stopped".into())),
        }
    };
    let (offer, group, label) = (offer("555"), group(launch()), label());
    let order = Order {
        last_word: &once,
        ..Order::settled(&offer, None, &group, &label)
    };
    is_error(
        &market.rent(&order).await,
        "market refused: spending is stopped",
    );
    assert_eq!((*asked.lock(), vast.asked().len()), (2, 1));
}

/// Filters as `FIELD OPERATOR VALUE`.
fn searching(filters: &[(&str, SearchOperator, SearchValue)]) -> WorkerGroup {
    let mut launch = launch();
    for (field, operator, value) in filters {
        let of_field = launch.search.filters.entry((*field).to_owned());
        of_field.or_default().insert(*operator, value.clone());
    }
    group(launch)
}

#[tokio::test]
async fn the_filter_that_keeps_everything_out_is_named() {
    let (market, vast) = market(|asked, _| {
        let offers = match asked.body.get("gpu_name") {
            None => vec![row(1), row(2)],
            Some(_) => Vec::new(),
        };
        Reply::Json(200, json!({ "offers": offers }))
    })
    .await;
    let group = searching(&[
        (
            "gpu_name",
            SearchOperator::Eq,
            SearchValue::Text("RTX 9090".into()),
        ),
        ("num_gpus", SearchOperator::Gte, SearchValue::Whole(4)),
        ("rentable", SearchOperator::Eq, SearchValue::Flag(true)),
    ]);
    assert!(market.offers(&group).await.expect("an answer").is_empty());
    let exclusion = market.exclusion(&group).await.expect("an answer");
    let exclusion = exclusion.expect("something to tell");
    assert_eq!(
        exclusion.by,
        [ExcludingFilter {
            filter: "gpu_name=RTX 9090".into(),
            offers: 2
        }]
    );
    assert_eq!(exclusion.in_vain, ["num_gpus>=4"]);
    assert_eq!(vast.asked().len(), 3, "what is always asked for stays");
}

#[tokio::test]
async fn filters_are_left_out_in_few_searches_however_many_there_are() {
    let (market, vast) = market(|_, _| Reply::Json(200, json!({"offers": []}))).await;
    let fields: Vec<String> = (0..20).map(|n| format!("field{n:02}")).collect();
    let filters: Vec<_> = fields
        .iter()
        .map(|field| (field.as_str(), SearchOperator::Gt, SearchValue::Whole(1)))
        .collect();
    let exclusion = market.exclusion(&searching(&filters)).await;
    let exclusion = exclusion.expect("an answer").expect("something to tell");
    assert_eq!((exclusion.in_vain.len(), exclusion.untried.len()), (8, 12));
    assert_eq!(vast.asked().len(), 8);
}
