//! What is predicted after what was seen.

use proptest::prelude::*;

use super::*;
use crate::domain::{Api, ClientKey};

fn shape_of(client: &str, max: Option<u32>, prompt_bytes: usize) -> RequestShape {
    RequestShape {
        api: Api::Generate,
        client: ClientKey::new(client),
        streamed: true,
        prompt_bytes,
        max_new_tokens: max,
    }
}

fn shape(max: Option<u32>, prompt_bytes: usize) -> RequestShape {
    shape_of("c", max, prompt_bytes)
}

#[track_caller]
fn assert_near(found: f64, expected: f64, within: f64) {
    assert!(
        (found - expected).abs() <= within,
        "{found}, not {expected}"
    );
}

#[test]
fn clients_that_use_their_whole_budget_are_soon_predicted_so() {
    let mut model = CostModel::default();
    for _ in 0..100 {
        model.learn(&shape(Some(200), 400), Some(100.0), 200.0);
    }
    let predicted = model.predict(&shape(Some(1_000), 800), 5.0);
    assert_near(predicted.output_tokens, 1_000.0, 20.0);
    assert_near(predicted.prompt_tokens, 200.0, 5.0);
}

#[test]
fn each_client_and_size_is_believed_apart_and_a_stranger_is_like_its_route() {
    let mut model = CostModel::default();
    for _ in 0..400 {
        model.learn(&shape_of("terse", Some(1_000), 100), None, 20.0);
        model.learn(&shape_of("wordy", Some(1_000), 100), None, 900.0);
        model.learn(&shape_of("wordy", Some(100), 100), None, 90.0);
    }
    let predict = |client, max| {
        let predicted = model.predict(&shape_of(client, Some(max), 100), 5.0);
        predicted.output_tokens
    };
    assert_near(predict("terse", 1_000), 20.0, 30.0);
    assert_near(predict("wordy", 1_000), 900.0, 30.0);
    assert_near(predict("wordy", 100), 90.0, 3.0);
    assert_near(predict("stranger", 1_000), 460.0, 60.0);
    assert_near(predict("stranger", 100), 90.0, 3.0);
}

#[test]
fn a_prediction_never_exceeds_the_limit_and_is_never_zero() {
    let model = CostModel::default();
    assert_eq!(model.predict(&shape(Some(1), 0), 5.0).output_tokens, 1.0);
    assert!(model.predict(&shape(None, 0), 5.0).total.0 > 0.0);
}

#[test]
fn nonsense_from_an_engine_teaches_nothing() {
    let mut model = CostModel::default();
    model.learn(&shape(None, 10), Some(f64::NAN), f64::INFINITY);
    let before = CostModel::default().predict(&shape(None, 10), 5.0);
    assert_eq!(model.predict(&shape(None, 10), 5.0), before);
    model.learn(&shape(None, 10), Some(f64::NAN), 256.0);
    let after = model.predict(&shape(None, 10), 5.0);
    assert_eq!(after.prompt_tokens, before.prompt_tokens);
}

#[test]
fn who_has_got_far_is_expected_to_get_farther() {
    let mut model = CostModel::default();
    // Nine of ten stop early, the tenth is long.
    for n in 0..1_000 {
        let output = if n % 10 == 9 { 2_000.0 } else { 30.0 };
        model.learn(&shape(Some(4_096), 100), None, output);
    }
    let predicted = model.predict(&shape(Some(4_096), 100), 5.0);
    let left = |produced| predicted.outlook.left_after(produced).expect("known");
    assert_near(left(0), 227.0, 60.0);
    assert_near(left(64), 1_936.0, 60.0);
    assert_near(left(1_000), 1_000.0, 60.0);
    assert!(left(3_000) > 500.0, "longer than any before");
    assert!(
        predicted.output_reserved < 64.0,
        "four of five need no more: {predicted:?}"
    );
}

#[test]
fn an_answer_that_goes_on_elsewhere_is_a_longer_prompt_and_what_is_left() {
    let mut model = CostModel::default();
    for _ in 0..500 {
        model.learn(&shape(Some(1_000), 400), Some(100.0), 600.0);
    }
    let whole = model.predict(&shape(Some(1_000), 400), 5.0);
    let rest = rest(&whole, 200, 5.0);
    assert_near(rest.prompt_tokens, whole.prompt_tokens + 200.0, 0.1);
    assert_near(rest.output_tokens, 400.0, 20.0);
    assert_near(rest.outlook.left_after(100).expect("known"), 300.0, 20.0);
}

#[test]
fn strangers_do_not_fill_the_memory_and_regulars_are_kept() {
    let mut model = CostModel::default();
    for n in 0..20_000 {
        model.learn(&shape_of(&format!("10.0.{n}"), Some(100), 10), None, 100.0);
        if n % 50 == 0 {
            model.learn(&shape_of("regular", Some(100), 10), None, 5.0);
        }
    }
    let view = model.view(10);
    assert!(view.clients_remembered <= 4_096, "{view:?}");
    assert_eq!(
        view.rows.iter().filter(|row| row.client.is_some()).count(),
        10
    );
    let regular = model.predict(&shape_of("regular", Some(100), 10), 5.0);
    assert_near(regular.output_tokens, 10.0, 10.0);
}

#[test]
fn the_error_of_predictions_is_known() {
    let mut model = CostModel::default();
    assert_eq!(model.view(0).relative_error, None);
    for _ in 0..300 {
        model.learn(&shape(Some(100), 10), None, 40.0);
    }
    let view = model.view(0);
    assert!(view.relative_error.expect("seen") < 0.1, "{view:?}");
    assert_near(view.actual_to_predicted.expect("seen"), 1.0, 0.05);
}

proptest! {
    #[test]
    fn whatever_was_seen_predictions_stay_within_what_was_asked_for(
        seen in proptest::collection::vec((0u8..3, proptest::option::of(1u32..5_000), 0.0f64..10_000.0), 0..80),
        max in proptest::option::of(1u32..5_000),
        produced in 0u64..10_000,
    ) {
        let mut model = CostModel::default();
        for (client, max, output) in seen {
            model.learn(&shape_of(&client.to_string(), max, 100), Some(30.0), output);
        }
        let predicted = model.predict(&shape_of("1", max, 100), 5.0);
        let most = max.map_or(f64::MAX, f64::from);
        prop_assert!((1.0..=most).contains(&predicted.output_tokens));
        prop_assert!((1.0..=most).contains(&predicted.output_reserved));
        prop_assert!((0.5..=200.0).contains(&predicted.prompt_tokens));
        let left = predicted.outlook.left_after(produced).expect("always known");
        prop_assert!(left >= 8.0 && left.is_finite());
    }
}
