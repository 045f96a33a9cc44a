//! Machines that are not what was rented, do not start, or come to their end: each is given up, said and replaced, and
//! what it taught is known after a restart.

use super::market::{Birth, machine};
use super::*;
use crate::domain::{Hardware, Instance, InstanceState, Offer, OfferId, Timestamp};

fn offers(ids: &[&str]) -> Vec<Offer> {
    ids.iter().map(|id| machine(id, PRICE)).collect()
}

/// One is wanted, two are on offer, and this is done to the first.
async fn first_is(seed: u64, birth: Birth) -> (TempDir, Arc<Scripted>, Gateway) {
    let (dir, market) = stage(seed);
    market.with(|world| {
        world.offers = offers(&["a", "b"]);
        world.births.push_back(birth);
    });
    let endpoints = [rented_endpoint(1, "")];
    let gateway = Gateway::start(dir.path(), &market, "", &endpoints);
    (dir, market, gateway)
}

#[tokio::test]
async fn a_machine_whose_gpus_somebody_else_has_is_given_up() {
    let birth = |machine: &mut Instance| machine.state = InstanceState::Scheduling;
    let (_dir, market, gateway) = first_is(61, Box::new(birth)).await;
    gateway.has_history("failed: no_gpu").await;
    gateway.has_replaced(&market).await;
}

#[tokio::test]
async fn another_gpu_than_was_rented_is_given_back_and_its_machine_left_alone_after_a_restart_too()
{
    let birth = |machine: &mut Instance| machine.gpu_name = Some("RTX 3060".into());
    let (dir, market, mut gateway) = first_is(62, Box::new(birth)).await;
    gateway.has_history("failed: wrong_hardware").await;
    gateway.has_replaced(&market).await;
    gateway.kill();
    // The cheat under another number is the cheapest, and no other lesson speaks against it.
    let cheat = market.with(|world| world.ordered[0].clone());
    market.with(|world| {
        let mut again = machine(cheat.as_str(), PRICE / 2.0);
        again.id = OfferId::new("again");
        world.offers = vec![again, machine("c", PRICE)];
    });
    let next = Gateway::start(dir.path(), &market, "", &[rented_endpoint(2, "")]);
    next.has_ready(2).await;
    let ordered = market.with(|world| world.ordered.clone());
    assert_eq!(ordered.last(), Some(&OfferId::new("c")), "{ordered:?}");
}

#[tokio::test]
async fn what_was_rented_is_known_after_a_restart() {
    let (dir, market, mut gateway) = first_is(63, Box::new(|_| {})).await;
    gateway.has_ready(1).await;
    let speed = gateway.worker().speed();
    gateway.kill();
    let endpoints = [rented_endpoint(1, "")];
    let next = Gateway::start(dir.path(), &market, "", &endpoints);
    next.has_ready(1).await;
    let rented = next.worker().origin.rented_as();
    assert_eq!(rented.expect("a choice").gpu_name, "RTX 4090");
    assert_eq!(next.worker().speed(), speed);
    // So it is noticed when it turns into something else.
    market.change(|machine| machine.gpu_name = Some("RTX 3060".into()));
    next.has_history("failed: wrong_hardware").await;
    next.has_replaced(&market).await;
}

#[tokio::test]
async fn a_machine_that_its_market_says_cannot_start_is_not_waited_for() {
    let birth = |machine: &mut Instance| {
        machine.state = InstanceState::Loading;
        machine.message = "Error response from daemon: no such image".into();
    };
    let (_dir, market, gateway) = first_is(64, Box::new(birth)).await;
    gateway.has_history("failed: market_error").await;
    gateway.has_replaced(&market).await;
}

#[tokio::test]
async fn a_machine_whose_rental_ends_before_long_is_replaced_in_good_order() {
    let (_dir, market, gateway) = first_is(65, Box::new(|_| {})).await;
    gateway.has_ready(1).await;
    let soon = Timestamp::from_millis(now().as_millis() + 60_000);
    market.change(|machine| machine.ends_at = Some(soon));
    gateway.has_history("draining").await;
    gateway.has_replaced(&market).await;
    gateway.has_history("ended: its rental ends").await;
}

/// Machines whose start is doubtful: two are rented where one is wanted.
async fn race(seed: u64, first: Birth, second: Birth) -> (TempDir, Arc<Scripted>, Gateway) {
    let (dir, market) = stage(seed);
    let doubtful = |offer: Offer| Offer {
        hardware: offer.hardware.map(|hardware| Hardware {
            reliability: 0.5,
            ..hardware
        }),
        ..offer
    };
    market.with(|world| {
        world.offers = offers(&["a", "b"]).into_iter().map(doubtful).collect();
        world.births.extend([first, second]);
    });
    let endpoints = [rented_endpoint(1, "").replace("race: 0", "race: 1")];
    let gateway = Gateway::start(dir.path(), &market, "", &endpoints);
    (dir, market, gateway)
}

fn loads(machine: &mut Instance) {
    machine.state = InstanceState::Loading;
}

#[tokio::test]
async fn of_two_machines_whose_start_is_doubtful_the_first_that_is_ready_stays() {
    // Whichever it is.
    for (seed, births) in [
        (
            66,
            [Box::new(loads) as Birth, Box::new(|_: &mut Instance| {})],
        ),
        (
            67,
            [Box::new(|_: &mut Instance| {}) as Birth, Box::new(loads)],
        ),
    ] {
        let [first, second] = births;
        let (_dir, market, gateway) = race(seed, first, second).await;
        gateway.has_replaced(&market).await;
        a_while().await;
        assert_eq!((market.creates(), gateway.ready()), (2, 1));
        gateway
            .has_history("ended: another machine was ready first")
            .await;
    }
}

#[tokio::test]
async fn a_spare_stands_in_for_a_machine_that_never_comes_up() {
    let fails = |machine: &mut Instance| {
        machine.state = InstanceState::Loading;
        machine.message = "Error: no space left on device".into();
    };
    let (_dir, market, gateway) = race(68, Box::new(fails), Box::new(loads)).await;
    gateway.has_history("failed: market_error").await;
    market.change(|machine| machine.state = InstanceState::Running);
    gateway.has_ready(1).await;
    a_while().await;
    assert_eq!((market.creates(), market.count()), (2, 1));
}
