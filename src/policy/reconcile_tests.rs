//! What listings are believed, and what follows from them.

use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_secs(1);

fn worker(n: usize) -> WorkerId {
    WorkerId::new(format!("w{n}"))
}

fn known(n: usize, expected: Expected) -> Known {
    Known {
        worker: worker(n),
        endpoint: EndpointName::new("chat"),
        group: GroupName::new("g"),
        expected,
        instance: Some(InstanceId::new(format!("i{n}"))),
        is_news: true,
    }
}

fn listed(n: usize) -> Listed {
    Listed {
        worker: worker(n),
        instance: InstanceId::new(format!("i{n}")),
    }
}

/// A market that is listed once a second.
struct Watch {
    memory: ReconcileMemory,
    at_s: u64,
    patience: Patience,
}

impl Watch {
    fn new() -> Self {
        Self {
            memory: ReconcileMemory::default(),
            at_s: 100,
            patience: Patience::of(Some(INTERVAL)),
        }
    }

    fn look(&mut self, known: &[Known], listed: &[Listed]) -> Reconciliation {
        self.at_s += 1;
        let at = Timestamp::from_millis(self.at_s * 1_000);
        let (result, memory) = reconcile(known, listed, &self.memory, &self.patience, at);
        self.memory = memory;
        result
    }

    /// Looks at the same until something is gone; how many looks that took.
    fn looks_until_gone(&mut self, known: &[Known], listed: &[Listed]) -> usize {
        (1..200)
            .find(|_| !self.look(known, listed).gone.is_empty())
            .expect("gone at last")
    }
}

fn fleet(size: usize) -> (Vec<Known>, Vec<Listed>) {
    let known = (0..size).map(|n| known(n, Expected::There)).collect();
    (known, (0..size).map(listed).collect())
}

#[test]
fn where_both_sides_agree_nothing_follows() {
    let (known, listed) = fleet(5);
    let result = Watch::new().look(&known, &listed);
    assert_eq!(result, Reconciliation::default());
}

#[test]
fn one_missing_machine_is_gone_after_some_listings_and_renting_waits_for_them() {
    let (known, listed) = fleet(5);
    let mut watch = Watch::new();
    watch.look(&known, &listed);
    let first = watch.look(&known, &listed[1..]);
    assert!(first.gone.is_empty());
    let worker = worker(0);
    assert_eq!(first.disagreements, [Disagreement::Missing { worker }]);
    assert_eq!(watch.looks_until_gone(&known, &listed[1..]), 5);
    // Known no more: both sides agree again.
    let result = watch.look(&known[1..], &listed[1..]);
    assert_eq!(result, Reconciliation::default());
}

#[test]
fn a_machine_that_comes_back_was_never_gone() {
    let (known, listed) = fleet(3);
    let mut watch = Watch::new();
    for _ in 0..20 {
        assert!(watch.look(&known, &listed).gone.is_empty());
        for _ in 0..4 {
            assert!(watch.look(&known, &listed[1..]).gone.is_empty());
        }
    }
}

#[test]
fn an_empty_listing_never_means_that_everything_is_gone() {
    for size in [1, 2, 7] {
        let (known, listed) = fleet(size);
        let mut watch = Watch::new();
        watch.look(&known, &listed);
        for _ in 0..25 {
            let result = watch.look(&known, &[]);
            assert!(result.doubted && result.gone.is_empty());
            let doubtful = Disagreement::Doubtful {
                missing: size,
                of: size,
            };
            assert_eq!(result.disagreements, [doubtful]);
        }
        let back = watch.look(&known, &listed);
        assert_eq!(back, Reconciliation::default());
    }
}

#[test]
fn a_fleet_that_stays_away_for_long_is_gone_at_last() {
    let (known, listed) = fleet(4);
    let mut watch = Watch::new();
    watch.look(&known, &listed);
    assert_eq!(watch.looks_until_gone(&known, &listed[3..]), 31);
}

#[test]
fn a_page_that_was_cut_off_is_doubted() {
    let (known, listed) = fleet(10);
    let mut watch = Watch::new();
    watch.look(&known, &listed);
    let result = watch.look(&known, &listed[..4]);
    assert!(result.doubted);
    let doubtful = Disagreement::Doubtful { missing: 6, of: 10 };
    assert_eq!(result.disagreements, [doubtful]);
}

#[test]
fn our_own_market_is_believed_at_once_but_for_a_second_look() {
    let (known, listed) = fleet(4);
    let mut watch = Watch::new();
    watch.patience = Patience::of(None);
    watch.look(&known, &listed);
    assert_eq!(watch.looks_until_gone(&known, &[]), 2);
}

