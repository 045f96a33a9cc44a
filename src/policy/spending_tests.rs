//! What the guard lets pass, and what it lets go.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const NOON: u64 = 20_000 * 86_400_000 + 43_200_000;

fn now() -> Timestamp {
    Timestamp::from_millis(NOON)
}

fn chat() -> EndpointName {
    EndpointName::new("chat")
}

fn machine(worker: &str, endpoint: &str, usd_per_hour: f64, speed: f64) -> Commitment {
    Commitment {
        worker: WorkerId::new(worker),
        endpoint: EndpointName::new(endpoint),
        market: MarketKind::Vast,
        usd_per_hour: UsdPerHour(usd_per_hour),
        speed: TokensPerSecond(speed),
        ordered: UsdPerHour(f64::INFINITY),
        starting: false,
        going: false,
    }
}

fn position(commitments: Vec<Commitment>) -> Position {
    Position {
        commitments,
        ..Position::default()
    }
}

fn budget(limits: SpendingLimits, enforce: Enforce) -> Budget {
    Budget {
        installation: SpendingSettings {
            limits,
            enforce,
            ..SpendingSettings::default()
        },
        endpoints: BTreeMap::from([(chat(), EndpointSpending::default())]),
    }
}

fn per_hour(usd: f64) -> SpendingLimits {
    SpendingLimits {
        per_hour: Some(UsdPerHour(usd)),
        ..SpendingLimits::default()
    }
}

fn per_day(usd: f64) -> SpendingLimits {
    SpendingLimits {
        per_day: Some(Usd(usd)),
        ..SpendingLimits::default()
    }
}

fn spent(today: f64, this_month: f64) -> BTreeMap<EndpointName, Spent> {
    let spent = Spent {
        today: Usd(today),
        this_month: Usd(this_month),
    };
    BTreeMap::from([(chat(), spent)])
}

fn verdict(position: &Position, budget: &Budget, more: f64) -> Option<SpendingRule> {
    let more = UsdPerHour(more);
    may_commit(position, budget, &chat(), MarketKind::Vast, more, now())
        .err()
        .map(|refusal| refusal.rule)
}

#[test]
fn a_refusal_tells_what_is_used_what_was_asked_for_and_the_limit() {
    let refused = |limits, more| {
        let position = position(vec![machine("w", "chat", 0.295, 100.0)]);
        let budget = budget(limits, Enforce::Soft);
        let more = UsdPerHour(more);
        may_commit(&position, &budget, &chat(), MarketKind::Vast, more, now())
            .map_err(|refusal| refusal.to_string())
    };
    let said = "limit of the hour for (all): $0.295 + $0.29 of $0.50";
    assert_eq!(refused(per_hour(0.5), 0.29), Err(said.into()));
    // `reserve` is ten minutes.
    let said = "limit of the day for (all): $0.0492 + $0.10 of $0.10";
    assert_eq!(refused(per_day(0.1), 0.6), Err(said.into()));
    let said = "limit of the hour for (all): $0.295 of $0.50";
    assert_eq!(refused(per_hour(0.5), f64::NAN), Err(said.into()));
}

fn names(forced: &[Forced]) -> Vec<&str> {
    forced.iter().map(|one| one.worker.as_str()).collect()
}

/// A machine that only starts, let pass for `ordered`.
fn order(worker: &str, ordered: f64, usd_per_hour: f64) -> Commitment {
    Commitment {
        ordered: UsdPerHour(ordered),
        starting: true,
        ..machine(worker, "chat", usd_per_hour, 100.0)
    }
}

#[test]
fn an_order_that_came_out_dearer_is_taken_back_where_that_passes_the_limit() {
    let runs = machine("runs", "chat", 0.5, 100.0);
    let all = [
        runs.clone(),
        order("as-said", 0.5, 0.5),
        order("bit", 0.5, 0.51),
        order("much", 0.4, 0.6),
    ];
    let taken_back = |limit, enforce| {
        let position = position(all.to_vec());
        let forced = forced(&position, &budget(per_hour(limit), enforce), now());
        forced
            .iter()
            .map(|one| one.worker.to_string())
            .collect::<Vec<_>>()
    };
    assert!(taken_back(2.2, Enforce::Soft).is_empty());
    assert_eq!(taken_back(2.1, Enforce::Soft), ["much"]);
    assert_eq!(taken_back(1.505, Enforce::Soft), ["much", "bit"]);
    // What was let pass for what it costs goes only where the limit is enforced.
    assert_eq!(taken_back(1.0, Enforce::Soft), ["much", "bit"]);
    assert_eq!(taken_back(2.1, Enforce::Hard), ["much"]);
}

