//! Upgrade in place: a new process takes over from a running one.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use loadtest::harness::{ConfigDir, Gateway, leading, wait_until};
use serde_json::{Value, json};

use crate::support::*;

async fn gateway_with(server: &str, endpoint: &str) -> Gateway {
    let config = ConfigDir::new(&format!("{SERVER}{server}")).expect("config");
    config
        .write_endpoint("fake", endpoint)
        .expect("an endpoint file");
    Gateway::start(config).await.expect("a gateway")
}

fn addresses(fleet: &Value) -> BTreeSet<String> {
    let of = |worker: &Value| worker["address"].as_str().map(str::to_owned);
    workers(fleet).iter().filter_map(of).collect()
}

fn ready(fleet: &Value) -> usize {
    let phases = phases(fleet);
    phases.iter().filter(|phase| *phase == "ready").count()
}

/// Nobody else holds the ledger.
fn ledger_is_free(state_dir: &Path) -> bool {
    let lock = std::fs::File::open(state_dir.join("ledger.lock")).expect("a lock file");
    lock.try_lock().is_ok()
}

#[tokio::test]
async fn a_new_process_takes_over_listeners_workers_and_ledger_while_streams_run() {
    let endpoint = local_endpoint(
        "min_load: 700\nmax_workers: 2\ninactivity_timeout: -1",
        "--a-ms 40",
    );
    let mut gateway = gateway_with("", &endpoint).await;
    let before = wait_fleet(&gateway, "two workers", |fleet| ready(fleet) == 2).await;
    let url = format!("{}/generate_stream", gateway.base_url);
    let streams: Vec<_> = (0..6)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { events(post(&url, &generate(120)).await).await })
        })
        .collect();
    wait_fleet(&gateway, "they run", |fleet| in_flight(fleet) == 6).await;

    let mut old = gateway.upgrade().await.expect("an upgrade");
    // The new process sees what the old one still has in flight, and its workers at once.
    let seen = fleet(&gateway).await;
    assert_eq!(addresses(&seen), addresses(&before), "{seen:#}");
    assert_eq!(ready(&seen), 2, "{seen:#}");
    wait_fleet(&gateway, "the old one's load", |fleet| {
        in_flight(fleet) == 6
    })
    .await;
    assert!(!ledger_is_free(&gateway.config.state_dir()));
    let (status, _) = post_json(&format!("{}/generate", gateway.base_url), &generate(2)).await;
    assert_eq!(status, 200);
    assert_eq!(old.exit_status(), None, "streams run there");

    for stream in streams {
        let events = stream.await.expect("joined").expect("whole");
        assert!(events.last().expect("events").json()["generated_text"].is_string());
    }
    let status = old.wait_for_exit(PATIENCE).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
    let after = wait_fleet(&gateway, "nothing in flight", |fleet| in_flight(fleet) == 0).await;
    assert_eq!(addresses(&after), addresses(&before));
    let (status, _) = post_json(&format!("{}/generate", gateway.base_url), &generate(2)).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_request_held_by_the_old_process_is_served_by_a_worker_that_boots_under_the_new_one() {
    let endpoint = local_endpoint("max_workers: 1", "")
        .replace("usd_per_hour: 0.1", "usd_per_hour: 0.1\n    boot_time: 5");
    let mut gateway = gateway_with("", &endpoint).await;
    let url = format!("{}/generate", gateway.base_url);
    let held = tokio::spawn(async move { post_json(&url, &generate(3)).await });
    let before = wait_fleet(&gateway, "a boot", |fleet| phases(fleet) == ["starting"]).await;
    let mut old = gateway.upgrade().await.expect("an upgrade");
    wait_fleet(&gateway, "the held request is known", |fleet| {
        waiting(fleet) == 1
    })
    .await;
    let (status, body) = held.await.expect("joined");
    assert_eq!(status, 200, "{body}");
    let after = fleet(&gateway).await;
    let ids = |fleet: &Value| {
        workers(fleet)
            .iter()
            .map(|w| w["id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&after), ids(&before), "neither lost nor doubled");
    let status = old.wait_for_exit(PATIENCE).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_quit_signal_upgrades_and_without_a_process_an_upgrade_is_a_plain_start() {
    let endpoint = local_endpoint("min_load: 1\nmax_workers: 1\ninactivity_timeout: -1", "");
    let mut gateway = gateway_with("", &endpoint).await;
    wait_fleet(&gateway, "a worker", |fleet| ready(fleet) == 1).await;
    let (first, state_dir) = (gateway.child.pid(), gateway.config.state_dir());
    assert!(wait_until(PATIENCE, || async { leading(&state_dir) == Some(first) }).await);
    gateway
        .child
        .signal(rustix::process::Signal::QUIT)
        .expect("SIGQUIT");
    let status = gateway
        .child
        .wait_for_exit(PATIENCE)
        .await
        .expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", gateway.child.log_tail());
    let second = leading(&state_dir).expect("a successor");
    assert_ne!(second, first);
    assert_eq!(ready(&fleet(&gateway).await), 1);

    // The successor is not our child: it is killed by its number, then an upgrade finds nobody.
    let pid = rustix::process::Pid::from_raw(second as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("SIGKILL");
    let gone = client();
    let url = format!("{}/healthz", gateway.admin_url);
    assert!(wait_until(PATIENCE, || async { gone.get(&url).send().await.is_err() }).await);
    gateway.upgrade().await.expect("a plain start");
    wait_fleet(&gateway, "the worker is found again", |fleet| {
        ready(fleet) == 1
    })
    .await;
}

/// A new process that speaks the protocol and then dies.
struct Impostor(BufReader<UnixStream>);

impl Impostor {
    fn connect(state_dir: &Path) -> Self {
        let stream = UnixStream::connect(state_dir.join("handover.sock")).expect("a gateway");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    fn say(&mut self, message: Value) -> Value {
        let line = format!("{message}\n");
        self.0.get_mut().write_all(line.as_bytes()).expect("said");
        let mut heard = String::new();
        self.0.read_line(&mut heard).expect("heard");
        serde_json::from_str(&heard).unwrap_or_else(|_| panic!("not JSON: {heard:?}"))
    }
}

#[tokio::test]
async fn a_new_process_that_fails_leaves_the_old_one_as_it_was() {
    let endpoint = local_endpoint("max_workers: 2", "--a-ms 20");
    let mut gateway = gateway_with("", &endpoint).await;
    let url = format!("{}/generate", gateway.base_url);
    assert_eq!(post_json(&url, &generate(2)).await.0, 200);
    let state_dir = gateway.config.state_dir();

    // A wrong configuration ends the new process before it asks for anything.
    gateway
        .config
        .write_server("scaler_interval: never\n")
        .expect("written");
    assert!(gateway.upgrade().await.is_err());
    gateway.config.write_server(SERVER).expect("written");

    // One that takes sockets and control, and dies.
    let folder = state_dir.clone();
    let impostor = tokio::task::spawn_blocking(move || {
        let mut impostor = Impostor::connect(&folder);
        let welcome = impostor.say(json!({"say": "hello", "pid": 1, "version": "0"}));
        assert_eq!(welcome["say"], "welcome", "{welcome}");
        assert_eq!(welcome["listening"].as_array().map(Vec::len), Some(2));
        let sockets = UnixListener::bind(folder.join("upgrade.sock")).expect("bound");
        let sent = impostor.say(json!({"say": "want_sockets"}));
        assert_eq!(sent["say"], "sockets", "{sent}");
        let control = impostor.say(json!({"say": "want_control"}));
        assert_eq!(control["say"], "control", "{control}");
        let speeds = control["learned"]["speeds"].as_object().map(|s| s.len());
        assert_eq!(speeds, Some(1), "{control}");
        drop(sockets);
        let _ = std::fs::remove_file(folder.join("upgrade.sock"));
        impostor
    })
    .await
    .expect("it comes so far");
    assert!(ledger_is_free(&state_dir), "the old one has given it up");
    assert_eq!(post_json(&url, &generate(2)).await.0, 200, "and serves on");
    drop(impostor);
    assert!(wait_until(PATIENCE, || async { !ledger_is_free(&state_dir) }).await);
    wait_fleet(&gateway, "it scales as before", |fleet| {
        workers(fleet).len() == 1
    })
    .await;
    assert_eq!(post_json(&url, &generate(2)).await.0, 200);

    // And a real one takes over after all.
    let mut old = gateway.upgrade().await.expect("an upgrade");
    old.wait_for_exit(PATIENCE).await.expect("it ends");
    assert_eq!(post_json(&url, &generate(2)).await.0, 200);
}
