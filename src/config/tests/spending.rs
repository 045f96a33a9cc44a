//! What may be spent.

use super::*;
use crate::domain::{Enforce, SpendingSettings, Usd, UsdPerHour};

#[test]
fn nothing_is_limited_unless_it_is_said() {
    let config = parse_both("", GOOD).expect("right");
    assert_eq!(config.server.spending, SpendingSettings::default());
    let own = config.endpoints[0].spending;
    assert_eq!((own.limits.per_hour, own.enforce), (None, None));
}

#[test]
fn limits_are_dollars_and_an_endpoint_may_have_its_own() {
    let server = "spending: {max_usd_per_hour: 2.5, max_usd_per_day: 20, max_usd_per_month: 300, min_credit: 5, enforce: hard, reserve: 5m}\n";
    let endpoint = format!("spending: {{max_usd_per_day: 3, enforce: soft}}\n{GOOD}");
    let config = parse_both(server, &endpoint).expect("right");
    let all = &config.server.spending;
    assert_eq!(all.limits.per_hour, Some(UsdPerHour(2.5)));
    assert_eq!(all.limits.per_day, Some(Usd(20.0)));
    assert_eq!(all.limits.per_month, Some(Usd(300.0)));
    assert_eq!(all.min_credit, Some(Usd(5.0)));
    assert_eq!(all.enforce, Enforce::Hard);
    assert_eq!(all.reserve, Duration::from_secs(300));
    let own = config.endpoints[0].spending;
    assert_eq!(own.limits.per_day, Some(Usd(3.0)));
    assert_eq!(
        (own.limits.per_hour, own.enforce),
        (None, Some(Enforce::Soft))
    );
}

#[test]
fn a_limit_that_is_misspelt_or_negative_is_a_mistake_and_no_missing_limit() {
    check_server(
        "spending: {max_usd_per_hours: 2}\n",
        &[
            "tidegate.yaml:1:12: unknown key max_usd_per_hours; expected a known key (did you mean max_usd_per_hour?)",
        ],
    );
    check_server(
        "spending: {max_usd_per_day: -1}\n",
        &["tidegate.yaml:1:29: max_usd_per_day is -1, which is out of range"],
    );
    check_server(
        "spending: {enforce: maybe}\n",
        &["tidegate.yaml:1:21: enforce is \"maybe\"; expected soft, hard"],
    );
    check_endpoint(
        "spending: {min_credit: 1}\n",
        &["e.yaml:1:12: unknown key min_credit"],
    );
}
