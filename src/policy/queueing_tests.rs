//! The order of the waiting room: shares between clients, priorities within one, nobody lost.

use proptest::prelude::*;

use super::*;

fn claimant(client: &str, cost: f64) -> Claimant {
    Claimant {
        client: ClientKey::new(client),
        cost: Tokens(cost),
        priority: 0,
        resumed: false,
    }
}

fn served<T: Copy>(order: &mut WaitingOrder<T>) -> Vec<T> {
    let mut out = Vec::new();
    loop {
        let Some(place) = order.in_order().map(|(place, _)| place).next() else {
            return out;
        };
        out.extend(order.serve(&place));
    }
}

#[test]
fn one_client_is_served_in_order_of_arrival() {
    let mut order = WaitingOrder::default();
    for n in 0..5 {
        order.push(&claimant("a", 10.0), n);
    }
    assert_eq!(served(&mut order), [0, 1, 2, 3, 4]);
}

#[test]
fn a_flood_of_one_client_does_not_delay_another() {
    let mut order = WaitingOrder::default();
    for _ in 0..100 {
        order.push(&claimant("loud", 10.0), "loud");
    }
    order.push(&claimant("quiet", 10.0), "quiet");
    let place = served(&mut order).iter().position(|who| *who == "quiet");
    assert_eq!(place, Some(1));
}

#[test]
fn clients_share_by_work_not_by_requests() {
    let mut order = WaitingOrder::default();
    for _ in 0..40 {
        order.push(&claimant("small", 10.0), 10);
        order.push(&claimant("large", 40.0), 40);
    }
    let first: Vec<_> = served(&mut order).into_iter().take(25).collect();
    let large: i32 = first.iter().filter(|cost| **cost == 40).sum();
    let small: i32 = first.iter().filter(|cost| **cost == 10).sum();
    assert!((large - small).abs() <= 40, "{large} against {small}");
}

#[test]
fn within_a_client_the_lower_priority_value_goes_first() {
    let mut order = WaitingOrder::default();
    for (n, priority) in [0, 5, -3, 0, i32::MIN].into_iter().enumerate() {
        let of = Claimant {
            priority,
            ..claimant("a", 10.0)
        };
        order.push(&of, n);
    }
    assert_eq!(served(&mut order), [4, 2, 0, 3, 1]);
}

#[test]
fn urgency_gains_nothing_over_other_clients() {
    let mut order = WaitingOrder::default();
    for _ in 0..10 {
        order.push(&claimant("calm", 10.0), "calm");
        let pushy = Claimant {
            priority: i32::MIN,
            ..claimant("pushy", 10.0)
        };
        order.push(&pushy, "pushy");
    }
    let first: Vec<_> = served(&mut order).into_iter().take(10).collect();
    assert_eq!(first.iter().filter(|who| **who == "calm").count(), 5);
}

#[test]
fn a_stream_that_is_continued_goes_before_everybody_and_costs_its_client_nothing() {
    let mut order = WaitingOrder::default();
    order.push(&claimant("first", 10.0), 0);
    order.push(&claimant("other", 10.0), 1);
    let resumed = |priority| Claimant {
        resumed: true,
        priority,
        ..claimant("other", 1e6)
    };
    order.push(&resumed(7), 2);
    order.push(&resumed(-7), 3);
    order.push(&claimant("first", 10.0), 4);
    assert_eq!(served(&mut order), [2, 3, 0, 1, 4]);
}

#[test]
fn a_client_that_left_is_not_served() {
    let mut order = WaitingOrder::default();
    let gone = order.push(&claimant("a", 1.0), 0);
    order.push(&claimant("a", 1.0), 1);
    assert_eq!(order.leave(&gone), Some(0));
    assert_eq!(order.leave(&gone), None);
    assert_eq!(served(&mut order), [1]);
}

#[test]
fn who_gives_up_and_comes_again_is_not_charged_for_what_it_did_not_get() {
    let mut order = WaitingOrder::default();
    for _ in 0..5 {
        order.push(&claimant("steady", 10.0), "steady");
    }
    for _ in 0..20 {
        let place = order.push(&claimant("hasty", 10.0), "hasty");
        order.leave(&place);
    }
    order.push(&claimant("hasty", 10.0), "hasty");
    let place = served(&mut order).iter().position(|who| *who == "hasty");
    assert_eq!(place, Some(1));
}

#[test]
fn who_was_served_and_comes_again_waits_for_its_next_turn() {
    let mut order = WaitingOrder::default();
    for n in 0..4 {
        order.push(&claimant("patient", 10.0), n);
    }
    let place = order.push(&claimant("greedy", 30.0), 10);
    order.serve(&place);
    order.push(&claimant("greedy", 30.0), 11);
    assert_eq!(served(&mut order), [0, 1, 2, 11, 3]);
}

#[test]
fn clients_of_the_past_are_forgotten_while_others_wait() {
    let mut order = WaitingOrder::default();
    order.push(&claimant("patient", 1.0), 0);
    for n in 0..20_000 {
        let place = order.push(&claimant(&n.to_string(), 50.0), 1);
        order.serve(&place);
    }
    assert!(order.past.len() <= PAST_KEPT, "{}", order.past.len());
}

