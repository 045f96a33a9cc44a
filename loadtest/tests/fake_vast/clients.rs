//! The unmodified `vastai` command line from PyPI rents, watches and destroys on the fake.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loadtest::harness::FakeVast;
use serde_json::json;

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
    // What a search of ours is compared with.
    let searches = fake.searches().await.unwrap();
    let (body, offers) = (&searches[0]["body"], &searches[0]["offers"]);
    assert_eq!(body["gpu_name"]["eq"], "RTX 4090");
    assert_eq!(body["gpu_ram"], json!({"gte": 23000.0}));
    assert_eq!(
        (&body["type"], &body["allocated_storage"]),
        (&json!("on-demand"), &json!(40.0))
    );
    assert!(!offers.as_array().unwrap().is_empty());
    let audit = fake.audit().await.unwrap();
    let created = &audit[0]["body"];
    assert_eq!(created["runtype"], "ssh_direc ssh_proxy");
    assert_eq!(created["env"]["-p 3000:3000"], "1");
}
