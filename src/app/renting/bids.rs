//! Machines that are bid for: what is bid more, and when they are left to others.

use super::market::{machine, to_bid_for};
use super::*;
use crate::domain::{InstanceState, UsdPerHour};

/// One machine is bid for, where the least bid that wins is 0.40 and it costs a dollar on demand.
async fn one_is_bid_for(seed: u64, server: &str) -> (TempDir, Arc<Scripted>, Gateway) {
    let (dir, market) = stage(seed);
    let steady = machine("m", PRICE);
    market.with(|world| world.offers = vec![to_bid_for(&steady, 0.40), steady]);
    let endpoints = [rented_endpoint(1, "interruptible: all")];
    let gateway = Gateway::start(dir.path(), &market, server, &endpoints);
    gateway.has_ready(1).await;
    wait_until("it is bid for", || bid(&market).0 == 0.46).await;
    // Nothing else is to be had.
    market.with(|world| world.offers.truncate(1));
    a_while().await;
    (dir, market, gateway)
}

fn bid(market: &Scripted) -> UsdPerHour {
    let bid = market.with(|world| world.machines.values().next().map(|one| one.usd_per_hour));
    let bid = bid.map_or(0.0, |bid| (bid.0 * 1e6).round() / 1e6);
    UsdPerHour(bid)
}

fn outbid(market: &Scripted, least: f64) {
    market.change(|machine| {
        machine.state = InstanceState::Scheduling;
        machine.least_bid = Some(UsdPerHour(least));
    });
}

#[tokio::test]
async fn a_bid_goes_up_by_a_tenth_when_others_come_near_and_the_machine_serves_on() {
    let (dir, market, gateway) = one_is_bid_for(51, "").await;
    let worker = gateway.worker();
    market.change(|machine| machine.least_bid = Some(UsdPerHour(0.44)));
    wait_until("more is bid", || bid(&market).0 == 0.506).await;
    gateway
        .has_history("bid_raised: 0.4600 -> 0.5060: the least bid is near")
        .await;
    wait_until("it counts for limits", || {
        (worker.price().0 - 0.506).abs() < 1e-9
    })
    .await;
    assert!(
        gateway
            .endpoint()
            .worker(worker.id())
            .is_some_and(|it| it.phase().0.is_ready())
    );
    a_while().await;
    assert_eq!(market.with(|world| world.bids.len()), 1);
    let log = std::fs::read_to_string(dir.path().join("decisions.jsonl")).expect("the log");
    assert!(log.contains("\"step\":\"raise\""), "{log}");
}

#[tokio::test]
async fn who_is_outbid_bids_more_and_has_its_machine_again() {
    let (_dir, market, gateway) = one_is_bid_for(52, "").await;
    let worker = gateway.worker();
    outbid(&market, 0.48);
    wait_until("more is bid", || bid(&market).0 == 0.552).await;
    gateway
        .has_history("bid_raised: 0.4600 -> 0.5520: outbid")
        .await;
    gateway.has_ready(1).await;
    assert_eq!(gateway.worker().id(), worker.id());
    assert_eq!((market.creates(), market.count()), (1, 1));
}

#[tokio::test]
async fn what_would_win_a_machine_back_and_is_not_worth_it_is_not_bid() {
    let (_dir, market, gateway) = one_is_bid_for(53, "").await;
    let first = gateway.worker().id().clone();
    market.with(|world| world.offers = vec![machine("another", PRICE)]);
    outbid(&market, 0.90);
    gateway.has_history("failed: outbid").await;
    wait_until("another is rented", || market.creates() == 2).await;
    gateway.has_ready(1).await;
    assert_ne!(*gateway.worker().id(), first);
    assert!(market.with(|world| world.bids.is_empty()));
}

#[tokio::test]
async fn the_guard_has_the_last_word_on_bids_too() {
    let server = "spending: {max_usd_per_hour: 0.5}\n";
    let (_dir, market, gateway) = one_is_bid_for(54, server).await;
    market.change(|machine| machine.least_bid = Some(UsdPerHour(0.45)));
    wait_until("the limit says no", || !gateway.denials().is_empty()).await;
    assert!(market.with(|world| world.bids.is_empty()));
    gateway.has_ready(1).await;
}
