//! Short versions of `loadtest soak`; the whole runs by `make soak`.

use loadtest::soak::change::{self, ChangeOptions};
use loadtest::soak::leavers::{self, LeaversOptions};
use loadtest::soak::noisy::{self, NoisyOptions};
use loadtest::soak::real::{self, RealOptions};
use loadtest::soak::renting::leaks::{self, LeaksOptions};
use loadtest::soak::renting::story::{self, StoryOptions};
use loadtest::soak::seam::{self, SeamOptions};
use loadtest::soak::streams::{self, StreamsOptions};

use crate::support::ONE_MODEL;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disturbed_streams_equal_the_undisturbed_byte_for_byte() {
    let options = SeamOptions {
        count: 150,
        at_once: 16,
        workers: 3,
        ..SeamOptions::default()
    };
    let findings = seam::run(&options).await.expect("the stage stands");
    let section = findings.section();
    assert!(section.complaints.is_empty(), "{section}");
    assert!(findings.struck() > 140, "{section}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_models_streams_outlive_their_workers() {
    let _alone = ONE_MODEL.lock().await;
    let options = RealOptions {
        count: 9,
        tokens: 24,
        // Their time limit is for a machine with nothing else to do.
        leavers: 0,
        ..RealOptions::default()
    };
    let findings = real::run(&options).await.expect("the stage stands");
    let section = findings.section();
    assert!(section.complaints.is_empty(), "{section}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_works_for_clients_that_left() {
    let options = LeaversOptions {
        count: 150,
        at_once: 40,
        ..LeaversOptions::default()
    };
    let findings = leavers::run(&options).await.expect("the stage stands");
    let section = findings.section();
    assert!(section.complaints.is_empty(), "{section}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_slow_streams_complete() {
    let options = StreamsOptions {
        count: 300,
        tokens: 30,
        workers: 2,
        token_ms: 200,
        ..StreamsOptions::default()
    };
    let findings = streams::run(&options).await.expect("the stage stands");
    assert_eq!(findings.complete, 300, "{}", findings.section());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_reloads_upgrades_and_new_certificates_under_load() {
    let options = ChangeOptions {
        rounds: 3,
        at_once: 8,
        pause_ms: 500,
        ..ChangeOptions::default()
    };
    let findings = change::run(&options).await.expect("the stage stands");
    let section = findings.section();
    assert!(section.complaints.is_empty(), "{section}");
    assert!(findings.answers > 20, "{section}");
}

/// On a machine that has other things to do only the structure is asserted: the quiet key is served in full while the loud one
/// is turned away. `loadtest soak noisy` measures the times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noisy_key_costs_another_none_of_its_answers() {
    let options = NoisyOptions {
        seconds: 4.0,
        onset_seconds: 4.0,
        shares: 10.0,
        ..NoisyOptions::default()
    };
    let findings = noisy::run(&options).await.expect("the stage stands");
    let section = findings.section();
    assert_eq!(findings.quiet_refused(), 0, "{section}");
    assert_eq!(findings.failed(), [] as [String; 0], "{section}");
    assert!(findings.loud_refused() > 0, "{section}");
}

/// The fake Vast with every fault, and a gateway that is killed at random moments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_rented_is_lost_or_paid_for_unknown() {
    let options = LeaksOptions {
        runs: 20,
        at_once: 2,
        seconds: 3.0,
        ..LeaksOptions::default()
    };
    let findings = leaks::run(&options).await.expect("the stage stands");
    let section = findings.section();
    assert!(section.complaints.is_empty(), "{section}");
    assert!(findings.rented() > 10, "{section}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_on_vast_answers_follows_its_load_and_owes_what_the_ledger_says() {
    let options = StoryOptions {
        trace: concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/scenarios/azure2023_conv_cut.csv"
        )
        .into(),
        phase_seconds: 5.0,
        ..StoryOptions::default()
    };
    let findings = story::run(&options).await.expect("the stage stands");
    let section = findings.section();
    assert!(section.complaints.is_empty(), "{section}");
}
