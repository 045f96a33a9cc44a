//! Short versions of `loadtest soak`; the whole runs by `make soak`.

use loadtest::soak::seam::{self, SeamOptions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "streams are not continued on another worker yet"]
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
