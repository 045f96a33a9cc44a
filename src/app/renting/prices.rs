//! What an order may cost: prices that move until it is made, limits that are reached while it waits.

use super::market::machine;
use super::*;

/// Machines at a dollar, more than anybody here wants.
fn a_dollar_each(market: &Scripted) {
    market.with(|world| {
        world.offers = (0..9).map(|n| machine(&format!("m{n}"), PRICE)).collect();
    });
}

async fn an_order_waits(
    seed: u64,
    server: &str,
    workers: u32,
) -> (TempDir, Arc<Scripted>, Gateway) {
    let (dir, market) = stage(seed);
    a_dollar_each(&market);
    market.with(|world| world.faults.orders_wait = true);
    let endpoints = [rented_endpoint(workers, "")];
    let gateway = Gateway::start(dir.path(), &market, server, &endpoints);
    wait_until("orders wait", || {
        gateway.endpoint().workers().len() == workers as usize
    })
    .await;
    (dir, market, gateway)
}

#[tokio::test]
async fn an_order_that_comes_out_dearer_than_the_limit_allows_is_given_back() {
    let (dir, market) = stage(41);
    a_dollar_each(&market);
    market.with(|world| world.price_factor = Some(1.2));
    let server = "spending: {max_usd_per_hour: 2.3, price_margin: 0.1}\n";
    let endpoints = [rented_endpoint(2, "")];
    let gateway = Gateway::start(dir.path(), &market, server, &endpoints);
    wait_until("one was given back", || {
        market.with(|world| !world.destroyed.is_empty()) && market.count() == 1
    })
    .await;
    gateway.has_ready(1).await;
    wait_until("the ledger says why", || {
        let rentals = gateway.ledger.recent(9).expect("read");
        rentals
            .iter()
            .any(|one| one.state == RentalState::Ended && one.reason.contains("limit of the hour"))
    })
    .await;
}

#[tokio::test]
async fn what_a_price_may_move_by_is_set_aside_before_it_is_ordered() {
    let (dir, market) = stage(42);
    a_dollar_each(&market);
    let server = "spending: {max_usd_per_hour: 2.05, price_margin: 0.1}\n";
    let endpoints = [rented_endpoint(2, "")];
    let gateway = Gateway::start(dir.path(), &market, server, &endpoints);
    gateway.has_ready(1).await;
    let words = "the cheapest fitting offer, $1.10/h, does not fit: limit of the hour for (all): $1.00 + $1.10 of $2.05";
    wait_until("it says so", || gateway.denials() == [words]).await;
    assert_eq!(market.creates(), 1);
}

#[tokio::test]
async fn the_mark_keeps_an_order_that_waits_from_going_out() {
    let (_dir, market, gateway) = an_order_waits(43, "", 1).await;
    std::fs::write(gateway.ledger.stop_mark(), "").expect("mark");
    market.with(|world| world.faults.orders_wait = false);
    wait_until("the ledger holds nothing open", || {
        gateway.ledger.open_rentals().expect("read").is_empty()
    })
    .await;
    assert_eq!(market.creates(), 0);
}

#[tokio::test]
async fn a_limit_that_others_reach_keeps_an_order_that_waits_from_going_out() {
    let server = "spending: {max_usd_per_hour: 2.5}\n";
    let (_dir, market, gateway) = an_order_waits(44, server, 1).await;
    // A machine of ours that nobody knew costs what was left, and cannot be ended yet.
    market.with(|world| world.faults.keeps = true);
    market.put(gateway.ledger.installation().as_str(), "nobody");
    market.put(gateway.ledger.installation().as_str(), "no-one");
    wait_until("it counts", || market.with(|world| world.refused_ends) > 0).await;
    market.with(|world| world.faults.orders_wait = false);
    wait_until("the order is taken back", || {
        let rentals = gateway.ledger.recent(9).expect("read");
        rentals.iter().any(|one| one.reason.contains("refused"))
    })
    .await;
    assert_eq!(market.creates(), 0);
}
