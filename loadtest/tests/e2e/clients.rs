//! The unmodified `openai` and `text-generation` Python clients, over the stand-in worker. Over the real
//! model they run in `real_model`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use loadtest::fakes::worker::Settings;

use crate::support::*;

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository")
        .to_owned()
}

/// Installs the clients once; every later call finds them there.
static SETUP: LazyLock<()> = LazyLock::new(|| {
    let output = Command::new(repository().join("loadtest/clients/setup"))
        .output()
        .expect("setup runs");
    assert!(output.status.success(), "{}", said(&output));
});

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Runs one check script to its end.
pub async fn run_check(script: &str, arguments: Vec<String>) {
    let checked = tokio::task::spawn_blocking({
        let script = script.to_owned();
        move || {
            LazyLock::force(&SETUP);
            Command::new(repository().join(".tidegate/clients/venv/bin/python"))
                .arg(repository().join("loadtest/clients").join(script))
                .args(arguments)
                .output()
                .expect("python runs")
        }
    })
    .await
    .expect("the check ends");
    assert!(checked.status.success(), "{script}:\n{}", said(&checked));
}

#[tokio::test]
async fn the_openai_client_works_unmodified() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    run_check(
        "check_openai.py",
        vec![gateway.base_url.clone(), "fake".into()],
    )
    .await;
}

#[tokio::test]
async fn the_text_generation_client_works_unmodified() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    run_check("check_tgi.py", vec![gateway.base_url.clone()]).await;
}