#[test]
fn a_machine_that_serves_or_goes_already_is_not_taken_back() {
    let serves = Commitment {
        starting: false,
        ..order("serves", 0.5, 0.9)
    };
    let goes = Commitment {
        going: true,
        ..order("goes", 0.5, 0.9)
    };
    let position = position(vec![serves, goes]);
    let budget = budget(per_hour(1.0), Enforce::Soft);
    assert!(forced(&position, &budget, now()).is_empty());
}

#[test]
fn without_limits_everything_may_be_rented_and_nothing_has_to_go() {
    let position = position(vec![machine("a", "chat", 900.0, 1.0)]);
    let budget = budget(SpendingLimits::default(), Enforce::Hard);
    assert_eq!(verdict(&position, &budget, 1e6), None);
    assert!(forced(&position, &budget, now()).is_empty());
}

#[test]
fn what_is_committed_counts_whatever_it_does() {
    let mut ending = machine("b", "code", 1.0, 0.0);
    ending.going = true;
    let mut position = position(vec![machine("a", "chat", 1.0, 9.0), ending]);
    position.strays = UsdPerHour(0.5);
    let budget = budget(per_hour(3.0), Enforce::Soft);
    assert_eq!(verdict(&position, &budget, 0.5), None);
    assert_eq!(verdict(&position, &budget, 0.51), Some(SpendingRule::Hour));
}

#[test]
fn an_endpoint_has_limits_of_its_own_within_those_of_all() {
    let position = position(vec![
        machine("a", "chat", 1.0, 9.0),
        machine("b", "code", 5.0, 9.0),
    ]);
    let mut budget = budget(per_hour(8.0), Enforce::Soft);
    let own = EndpointSpending {
        limits: per_hour(2.0),
        enforce: None,
    };
    budget.endpoints.insert(chat(), own);
    assert_eq!(verdict(&position, &budget, 1.0), None);
    assert_eq!(verdict(&position, &budget, 1.5), Some(SpendingRule::Hour));
    let code = EndpointName::new("code");
    let more = UsdPerHour(2.5);
    let refusal = may_commit(&position, &budget, &code, MarketKind::Vast, more, now());
    let scope = refusal.err().map(|refusal| refusal.scope);
    assert_eq!(scope, Some(SpendingScope::Installation));
}

#[test]
fn a_days_limit_keeps_ten_minutes_of_everything_aside() {
    let mut position = position(vec![machine("a", "chat", 6.0, 9.0)]);
    position.spent = spent(8.0, 8.0);
    let budget = budget(per_day(10.0), Enforce::Soft);
    // 8 spent, 1 aside for what runs: 1 is left, which is ten minutes of 6 $/h.
    assert_eq!(verdict(&position, &budget, 6.0), None);
    assert_eq!(verdict(&position, &budget, 6.1), Some(SpendingRule::Day));
}

#[test]
fn a_month_counts_apart_from_its_days() {
    let mut position = position(Vec::new());
    position.spent = spent(0.0, 99.9);
    let limits = SpendingLimits {
        per_month: Some(Usd(100.0)),
        per_day: Some(Usd(10.0)),
        per_hour: None,
    };
    let budget = budget(limits, Enforce::Soft);
    assert_eq!(verdict(&position, &budget, 0.5), None);
    assert_eq!(verdict(&position, &budget, 0.7), Some(SpendingRule::Month));
}

#[test]
fn money_after_midnight_is_tomorrows() {
    let mut position = position(Vec::new());
    position.spent = spent(9.99, 9.99);
    let budget = budget(per_day(10.0), Enforce::Soft);
    let late = Timestamp::from_millis(NOON + 43_200_000 - 36_000);
    let at = |now| {
        may_commit(
            &position,
            &budget,
            &chat(),
            MarketKind::Vast,
            UsdPerHour(1.0),
            now,
        )
        .is_ok()
    };
    assert!(!at(now()));
    assert!(at(late));
}

