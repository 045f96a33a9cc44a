//! The unmodified `vastai` command line from PyPI rents, watches and destroys on the fake.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loadtest::harness::FakeVast;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(
        output.status.success(),
        "{command:?}\n{}",
        String::from_utf8_lossy(&said)
    );
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_of_vast_works_unmodified() {
    let fake = FakeVast::start(&["--speed", "300", "--seed", "3", "--calm"])
        .await
        .unwrap();
    let home = tempfile::tempdir().unwrap();
    let (url, home) = (fake.url.clone(), home.path().to_owned());
    tokio::task::spawn_blocking(move || {
        run(&mut Command::new(
            repository().join("loadtest/clients/setup"),
        ));
        run(
            Command::new(repository().join(".tidegate/clients/venv/bin/python"))
                .arg(repository().join("loadtest/clients/check_vastai.py"))
                .arg(url)
                .env("HOME", home)
                .env("VASTAI_NO_UPDATE_CHECK", "1"),
        )
    })
    .await
    .unwrap();
    assert!(fake.existing().await.unwrap().is_empty());
}
