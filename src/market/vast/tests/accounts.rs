//! Several accounts: one that is refused or slow keeps nobody from the machines of the others.

use std::sync::{Condvar, Mutex as Lock};

use super::listing::{ours, page};
use super::*;

/// The first key is refused; machine 2 is the other account's.
async fn one_bad_key() -> (Arc<VastMarket>, StandIn) {
    let vast = StandIn::start(|asked, _| {
        if !asked.head.contains("bearer second-key") {
            return Reply::Json(401, json!({"success": false, "error": "auth_error"}));
        }
        match asked.method.as_str() {
            "GET" => page(vec![ours(2)], 1, None),
            _ => Reply::Json(200, json!({"success": true})),
        }
    })
    .await;
    (market_at(&vast.url, two_keys()), vast)
}

fn two_keys() -> VastSettings {
    let mut settings = settings();
    settings.group_keys = vec![Secret::new("second-key")];
    settings
}

#[tokio::test]
async fn a_refused_key_hides_no_other_accounts_machines_and_is_told() {
    let (market, _vast) = one_bad_key().await;
    let inventory = market.inventory().await.expect("what there is");
    assert_eq!(inventory.instances.len(), 1);
    let good = market.accounts.of(&Secret::new("second-key")).id;
    let bad = market.accounts.of(&Secret::new(KEY)).id;
    assert!(inventory.speaks_of(Some(&good)));
    assert!(!inventory.speaks_of(Some(&bad)) && !inventory.speaks_of(None));
    assert!(inventory.silent[&bad].contains("401"), "{inventory:?}");
    // Who must know all is told that it is not all.
    assert!(market.instances().await.is_err());
}

#[tokio::test]
async fn a_refused_key_keeps_no_machine_of_another_account_from_being_ended() {
    let (market, vast) = one_bad_key().await;
    // Nothing was listed yet, as after a restart.
    market.destroy(&InstanceId::new("2")).await.expect("ended");
    assert_eq!(vast.asked().len(), 2);
}

#[tokio::test]
async fn an_end_is_claimed_only_where_every_account_that_may_have_it_says_so() {
    let (market, _vast) = market(|asked, _| {
        let unknown = json!({"success": false, "error": "no_such_instance"});
        match asked.head.contains("bearer second-key") {
            true => Reply::Json(404, unknown),
            false => Reply::Json(401, json!({"success": false, "error": "auth_error"})),
        }
    })
    .await;
    market.replace(two_keys());
    let ended = market.destroy(&InstanceId::new("2")).await;
    assert!(matches!(ended, Err(MarketError::Refused(_))), "{ended:?}");
}

#[tokio::test]
async fn a_machine_of_an_account_without_a_key_is_not_claimed_to_be_ended() {
    let (market, vast) = one_bad_key().await;
    let id = InstanceId::new("7");
    market.belongs(&id, &AccountId::new("another"));
    market.inventory().await.expect("what there is");
    let before = vast.asked().len();
    assert!(market.destroy(&id).await.is_err());
    assert_eq!(vast.asked().len(), before);
}

#[test]
fn an_account_is_told_by_something_that_is_not_its_key() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let market = market_at("http://127.0.0.1:9", two_keys());
    let group = group(launch());
    let id = market.account_for(&group).expect("an account");
    assert_eq!(id.as_str().len(), 12);
    assert_eq!(id, market.accounts.of(&Secret::new(KEY)).id);
    assert_ne!(id, market.accounts.of(&Secret::new("second-key")).id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn accounts_are_listed_side_by_side() {
    let here = Arc::new((Lock::new(0), Condvar::new()));
    let both = Arc::clone(&here);
    let (market, _vast) = market(move |_, _| {
        let (count, changed) = &*both;
        let mut count = count.lock().expect("a lock");
        *count += 1;
        changed.notify_all();
        let patience = Duration::from_secs(10);
        let met = changed.wait_timeout_while(count, patience, |count| *count < 2);
        match met.expect("a lock").1.timed_out() {
            true => Reply::Text(500, "", "alone"),
            false => page(vec![], 0, None),
        }
    })
    .await;
    market.replace(two_keys());
    let inventory = market.inventory().await.expect("a listing");
    assert_eq!(inventory.answered.len(), 2, "{inventory:?}");
}

/// Three keys: the first is refused, the others are of user 7 and have both been used for machine 2.
async fn a_rotated_key() -> (Arc<VastMarket>, StandIn) {
    let (market, vast) = market(|asked, _| {
        if asked.head.contains(&format!("bearer {KEY}")) {
            return Reply::Json(401, json!({"success": false, "error": "auth_error"}));
        }
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/api/v0/users/current") => Reply::Json(200, json!({"id": 7, "credit": 12.5})),
            ("GET", "/api/v0/charges/") => Reply::Json(
                200,
                json!({"results": [{"source": "instance-2", "amount": 0.5, "items": []}]}),
            ),
            ("GET", _) => page(vec![ours(2)], 1, None),
            _ => Reply::Json(200, json!({"success": true})),
        }
    })
    .await;
    let mut settings = settings();
    settings.group_keys = vec![Secret::new("second-key"), Secret::new("third-key")];
    market.replace(settings);
    (market, vast)
}

#[tokio::test]
async fn another_key_of_the_same_account_is_the_same_account() {
    let (market, vast) = a_rotated_key().await;
    let user = AccountId::of_user("7");
    // From a ledger that knows the account by its user, and nothing of these keys.
    market.belongs(&InstanceId::new("2"), &user);
    let inventory = market.inventory().await.expect("what there is");
    assert!(inventory.speaks_of(Some(&user)), "{inventory:?}");
    assert_eq!(inventory.held_by[&InstanceId::new("2")], user);
    for key in ["second-key", "third-key"] {
        assert_eq!(market.accounts.of(&Secret::new(key)).id, user);
    }
    let before = vast.asked().len();
    market.destroy(&InstanceId::new("2")).await.expect("ended");
    let asked = vast.asked();
    assert!(asked[before..].iter().all(|asked| asked.method == "DELETE"));
    // Whose a key is, is asked once.
    market.inventory().await.expect("what there is");
    let who = vast.asked().into_iter();
    let who = who.filter(|asked| asked.path.contains("users") && !asked.head.contains(KEY));
    assert_eq!(who.count(), 2);
}

#[tokio::test]
async fn a_refused_key_hides_neither_credit_nor_charges_of_the_other_accounts() {
    let (market, _vast) = a_rotated_key().await;
    let account = market.account().await.expect("an answer").expect("money");
    assert_eq!(account.credit.0, 12.5);
    let charges = market.charges(now()).await.expect("charges");
    assert_eq!(charges.len(), 1);
    let mut only_refused = settings();
    only_refused.group_keys = Vec::new();
    market.replace(only_refused);
    assert!(market.account().await.is_err());
}
