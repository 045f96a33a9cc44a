//! The listing is complete or an error, and each row means one state.

use super::*;

/// Calls that list, and not those that ask whose key it is.
fn listings(vast: &StandIn) -> Vec<Asked> {
    let mut asked = vast.asked();
    asked.retain(|asked| asked.path.contains("/instances/"));
    asked
}

fn row(id: u64, label: &str) -> Value {
    json!({
        "id": id, "label": label, "actual_status": "running", "intended_status": "running", "cur_state": "running",
        "public_ipaddr": "10.1.2.3\n", "dph_total": 1.25, "storage_total_cost": 0.1, "machine_id": 5, "host_id": 6,
        "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40000"}], "3000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "33526"}]},
        "extra_env": [["TIDEGATE_PORT", "3000"]], "end_date": 1_800_000_000.5, "is_bid": true, "gpu_name": "A100",
        "status_msg": "success, running\n"
    })
}

pub(super) fn ours(id: u64) -> Value {
    row(id, &format!("tidegate/mine/chat/g-{id}"))
}

pub(super) fn page(rows: Vec<Value>, total: usize, next: Option<&str>) -> Reply {
    Reply::Json(
        200,
        json!({"success": true, "instances_found": rows.len(), "total_instances": total, "next_token": next, "instances": rows}),
    )
}

#[tokio::test]
async fn all_pages_are_one_listing_of_our_machines_only() {
    let (market, vast) = market(|asked, _| {
        if asked.query.contains("after_token=t2") {
            let foreign = row(27, "tidegate/another/chat/g-27");
            return page(
                vec![
                    ours(26),
                    foreign,
                    row(28, "mine alone"),
                    json!({"id": 29, "label": null}),
                ],
                29,
                None,
            );
        }
        page((1..=25).map(ours).collect(), 29, Some("t2"))
    })
    .await;
    let listed = market.instances().await.expect("a listing");
    assert_eq!(listed.len(), 26);
    let one = listed
        .iter()
        .find(|one| one.id.as_str() == "26")
        .expect("there");
    assert_eq!(one.label.worker.as_str(), "g-26");
    assert_eq!(one.address, Some(([10, 1, 2, 3], 33526).into()));
    assert_eq!(
        (one.usd_per_hour.0, one.storage_usd_per_hour.0),
        (1.25, 0.1)
    );
    assert!(one.interruptible);
    assert_eq!(one.message, "success, running");
    assert_eq!(one.ends_at, Some(Timestamp::from_millis(1_800_000_000_500)));
    let asked = &listings(&vast)[0];
    assert_eq!(asked.path, "/api/v1/instances/");
    assert!(
        asked.query.contains("limit=25") && asked.query.contains("select_filters=%7B%7D"),
        "{}",
        asked.query
    );
}

#[tokio::test]
async fn a_listing_that_lacks_or_repeats_something_is_an_error_and_never_an_empty_one() {
    for reply in [
        || page(vec![], 3, None),
        || page(vec![ours(1)], 2, None),
        || page(vec![ours(1), ours(2)], 1, None),
        || page(vec![ours(1), ours(1)], 2, None),
        || page(vec![json!({"label": "tidegate/mine/chat/g-1"})], 1, None),
        || Reply::Json(200, json!({"success": true})),
        || Reply::Json(200, json!({"success": true, "instances": null})),
        || {
            Reply::Json(
                200,
                json!({"success": false, "error": "x", "instances": []}),
            )
        },
        || {
            Reply::Json(
                200,
                json!({"success": true, "instances_found": 4, "instances": []}),
            )
        },
        || Reply::Half("{\"success\": true, \"instances\": ["),
        || Reply::Text(200, "", "<html></html>"),
        || Reply::Text(500, "", "oops"),
        || Reply::Nothing,
    ] {
        let (market, _vast) = market(move |_, _| reply()).await;
        let listed = market.instances().await;
        assert!(
            matches!(listed, Err(MarketError::Unavailable(_))),
            "{listed:?}"
        );
    }
}

#[tokio::test]
async fn pages_that_run_in_a_circle_or_fail_halfway_are_an_error() {
    let again: fn(usize) -> Reply = |_| page(vec![ours(1)], 9, Some("t"));
    let other: fn(usize) -> Reply = |before| page(vec![ours(before as u64)], 9, Some("t"));
    let changed: fn(usize) -> Reply = |before| match before {
        0 => page(vec![ours(1)], 2, Some("t")),
        _ => page(vec![ours(2)], 3, None),
    };
    let failed: fn(usize) -> Reply = |before| match before {
        0 => page(vec![ours(1)], 2, Some("t")),
        _ => Reply::Text(503, "", ""),
    };
    for reply in [again, other, changed, failed] {
        let (market, _vast) = market(move |_, before| reply(before)).await;
        assert!(market.instances().await.is_err());
    }
}