#[derive(Clone, Debug)]
enum Step {
    Push(Claimant),
    /// Serves the entry that is so many places behind the first, as a dispatcher that skips does.
    Serve(usize),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let claimant = (0u8..4, 0.0f64..1e4, -2i32..3, prop::bool::weighted(0.1)).prop_map(
        |(client, cost, priority, resumed)| Claimant {
            client: ClientKey::new(client.to_string()),
            cost: Tokens(cost),
            priority,
            resumed,
        },
    );
    prop_oneof![
        3 => claimant.prop_map(Step::Push),
        2 => (0usize..3).prop_map(Step::Serve),
        1 => (0usize..20).prop_map(Step::Leave),
    ]
}

proptest! {
    #[test]
    fn nobody_is_lost_or_served_twice_and_the_walk_is_the_order_of_service(
        steps in proptest::collection::vec(step(), 0..120)
    ) {
        let mut order = WaitingOrder::default();
        let mut here = std::collections::BTreeSet::new();
        for (n, step) in steps.into_iter().enumerate() {
            let at = |order: &WaitingOrder<usize>, nth: usize| {
                order.in_order().nth(nth).map(|(place, who)| (place, *who))
            };
            match step {
                Step::Push(claimant) => {
                    order.push(&claimant, n);
                    here.insert(n);
                }
                Step::Serve(nth) => if let Some((place, who)) = at(&order, nth) {
                    prop_assert_eq!(order.serve(&place), Some(who));
                    prop_assert!(here.remove(&who));
                    prop_assert_eq!(order.serve(&place), None);
                },
                Step::Leave(nth) => if let Some((place, who)) = at(&order, nth) {
                    prop_assert_eq!(order.leave(&place), Some(who));
                    prop_assert!(here.remove(&who));
                },
            }
            prop_assert_eq!(order.is_empty(), here.is_empty());
        }
        let walked: Vec<usize> = order.in_order().map(|(_, who)| *who).collect();
        prop_assert_eq!(&walked, &served(&mut order));
        let mut walked = walked;
        walked.sort_unstable();
        prop_assert_eq!(walked, here.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_client_is_served_by_priority_then_arrival(
        pushes in proptest::collection::vec((0u8..3, 1.0f64..1e4, -2i32..3), 0..60)
    ) {
        let mut order = WaitingOrder::default();
        for (n, (client, cost, priority)) in pushes.iter().enumerate() {
            let of = Claimant { priority: *priority, ..claimant(&client.to_string(), *cost) };
            order.push(&of, (*client, *priority, n));
        }
        let out = served(&mut order);
        for client in 0u8..3 {
            let own: Vec<_> = out.iter().filter(|(c, ..)| *c == client).collect();
            prop_assert!(own.is_sorted());
        }
    }

    /// The bound of start-time fair queueing: while two clients wait, what they were served differs by at
    /// most the largest request of each.
    #[test]
    fn clients_that_wait_are_served_alike_within_one_request_of_each(
        costs in proptest::collection::vec((0usize..3, 1.0f64..1e3, -2i32..3), 30..120)
    ) {
        let mut order = WaitingOrder::default();
        let mut largest = [0.0f64; 3];
        let mut left = [0usize; 3];
        for (client, cost, priority) in &costs {
            let of = Claimant { priority: *priority, ..claimant(&client.to_string(), *cost) };
            order.push(&of, (*client, *cost));
            largest[*client] = largest[*client].max(*cost);
            left[*client] += 1;
        }
        let mut work = [0.0f64; 3];
        for (client, cost) in served(&mut order) {
            work[client] += cost;
            left[client] -= 1;
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                if left[a] > 0 && left[b] > 0 {
                    let apart = (work[a] - work[b]).abs();
                    prop_assert!(apart <= largest[a] + largest[b] + 1.0, "{} apart", apart);
                }
            }
        }
    }
}

/// A fleet of 192 places in virtual time, one key at 20 times its share beside one at 35% of the capacity: what the second
/// one's requests wait in the room.
#[test]
fn a_noisy_client_at_twenty_shares_delays_another_by_a_few_freed_places() {
    const PLACES: usize = 192;
    const SERVICE_S: f64 = 8.0;
    let rate = PLACES as f64 / SERVICE_S * 0.35;
    let mut seed = 7_u64;
    let mut dice = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((seed >> 33) as f64 + 0.5) / f64::from(1_u32 << 31)
    };
    let mut order = WaitingOrder::default();
    let mut busy_until = [0.0_f64; PLACES];
    let (mut next_loud, mut next_quiet) = (0.0, 0.0);
    let mut waits = Vec::new();
    let mut waiting_loud = 0;
    for now in (0..60_000).map(|step| f64::from(step) * 0.01) {
        while next_loud <= now {
            next_loud -= dice().ln() / (20.0 * rate);
            if waiting_loud < 160 {
                waiting_loud += 1;
                order.push(&claimant("loud", 110.0), None);
            }
        }
        while next_quiet <= now {
            order.push(&claimant("quiet", 110.0), Some(next_quiet));
            next_quiet -= dice().ln() / rate;
        }
        for until in busy_until.iter_mut().filter(|until| **until <= now) {
            let Some(place) = order.in_order().map(|(place, _)| place).next() else {
                continue;
            };
            match order.serve(&place).expect("it waits") {
                Some(came) if now > 60.0 => waits.push(now - came),
                Some(_) => {}
                None => waiting_loud -= 1,
            }
            *until = now + SERVICE_S * (0.5 + dice());
        }
    }
    waits.sort_by(f64::total_cmp);
    let p99 = waits[waits.len() * 99 / 100];
    // A place is freed every 42 ms on average.
    assert!(p99 < 0.35, "{p99} s of {} waits", waits.len());
}
