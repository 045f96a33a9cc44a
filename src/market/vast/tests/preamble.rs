//! The script that rented machines run before the user's, run for real by this machine's shell.

use std::process::{Command, Stdio};

use super::*;

#[tokio::test]
async fn the_preamble_comes_before_the_users_script_and_behind_its_first_line() {
    let vast =
        StandIn::start(|_, _| Reply::Json(200, json!({"success": true, "new_contract": 1}))).await;
    let mut settings = settings();
    settings.public_url = Some("https://gateway.example.com".to_owned());
    let market = market_at(&vast.url, settings);
    for (onstart, first) in [("serve", "("), ("#!/bin/bash\nserve", "#!/bin/bash\n(")] {
        let mut launch = launch();
        launch.launch.onstart = Some(onstart.to_owned());
        rent_at(&market, "5", launch).await.expect("rented");
        let body = vast.asked().pop().expect("a call").body;
        let script = body["onstart"].as_str().expect("a script");
        assert!(
            script.starts_with(first) && script.ends_with("&\nserve"),
            "{script}"
        );
        assert!(script.contains("/tidegate/alive/mine"), "{script}");
        assert_eq!(body["env"]["TIDEGATE_URL"], "https://gateway.example.com");
        assert_eq!(body["env"]["TIDEGATE_WORKER"], "g-1");
        assert_eq!(body["env"]["TIDEGATE_MARKET_URL"], vast.url);
    }
    let mut launch = launch();
    launch.launch.run_type = Some(RunType::Args);
    rent_at(&market, "5", launch).await.expect("rented");
    let body = vast.asked().pop().expect("a call").body;
    assert_eq!(body["onstart"], "serve", "an entry point is no shell");
}

/// Runs the script with the tools of `path` beside a gateway that answers first and then falls silent.
async fn ends_itself(path: Option<&str>) {
    let vast = StandIn::start(|asked, before| match asked.method.as_str() {
        "GET" if before < 2 => Reply::Json(200, json!({"alive": true})),
        "GET" => Reply::Json(404, json!({"alive": false})),
        _ => Reply::Json(200, json!({"success": true})),
    })
    .await;
    let script =
        super::super::preamble::script(&InstallationId::new("mine"), Duration::from_secs(2));
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("{script}\nwait")])
        .env("TIDEGATE_URL", &vast.url)
        .env("TIDEGATE_WORKER", "g-1")
        .env("TIDEGATE_MARKET_URL", &vast.url)
        .env("CONTAINER_ID", "42")
        .env("CONTAINER_API_KEY", "of-the-instance")
        .stdin(Stdio::null());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut shell = std::os::unix::process::CommandExt::process_group(&mut command, 0)
        .spawn()
        .expect("a shell");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let delete = loop {
        let asked = vast.asked();
        if let Some(delete) = asked.iter().find(|asked| asked.method == "DELETE") {
            break delete.clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "{asked:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let group = rustix::process::Pid::from_child(&shell);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let _ = shell.wait();
    assert_eq!(delete.path, "/api/v0/instances/42/");
    assert!(
        delete
            .head
            .contains("authorization: bearer of-the-instance"),
        "{}",
        delete.head
    );
    let gets = vast
        .asked()
        .iter()
        .filter(|asked| asked.method == "GET")
        .count();
    assert!(gets >= 3, "{gets} questions");
    assert_eq!(vast.asked()[0].path, "/tidegate/alive/mine/g-1");
}

#[tokio::test]
async fn a_machine_whose_gateway_falls_silent_ends_itself() {
    ends_itself(None).await;
}

/// A folder with `sleep` and one of the tools, if this machine has it.
async fn ends_itself_with(tool: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["sleep", tool] {
        let found = ["/usr/bin", "/bin", "/usr/local/bin"]
            .map(|folder| std::path::Path::new(folder).join(name))
            .into_iter()
            .find(|path| path.exists());
        let Some(found) = found else { return };
        let target = std::fs::canonicalize(found).expect("a program");
        std::os::unix::fs::symlink(target, folder.path().join(name)).expect("a link");
    }
    ends_itself(folder.path().to_str()).await;
}

#[tokio::test]
async fn it_does_so_with_wget_alone() {
    ends_itself_with("wget").await;
}

#[tokio::test]
async fn it_does_so_with_python_alone() {
    ends_itself_with("python3").await;
}