#[tokio::test]
async fn the_version_of_the_listing_that_is_served_is_found_and_remembered() {
    for (gone, status) in [("/api/v1/", 404), ("/api/v1/", 200), ("/api/v0/", 410)] {
        let (market, vast) = market(move |asked, _| {
            if asked.path.starts_with(gone) {
                return Reply::Json(
                    status,
                    json!({"success": false, "error": "deprecated_endpoint"}),
                );
            }
            Reply::Json(200, json!({"instances": [ours(1)]}))
        })
        .await;
        if gone == "/api/v0/" {
            *market.old_list_until.lock() =
                Some(tokio::time::Instant::now() + inventory::OLD_LIST_FOR);
        }
        for _ in 0..2 {
            assert_eq!(market.instances().await.expect("a listing").len(), 1);
        }
        assert_eq!(listings(&vast).len(), 3);
    }
}

#[tokio::test]
async fn a_wrong_key_that_is_told_as_404_is_no_other_version() {
    let (market, vast) = market(|_, _| {
        Reply::Json(
            404,
            json!({"success": false, "error": "auth_error", "msg": "Invalid user key"}),
        )
    })
    .await;
    let listed = market.instances().await;
    assert!(matches!(listed, Err(MarketError::Refused(_))), "{listed:?}");
    assert_eq!(listings(&vast).len(), 1);
}

#[tokio::test]
async fn machines_of_a_group_with_an_own_key_are_listed_and_ended_with_it() {
    let vast = StandIn::start(|asked, _| {
        let second = asked.head.contains("bearer second-key");
        match asked.method.as_str() {
            "GET" if second => page(vec![ours(2)], 1, None),
            "GET" => page(vec![ours(1)], 1, None),
            _ => Reply::Json(200, json!({"success": true})),
        }
    })
    .await;
    let mut settings = settings();
    settings.group_keys = vec![Secret::new("second-key")];
    let market = market_at(&vast.url, settings.clone());
    assert_eq!(market.instances().await.expect("a listing").len(), 2);
    // A reload without the group forgets no machine.
    settings.group_keys.clear();
    market.replace(settings);
    assert_eq!(market.instances().await.expect("a listing").len(), 2);
    market.destroy(&InstanceId::new("2")).await.expect("ended");
    let last = listings(&vast).pop().expect("a call");
    assert!(last.head.contains("bearer second-key"), "{}", last.head);
}

#[tokio::test]
async fn a_key_that_is_refused_and_no_longer_named_is_dropped_and_ends_nothing_in_silence() {
    let vast = StandIn::start(|asked, _| {
        if asked.head.contains("bearer old-key") {
            return Reply::Json(401, json!({"success": false, "error": "auth_error"}));
        }
        page(vec![], 0, None)
    })
    .await;
    let mut settings = settings();
    settings.group_keys = vec![Secret::new("old-key")];
    let market = market_at(&vast.url, settings.clone());
    assert!(
        market.instances().await.is_err(),
        "a key that is named counts"
    );
    let id = InstanceId::new("2");
    let old = market.accounts.of(&Secret::new("old-key"));
    market.accounts.has(&old, &id);
    settings.group_keys.clear();
    market.replace(settings);
    // Its machines cannot be seen any more; an end of theirs cannot be claimed.
    market.accounts.drop_key(&old);
    assert!(market.destroy(&id).await.is_err());
    assert_eq!(market.instances().await.expect("a listing").len(), 0);
}

#[test]
fn states_are_those_of_the_documentation() {
    use InstanceState::*;
    for (actual, intended, current, state) in [
        (json!(null), "running", "unloaded", Loading),
        (json!("created"), "running", "running", Loading),
        (json!("loading"), "running", "running", Loading),
        (json!("rebooting"), "running", "running", Loading),
        (json!("running"), "running", "running", Running),
        (json!("running"), "stopped", "running", Running),
        (json!("frozen"), "frozen", "running", Running),
        (json!("stopped"), "stopped", "stopped", Stopped),
        (json!("exited"), "stopped", "stopped", Stopped),
        (json!("stopped"), "running", "stopped", Scheduling),
        (json!("exited"), "running", "unloaded", Scheduling),
        (json!("exited"), "running", "running", Exited),
        (json!("stopped"), "running", "running", Loading),
        (json!("loading"), "stopped", "stopped", Stopped),
        (json!("unknown"), "running", "running", Offline),
        (json!("offline"), "stopped", "stopped", Offline),
    ] {
        let row =
            json!({"actual_status": actual, "intended_status": intended, "cur_state": current});
        assert_eq!(instances::state(&row), Ok(state), "{row}");
    }
    assert_eq!(
        instances::state(&json!({"actual_status": "pondering"})),
        Err("pondering".to_owned())
    );
}

#[tokio::test]
async fn a_machine_without_its_port_yet_has_no_address() {
    let (market, _vast) = market(|_, _| {
        let mut one = ours(1);
        one["ports"] = json!({"22/tcp": [{"HostPort": "40000"}]});
        let mut other = ours(2);
        other["extra_env"] = json!([]);
        other["actual_status"] = json!("pondering");
        page(vec![one, other], 2, None)
    })
    .await;
    let listed = market.instances().await.expect("a listing");
    assert_eq!(listed[0].address, None);
    // The only port besides ssh.
    assert_eq!(listed[1].address, Some(([10, 1, 2, 3], 33526).into()));
    assert_eq!(listed[1].state, InstanceState::Offline);
}