#[test]
fn a_credit_that_is_low_or_unknown_rents_nothing() {
    let mut budget = budget(SpendingLimits::default(), Enforce::Hard);
    budget.installation.min_credit = Some(Usd(5.0));
    let mut position = position(vec![machine("a", "chat", 1.0, 9.0)]);
    for (credit, refused, released) in [
        (Credit::Free, false, 0),
        (Credit::Left(Usd(5.0)), false, 0),
        (Credit::Left(Usd(4.9)), true, 1),
        (Credit::Unknown, true, 0),
    ] {
        position.credits.insert(MarketKind::Vast, credit);
        let rule = verdict(&position, &budget, 0.1);
        assert_eq!(rule == Some(SpendingRule::Credit), refused, "{credit:?}");
        let gone = forced(&position, &budget, now()).len();
        assert_eq!(gone, released, "{credit:?}");
    }
}

#[test]
fn a_soft_limit_lets_run_what_runs() {
    let position = position(vec![machine("a", "chat", 9.0, 9.0)]);
    let budget = budget(per_hour(3.0), Enforce::Soft);
    assert!(forced(&position, &budget, now()).is_empty());
    assert!(standing(&position, &budget, now())[0].reached);
}

#[test]
fn a_hard_limit_lets_the_worst_value_go_until_the_rest_fits() {
    let position = position(vec![
        machine("good", "chat", 1.0, 100.0),
        machine("dear", "chat", 4.0, 100.0),
        machine("slow", "chat", 1.0, 10.0),
        machine("booting", "chat", 2.0, 100.0),
    ]);
    let budget = budget(per_hour(3.5), Enforce::Hard);
    assert_eq!(names(&forced(&position, &budget, now())), ["slow", "dear"]);
}

#[test]
fn what_is_going_already_is_not_told_again_and_makes_room() {
    let mut going = machine("dear", "chat", 4.0, 100.0);
    going.going = true;
    let position = position(vec![machine("good", "chat", 1.0, 100.0), going]);
    let budget = budget(per_hour(3.5), Enforce::Hard);
    assert!(forced(&position, &budget, now()).is_empty());
}

#[test]
fn a_limit_that_is_about_to_be_passed_waits_for_no_drain() {
    let mut going = machine("a", "chat", 6.0, 100.0);
    going.going = true;
    let mut position = position(vec![going]);
    let budget = budget(per_day(10.0), Enforce::Hard);
    position.spent = spent(9.9, 9.9);
    assert!(forced(&position, &budget, now()).is_empty());
    // Half a minute of 6 $/h is 5 cents.
    position.spent = spent(9.96, 9.96);
    let told = forced(&position, &budget, now());
    assert!(told.len() == 1 && told[0].at_once, "{told:?}");
}

#[test]
fn an_endpoint_may_be_held_to_its_limit_where_the_rest_is_not() {
    let position = position(vec![
        machine("a", "chat", 3.0, 9.0),
        machine("b", "code", 3.0, 9.0),
    ]);
    let mut budget = budget(per_hour(1.0), Enforce::Soft);
    let own = EndpointSpending {
        limits: per_hour(1.0),
        enforce: Some(Enforce::Hard),
    };
    budget.endpoints.insert(chat(), own);
    assert_eq!(names(&forced(&position, &budget, now())), ["a"]);
}

#[test]
fn after_the_mark_nothing_is_rented_and_everything_goes() {
    let mut position = position(vec![
        machine("a", "chat", 3.0, 9.0),
        machine("b", "code", 0.0, 0.0),
    ]);
    position.stopped = true;
    let budget = budget(SpendingLimits::default(), Enforce::Soft);
    assert_eq!(
        verdict(&position, &budget, 0.0),
        Some(SpendingRule::Stopped)
    );
    assert_eq!(forced(&position, &budget, now()).len(), 2);
}

#[test]
fn a_price_that_is_no_number_is_refused_where_there_is_a_limit() {
    let budget = budget(per_hour(3.0), Enforce::Soft);
    let refused = verdict(&position(Vec::new()), &budget, f64::NAN);
    assert_eq!(refused, Some(SpendingRule::Hour));
}

