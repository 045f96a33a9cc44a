//! Which machines may be rented, and how new ones are measured.

use super::*;
use crate::domain::Interruptible;

const VAST: &str = "endpoint_name: e\nmarket: vast\nworker_groups:\n  - {engine: tgi, search_params: 'num_gpus=1', \
                    launch_args: '--image x --env \"-p 3000:3000\" --ssh --direct --disk 20'}\n";

fn endpoint(text: &str) -> crate::domain::Endpoint {
    let server = "vast: {api_key: '${KEY}'}\n";
    let config = parse_both(server, text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    config.endpoints[0].clone()
}

#[test]
fn machines_of_strangers_are_measured_and_ones_own_are_believed() {
    assert!(endpoint(VAST).benchmark.is_some());
    assert!(
        endpoint(&format!("benchmark: off\n{VAST}"))
            .benchmark
            .is_none()
    );
    assert!(endpoint(GOOD).benchmark.is_none());
    let own = endpoint(&format!(
        "benchmark: {{seconds: 5, concurrency: 2}}\n{GOOD}"
    ));
    let own = own.benchmark.expect("wanted");
    assert_eq!(
        (own.length, own.concurrency),
        (Duration::from_secs(5), Some(2))
    );
}

#[test]
fn nobody_bids_unless_told_to_and_then_the_market_is_asked_for_such_offers() {
    let never = endpoint(VAST);
    assert_eq!(never.offers.interruptible, Interruptible::Never);
    assert!(!never.groups[0].interruptible);
    let burst = endpoint(&format!(
        "interruptible: burst\noffers: {{race: 0}}\n{VAST}"
    ));
    assert_eq!(burst.offers.interruptible, Interruptible::Burst);
    assert!(burst.groups[0].interruptible);
    assert_eq!(burst.offers.race, 0);
}

#[test]
fn a_bid_says_that_others_may_take_the_machine_and_cannot_be_meant_with_never() {
    let bids = VAST.replace("--disk 20", "--disk 20 --bid_price 0.3");
    let group = endpoint(&bids).groups[0].clone();
    assert!(group.interruptible);
    assert_eq!(group.bid_price(), Some(0.3));
    endpoint(&format!("interruptible: burst\n{bids}"));
    let said = parse_both(
        "vast: {api_key: '${KEY}'}\n",
        &format!("interruptible: never\n{bids}"),
    );
    let said = said.map(|_| ()).expect_err("a mistake").to_string();
    assert!(
        said.starts_with("e.yaml:1:16: interruptible is never, and group group-1 bids"),
        "{said}"
    );
}

#[test]
fn mistakes_about_offers_and_benchmarks_are_named() {
    check_endpoint(
        "interruptible: sometimes\noffers: {race: 2}\n",
        &[
            "e.yaml:1:16: interruptible is \"sometimes\"; expected never, burst, all",
            "e.yaml:2:16: race is 2, which is out of range",
        ],
    );
    check_endpoint(
        "benchmark: 3\n",
        &["e.yaml:1:12: benchmark is 3; expected off, or a map of settings"],
    );
    check_endpoint(
        "benchmark: {seconds: 60}\ntimeouts: {benchmark: 60}\n",
        &["e.yaml:1:12: a benchmark's seconds reach timeouts.benchmark"],
    );
}