#[test]
fn a_new_machine_may_be_listed_late() {
    let (mut all, there) = fleet(2);
    all.push(known(2, Expected::There));
    let mut watch = Watch::new();
    for _ in 0..10 {
        let result = watch.look(&all, &there);
        assert!(result.gone.is_empty() && result.disagreements.is_empty());
    }
    // One buyer of two is told yes and gets nothing: noticed in the end.
    let mut watch = Watch::new();
    assert_eq!(watch.looks_until_gone(&all, &there), 16);
}

#[test]
fn a_lost_answer_holds_its_group_until_listings_tell() {
    let (mut all, there) = fleet(2);
    all.push(Known {
        instance: None,
        ..known(2, Expected::Uncertain)
    });
    let group = (EndpointName::new("chat"), GroupName::new("g"));
    let mut watch = Watch::new();
    let result = watch.look(&all, &there);
    assert!(result.uncertain.contains(&group) && result.gone.is_empty());
    assert!(result.disagreements.is_empty());
    // It took effect.
    let (_, with_it) = fleet(3);
    assert!(watch.look(&all, &with_it).uncertain.is_empty());
    // It did not.
    let mut watch = Watch::new();
    assert_eq!(watch.looks_until_gone(&all, &there), 16);
    assert!(watch.look(&all[..2], &there).uncertain.is_empty());
}

#[test]
fn a_listing_from_before_a_call_says_nothing_about_its_worker() {
    let (mut all, there) = fleet(2);
    let mut watch = Watch::new();
    watch.look(&all, &there);
    all[0].is_news = false;
    for _ in 0..50 {
        let result = watch.look(&all, &there[1..]);
        assert_eq!(result, Reconciliation::default());
    }
}

#[test]
fn what_was_told_to_end_is_rightly_missing() {
    let (mut all, there) = fleet(3);
    let mut watch = Watch::new();
    watch.look(&all, &there);
    all[0].expected = Expected::Ending;
    let result = watch.look(&all, &there[1..]);
    assert!(result.disagreements.is_empty() && !result.doubted);
    assert_eq!(watch.looks_until_gone(&all, &there[1..]), 5);
    // Still listed: no disagreement either.
    assert!(Watch::new().look(&all, &there).disagreements.is_empty());
}

#[test]
fn machines_of_ours_that_nobody_needs_are_to_be_ended_and_renting_waits() {
    let (all, mut there) = fleet(1);
    there.push(listed(7));
    let result = Watch::new().look(&all, &there);
    assert_eq!(result.surplus, [listed(7)]);
    let worker = worker(7);
    assert_eq!(result.disagreements, [Disagreement::Stray { worker }]);
}

#[test]
fn of_two_machines_for_one_rental_the_one_the_market_named_stays() {
    let (all, there) = fleet(1);
    let other = Listed {
        instance: InstanceId::new("i99"),
        ..listed(0)
    };
    for both in [
        vec![there[0].clone(), other.clone()],
        vec![other.clone(), there[0].clone()],
    ] {
        let result = Watch::new().look(&all, &both);
        assert_eq!(result.surplus, std::slice::from_ref(&other));
        let worker = worker(0);
        assert_eq!(result.disagreements, [Disagreement::Twice { worker }]);
    }
    // The same row on two pages is one machine.
    let twice = [there[0].clone(), there[0].clone()];
    let result = Watch::new().look(&all, &twice);
    assert_eq!(result, Reconciliation::default());
}

proptest! {
    /// Listings that leave out anything at random, but never the same machine for as long as it takes to settle, lose
    /// nothing; and whenever something expected is missing nothing may be rented.
    #[test]
    fn what_is_listed_now_and_then_is_never_gone(
        size in 1usize..9, rounds in prop::collection::vec(prop::collection::vec(any::<bool>(), 9), 1..120)
    ) {
        let (all, there) = fleet(size);
        let mut watch = Watch::new();
        watch.look(&all, &there);
        let mut absent = vec![0; size];
        for round in rounds {
            let held: Vec<Listed> = (0..size)
                .filter(|&n| {
                    let here = round[n] || absent[n] >= 4;
                    absent[n] = if here { 0 } else { absent[n] + 1 };
                    here
                })
                .map(listed)
                .collect();
            let complete = held.len() == size;
            let result = watch.look(&all, &held);
            prop_assert!(result.gone.is_empty());
            prop_assert_eq!(result.disagreements.is_empty(), complete);
        }
    }

    /// Whatever is really gone is known to be in bounded time, whatever else is listed.
    #[test]
    fn what_is_gone_is_known_in_time(size in 1usize..9, gone in 1usize..9) {
        let gone = gone.min(size);
        let (all, there) = fleet(size);
        let mut watch = Watch::new();
        watch.look(&all, &there);
        let took = watch.looks_until_gone(&all, &there[gone..]);
        prop_assert!(took <= 31, "{}", took);
    }
}