fn fleets() -> impl Strategy<Value = Vec<Commitment>> {
    let one = (0.0f64..5.0, 0.0f64..500.0, any::<bool>(), any::<bool>());
    prop::collection::vec(one, 0..12).prop_map(|fleet| {
        fleet
            .into_iter()
            .enumerate()
            .map(|(n, (price, speed, chat, going))| {
                let endpoint = if chat { "chat" } else { "code" };
                let mut one = machine(&format!("w{n}"), endpoint, price, speed);
                one.going = going;
                one
            })
            .collect()
    })
}

proptest! {
    /// Whatever is asked for in whatever order, what was let pass never comes to more than the limit.
    #[test]
    fn what_was_let_pass_stays_within_the_limit(
        fleet in fleets(), limit in 0.1f64..20.0, asked in prop::collection::vec(0.0f64..5.0, 0..20)
    ) {
        let budget = budget(per_hour(limit), Enforce::Soft);
        let mut position = position(fleet);
        let mut within = rate(&position, &SpendingScope::Installation) <= limit;
        for (n, price) in asked.into_iter().enumerate() {
            if verdict(&position, &budget, price).is_none() {
                position.commitments.push(machine(&format!("new{n}"), "chat", price, 1.0));
                within = true;
            }
            let committed = rate(&position, &SpendingScope::Installation);
            prop_assert!(!within || committed <= limit + ROUNDING);
        }
    }

    /// What is told to go brings the rest within the limit, none of it for nothing, and nobody is told twice.
    #[test]
    fn what_goes_is_enough_and_not_too_much(fleet in fleets(), limit in 0.0f64..20.0) {
        let budget = budget(per_hour(limit), Enforce::Hard);
        let position = position(fleet);
        let told = forced(&position, &budget, now());
        let staying = |without: &[&str]| -> f64 {
            let stays = |one: &&Commitment| !one.going && !without.contains(&one.worker.as_str());
            position.commitments.iter().filter(stays).map(|one| one.usd_per_hour.0).sum()
        };
        let gone = names(&told);
        prop_assert!(staying(&gone) <= limit + 1e-5);
        if let Some((_, all_but_last)) = gone.split_last() {
            prop_assert!(staying(all_but_last) > limit);
        }
        prop_assert!(told.iter().all(|one| !position.commitments.iter().any(|c| c.worker == one.worker && c.going)));
    }

    /// A day of renting whatever is let through and letting go whatever has to: the day's limit holds, with machines
    /// that take a while to go.
    #[test]
    fn a_hard_day_limit_is_never_passed(
        limit in 1.0f64..10.0, prices in prop::collection::vec(0.1f64..6.0, 1..30), drain_s in 0u64..240
    ) {
        let budget = budget(per_day(limit), Enforce::Hard);
        let mut position = position(Vec::new());
        let mut ends: BTreeMap<WorkerId, u64> = BTreeMap::new();
        let mut total = 0.0;
        let mut prices = prices.into_iter().enumerate();
        let midnight = 86_400_000 * 20_000;
        for second in (0..80_000u64).step_by(10) {
            let now = Timestamp::from_millis(midnight + second * 1_000);
            position.spent = spent(total, total);
            if second % 300 == 0 && let Some((n, price)) = prices.next() {
                let more = UsdPerHour(price);
                if may_commit(&position, &budget, &chat(), MarketKind::Vast, more, now).is_ok() {
                    position.commitments.push(machine(&format!("w{n}"), "chat", price, 1.0));
                }
            }
            for told in forced(&position, &budget, now) {
                let end = if told.at_once { second } else { second + drain_s };
                ends.insert(told.worker.clone(), end);
                let worker = position.commitments.iter_mut().find(|one| one.worker == told.worker);
                worker.expect("known").going = true;
            }
            position.commitments.retain(|one| ends.get(&one.worker).is_none_or(|&end| second < end));
            total += position.commitments.iter().map(|one| one.usd_per_hour.0).sum::<f64>() / 360.0;
            prop_assert!(total <= limit + 1e-9, "{} at {}", total, second);
        }
    }
}

#[test]
fn the_reserve_is_a_setting() {
    let mut budget = budget(per_day(10.0), Enforce::Soft);
    budget.installation.reserve = Duration::ZERO;
    let mut position = position(Vec::new());
    position.spent = spent(9.9, 9.9);
    assert_eq!(verdict(&position, &budget, 100.0), None);
}
