//! The local market with real processes.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::domain::{EndpointName, EngineKind, GroupName, SpeedPrior, TokensPerSecond, WorkerId};

/// Longer than anything here should take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A state directory with an installation of its own, so that tests do not see each other's processes.
struct Site {
    dir: TempDir,
    installation: InstallationId,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let name = dir
            .path()
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        Self {
            installation: InstallationId::new(format!("test{}{name}", std::process::id())),
            dir,
        }
    }

    fn open(&self) -> Arc<LocalMarket> {
        self.open_with_slots(8)
    }

    fn open_with_slots(&self, slots: u32) -> Arc<LocalMarket> {
        LocalMarket::new(LocalMarketSettings {
            dir: self.dir.path().join("local"),
            slots,
            installation: self.installation.clone(),
        })
        .expect("open")
    }

    fn label(&self, worker: &str) -> RentalLabel {
        RentalLabel {
            installation: self.installation.clone(),
            endpoint: EndpointName::new("chat"),
            worker: WorkerId::new(worker),
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Site {
    /// A failed test must not leave processes behind.
    fn drop(&mut self) {
        for process in processes::all().unwrap_or_default() {
            let ours = process
                .label
                .is_some_and(|label| label.installation == self.installation);
            if let (true, Some(pid)) = (ours, Pid::from_raw(process.mark.pid as i32)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn shell(script: &str) -> WorkerGroup {
    shell_with(script, &[], Duration::ZERO)
}

fn shell_with(script: &str, env: &[(&str, &str)], boot_time: Duration) -> WorkerGroup {
    group(LocalLaunch {
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: env
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect::<BTreeMap<_, _>>(),
        boot_time,
        restart_time: Duration::ZERO,
    })
}

fn group(launch: LocalLaunch) -> WorkerGroup {
    WorkerGroup {
        name: GroupName::new("small"),
        engine: EngineKind::Fake,
        source: Source::Local(launch),
        speed_prior: SpeedPrior {
            tokens_per_second: TokensPerSecond(100.0),
            concurrency: 1,
        },
        max_concurrency: None,
        usd_per_hour: UsdPerHour(0.25),
    }
}

async fn rent(market: &LocalMarket, group: &WorkerGroup, label: &RentalLabel) -> InstanceId {
    let offer = market.offers(group).await.expect("offers").remove(0);
    market.rent(&offer, group, label).await.expect("rent")
}

async fn find(market: &LocalMarket, id: &InstanceId) -> Option<Instance> {
    let listed = market.instances().await.expect("listing");
    listed.into_iter().find(|instance| instance.id == *id)
}

async fn wait_until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for_state(market: &LocalMarket, id: &InstanceId, state: InstanceState) -> Instance {
    wait_until(state.as_str(), || async {
        find(market, id)
            .await
            .is_some_and(|instance| instance.state == state)
    })
    .await;
    find(market, id).await.expect("listed")
}

fn pid_of(market: &LocalMarket, id: &InstanceId) -> u32 {
    let books = market.lock();
    books.entries[id].record.process.expect("process").pid
}

/// Also true of a zombie: it is gone only when it was reaped.
fn exists(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid as i32).expect("pid")).is_ok()
}

async fn wait_for_text(path: &str) -> String {
    wait_until(path, || async {
        Path::new(path).exists() && !read(path).is_empty()
    })
    .await;
    read(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn a_rented_worker_boots_and_then_runs_on_a_port_of_its_own() {
    let site = Site::new();
    let market = site.open();
    let script = format!("echo {{port}} > {}; exec sleep 60", site.file("port"));
    let group = shell_with(&script, &[], Duration::from_millis(300));
    let begun = Instant::now();
    let id = rent(&market, &group, &site.label("w1")).await;
    let booting = find(&market, &id).await.expect("listed");
    assert_eq!(
        (booting.state, booting.address),
        (InstanceState::Loading, None)
    );

    let running = wait_for_state(&market, &id, InstanceState::Running).await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(running.label, site.label("w1"));
    assert_eq!(running.usd_per_hour, UsdPerHour(0.25));
    let told = wait_for_text(&site.file("port")).await;
    let address = running.address.expect("address");
    assert_eq!(told.trim(), address.port().to_string());
    assert!(address.ip().is_loopback());
    market.shutdown_all().await;
}

#[tokio::test]
async fn a_worker_that_dies_is_exited_within_a_second_and_is_news() {
    let site = Site::new();
    let market = site.open();
    let id = rent(&market, &shell("exec sleep 60"), &site.label("w1")).await;
    wait_for_state(&market, &id, InstanceState::Running).await;
    // What happened up to here is told once.
    while tokio::time::timeout(Duration::from_millis(50), market.changed())
        .await
        .is_ok()
    {}

    let pid = pid_of(&market, &id);
    let killed = Instant::now();
    kill_process(Pid::from_raw(pid as i32).expect("pid"), Signal::KILL).expect("kill");
    tokio::time::timeout(DEADLINE, market.changed())
        .await
        .expect("changed");
    assert_eq!(
        find(&market, &id).await.expect("listed").state,
        InstanceState::Exited
    );
    assert!(
        killed.elapsed() < Duration::from_secs(1),
        "{:?}",
        killed.elapsed()
    );
    assert!(!exists(pid), "a zombie is left");
}

#[tokio::test]
async fn what_a_dead_worker_left_running_dies_with_it() {
    let site = Site::new();
    let market = site.open();
    let script = format!("sleep 60 & echo $! > {}; exit 0", site.file("child"));
    let id = rent(&market, &shell(&script), &site.label("w1")).await;
    wait_for_state(&market, &id, InstanceState::Exited).await;
    wait_until("no process of the rental", || async {
        market
            .labels_on_the_machine()
            .await
            .expect("labels")
            .is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_exited_and_says_so_in_the_log() {
    let site = Site::new();
    let market = site.open();
    let group = group(LocalLaunch {
        command: vec!["/nonexistent/engine".into()],
        env: BTreeMap::new(),
        boot_time: Duration::ZERO,
        restart_time: Duration::ZERO,
    });
    let id = rent(&market, &group, &site.label("w1")).await;
    wait_for_state(&market, &id, InstanceState::Exited).await;
    let log = fs::read_to_string(record::log_path(&market.settings.dir, &id)).expect("log");
    assert!(log.contains("not started"), "{log}");
}

#[tokio::test]
async fn output_of_a_worker_is_in_its_log() {
    let site = Site::new();
    let market = site.open();
    let id = rent(
        &market,
        &shell("echo to-out; echo to-err >&2"),
        &site.label("w1"),
    )
    .await;
    wait_for_state(&market, &id, InstanceState::Exited).await;
    let log = fs::read_to_string(record::log_path(&market.settings.dir, &id)).expect("log");
    assert!(log.contains("to-out") && log.contains("to-err"), "{log}");
}

#[tokio::test]
async fn slots_bound_what_is_rented_and_a_stopped_worker_keeps_its_slot() {
    let site = Site::new();
    let market = site.open_with_slots(2);
    let group = shell("exec sleep 60");
    let offer = market.offers(&group).await.expect("offers").remove(0);
    let first = rent(&market, &group, &site.label("w1")).await;
    rent(&market, &group, &site.label("w2")).await;
    wait_for_state(&market, &first, InstanceState::Running).await;
    market.stop(&first).await.expect("stop");

    assert!(market.offers(&group).await.expect("offers").is_empty());
    let refused = market.rent(&offer, &group, &site.label("w3")).await;
    assert!(matches!(refused, Err(MarketError::Full(_))), "{refused:?}");
    market.destroy(&first).await.expect("destroy");
    rent(&market, &group, &site.label("w3")).await;
    market.shutdown_all().await;
}

#[tokio::test]
async fn slots_are_not_oversold_to_renters_at_the_same_time() {
    let site = Site::new();
    let market = site.open_with_slots(3);
    let group = shell("exec sleep 60");
    let offer = market.offers(&group).await.expect("offers").remove(0);
    let mut renters = JoinSet::new();
    for n in 0..10 {
        let (market, offer, group) = (Arc::clone(&market), offer.clone(), group.clone());
        let label = site.label(&format!("w{n}"));
        renters.spawn(async move { market.rent(&offer, &group, &label).await.is_ok() });
    }
    let served = renters
        .join_all()
        .await
        .into_iter()
        .filter(|ok| *ok)
        .count();
    assert_eq!(served, 3);
    market.shutdown_all().await;
}

#[tokio::test]
async fn a_stopped_worker_keeps_its_place_and_starts_again_as_a_new_process() {
    let site = Site::new();
    let market = site.open();
    let group = shell_with("exec sleep 60", &[("MODEL", "tiny")], Duration::ZERO);
    let id = rent(&market, &group, &site.label("w1")).await;
    wait_for_state(&market, &id, InstanceState::Running).await;
    let first = pid_of(&market, &id);

    market.stop(&id).await.expect("stop");
    let stopped = find(&market, &id).await.expect("listed");
    assert_eq!(
        (stopped.state, stopped.address),
        (InstanceState::Stopped, None)
    );
    wait_until("reaped", || async { !exists(first) }).await;

    market.start(&id).await.expect("start");
    wait_for_state(&market, &id, InstanceState::Running).await;
    assert_ne!(pid_of(&market, &id), first);
    market.destroy(&id).await.expect("destroy");
    assert!(find(&market, &id).await.is_none());
    market
        .destroy(&id)
        .await
        .expect("an unknown instance is a success");
}

#[tokio::test]
async fn a_worker_stopped_while_it_boots_never_starts() {
    let site = Site::new();
    let market = site.open();
    let script = format!("echo ran > {}; exec sleep 60", site.file("ran"));
    let group = shell_with(&script, &[], Duration::from_millis(200));
    let id = rent(&market, &group, &site.label("w1")).await;
    market.stop(&id).await.expect("stop");
    // The boot that was called off wakes us when its time has come.
    for _ in 0..3 {
        let _ = tokio::time::timeout(Duration::from_millis(300), market.changed()).await;
    }
    assert_eq!(
        find(&market, &id).await.expect("listed").state,
        InstanceState::Stopped
    );
    assert!(!Path::new(&site.file("ran")).exists());
}

#[tokio::test]
async fn a_worker_that_exited_does_not_start_again() {
    let site = Site::new();
    let market = site.open();
    let id = rent(&market, &shell("exit 3"), &site.label("w1")).await;
    wait_for_state(&market, &id, InstanceState::Exited).await;
    let refused = market.start(&id).await;
    assert!(
        matches!(refused, Err(MarketError::Refused(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_worker_that_ignores_sigterm_is_killed_with_its_children() {
    let site = Site::new();
    let market = site.open();
    let script = format!(
        "trap '' TERM; (while :; do sleep 1; done) & echo up > {}; while :; do sleep 1; done",
        site.file("up")
    );
    let id = rent(&market, &shell(&script), &site.label("w1")).await;
    wait_for_text(&site.file("up")).await;
    let begun = Instant::now();
    market.destroy(&id).await.expect("destroy");
    assert!(
        begun.elapsed() >= Duration::from_secs(4),
        "it was given no time to end"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        market
            .labels_on_the_machine()
            .await
            .expect("labels")
            .is_empty()
    );
    assert!(!market.settings.dir.join(id.as_str()).exists());
}

#[tokio::test]
async fn an_order_is_carried_out_when_its_caller_has_left() {
    let site = Site::new();
    let market = site.open();
    let id = rent(&market, &shell("exec sleep 60"), &site.label("w1")).await;
    wait_for_state(&market, &id, InstanceState::Running).await;
    let _ = tokio::time::timeout(Duration::ZERO, market.destroy(&id)).await;
    wait_until("destroyed", || async { find(&market, &id).await.is_none() }).await;
}

#[tokio::test]
async fn a_worker_sees_its_own_environment_and_none_of_the_gateways_secrets() {
    let site = Site::new();
    let market = site.open();
    // The test runner's own variables stand for the secrets.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let script = format!(
        "env > {0}.new; mv {0}.new {0}; exec sleep 60",
        site.file("env")
    );
    let group = shell_with(&script, &[("HF_TOKEN", "of-the-group")], Duration::ZERO);
    rent(&market, &group, &site.label("w1")).await;
    let env = wait_for_text(&site.file("env")).await;
    assert!(env.contains("HF_TOKEN=of-the-group"), "{env}");
    assert!(
        env.contains(&format!("TIDEGATE_LABEL={}", site.label("w1"))),
        "{env}"
    );
    assert!(env.contains("PATH="), "{env}");
    let set_by_the_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    let given = ["HF_TOKEN", "TIDEGATE_LABEL", "SPT_NOENV"];
    for name in env.lines().filter_map(|line| Some(line.split_once('=')?.0)) {
        let allowed = [
            "PATH",
            "HOME",
            "LANG",
            "TMPDIR",
            "VIRTUAL_ENV",
            "LD_LIBRARY_PATH",
        ];
        let device = name.starts_with("CUDA_") || name.ends_with("_VISIBLE_DEVICES");
        assert!(
            allowed.contains(&name)
                || given.contains(&name)
                || set_by_the_shell.contains(&name)
                || name.starts_with("LC_")
                || device,
            "{name} leaked"
        );
    }
    market.shutdown_all().await;
}

#[tokio::test]
async fn only_its_owner_may_read_what_a_group_keeps_secret() {
    let site = Site::new();
    let market = site.open();
    let group = shell_with("exec sleep 60", &[("KEY", "secret")], Duration::ZERO);
    let id = rent(&market, &group, &site.label("w1")).await;
    wait_for_state(&market, &id, InstanceState::Running).await;
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    let place = market.settings.dir.join(id.as_str());
    assert_eq!(mode(&market.settings.dir), 0o700);
    assert_eq!(mode(&place), 0o700);
    assert_eq!(mode(&place.join("instance.json")), 0o600);
    market.shutdown_all().await;
}

/// Runs `before` with a market whose gateway is then gone without a word, as after kill -9.
fn killed_after<T>(site: &Site, before: impl AsyncFnOnce(Arc<LocalMarket>) -> T) -> T {
    let runtime = Runtime::new().expect("runtime");
    let out = runtime.block_on(before(site.open()));
    runtime.shutdown_background();
    out
}

#[test]
fn the_gateway_after_a_killed_one_finds_its_worker_notices_its_death_and_clears_it_away() {
    let site = Site::new();
    let (id, pid, address) = killed_after(&site, async |market| {
        let id = rent(&market, &shell("exec sleep 60"), &site.label("w1")).await;
        let running = wait_for_state(&market, &id, InstanceState::Running).await;
        let pid = pid_of(&market, &id);
        (id, pid, running.address)
    });
    assert!(exists(pid), "the worker went with its gateway");
    // Opened outside of a runtime, as the gateway does.
    let market = site.open();
    Runtime::new().expect("runtime").block_on(async {
        let found = find(&market, &id).await.expect("listed");
        assert_eq!(
            (found.state, found.address),
            (InstanceState::Running, address)
        );
        assert_eq!(found.usd_per_hour, UsdPerHour(0.25));
        while tokio::time::timeout(Duration::from_millis(50), market.changed())
            .await
            .is_ok()
        {}

        let killed = Instant::now();
        kill_process(Pid::from_raw(pid as i32).expect("pid"), Signal::KILL).expect("kill");
        tokio::time::timeout(DEADLINE, market.changed())
            .await
            .expect("changed");
        assert_eq!(
            find(&market, &id).await.expect("listed").state,
            InstanceState::Exited
        );
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{:?}",
            killed.elapsed()
        );
        market.destroy(&id).await.expect("destroy");
        assert!(find(&market, &id).await.is_none());
    });
}

#[test]
fn the_gateway_after_a_killed_one_can_stop_and_start_and_destroy_what_it_finds() {
    let site = Site::new();
    let script = format!("echo $KEY > {}; exec sleep 60", site.file("key"));
    let (id, pid) = killed_after(&site, async |market| {
        let group = shell_with(&script, &[("KEY", "kept")], Duration::ZERO);
        let id = rent(&market, &group, &site.label("w1")).await;
        wait_for_state(&market, &id, InstanceState::Running).await;
        let pid = pid_of(&market, &id);
        (id, pid)
    });
    let market = site.open();
    Runtime::new().expect("runtime").block_on(async {
        market.stop(&id).await.expect("stop");
        assert_eq!(
            find(&market, &id).await.expect("listed").state,
            InstanceState::Stopped
        );
        assert!(
            processes::some(&[pid]).expect("table").is_empty(),
            "it still runs"
        );
        fs::remove_file(site.file("key")).expect("remove");
        market.start(&id).await.expect("start");
        wait_for_state(&market, &id, InstanceState::Running).await;
        assert_eq!(wait_for_text(&site.file("key")).await.trim(), "kept");
        market.destroy(&id).await.expect("destroy");
        assert!(market.instances().await.expect("listing").is_empty());
    });
}

#[test]
fn a_boot_that_went_with_its_gateway_is_exited_and_a_stopped_worker_stays_stopped() {
    let site = Site::new();
    let (booting, stopped) = killed_after(&site, async |market| {
        let slow = shell_with("exec sleep 60", &[], Duration::from_secs(600));
        let booting = rent(&market, &slow, &site.label("w1")).await;
        let stopped = rent(&market, &shell("exec sleep 60"), &site.label("w2")).await;
        wait_for_state(&market, &stopped, InstanceState::Running).await;
        market.stop(&stopped).await.expect("stop");
        (booting, stopped)
    });
    let market = site.open();
    Runtime::new().expect("runtime").block_on(async {
        assert_eq!(
            find(&market, &booting).await.expect("listed").state,
            InstanceState::Exited
        );
        assert_eq!(
            find(&market, &stopped).await.expect("listed").state,
            InstanceState::Stopped
        );
    });
}

/// Changes the record as a gateway killed at another instruction would have left it.
fn rewrite(site: &Site, id: &InstanceId, change: impl FnOnce(&mut Record)) {
    let dir = site.dir.path().join("local");
    let mut records: BTreeMap<_, _> = record::read_all(&dir)
        .expect("records")
        .into_iter()
        .collect();
    let record = records.get_mut(id).expect("record");
    change(record);
    record::write(&dir, id, record).expect("write");
}

fn killed_with_a_running_worker(site: &Site) -> (InstanceId, u32) {
    killed_after(site, async |market| {
        let id = rent(&market, &shell("exec sleep 60"), &site.label("w1")).await;
        wait_for_state(&market, &id, InstanceState::Running).await;
        let pid = pid_of(&market, &id);
        (id, pid)
    })
}

#[test]
fn a_process_started_but_not_yet_noted_is_known_by_its_label() {
    let site = Site::new();
    let (id, pid) = killed_with_a_running_worker(&site);
    rewrite(&site, &id, |record| {
        record.state = InstanceState::Loading;
        record.process = None;
    });
    let market = site.open();
    Runtime::new().expect("runtime").block_on(async {
        let found = find(&market, &id).await.expect("listed");
        assert_eq!(found.state, InstanceState::Running);
        assert!(found.address.is_some());
        assert_eq!(pid_of(&market, &id), pid);
        market.shutdown_all().await;
    });
}

#[test]
fn a_stop_that_was_interrupted_is_finished() {
    let site = Site::new();
    let (id, pid) = killed_with_a_running_worker(&site);
    rewrite(&site, &id, |record| record.state = InstanceState::Stopped);
    let market = site.open();
    Runtime::new().expect("runtime").block_on(async {
        assert_eq!(
            find(&market, &id).await.expect("listed").state,
            InstanceState::Stopped
        );
        wait_until("stopped", || async {
            processes::some(&[pid]).expect("table").is_empty()
        })
        .await;
        wait_until("startable", || async { market.start(&id).await.is_ok() }).await;
        market.shutdown_all().await;
    });
}

#[test]
fn a_pid_that_now_belongs_to_someone_else_is_neither_adopted_nor_killed() {
    let site = Site::new();
    let mut stranger = sleeper(None);
    let (id, pid) = killed_with_a_running_worker(&site);
    kill_process(Pid::from_raw(pid as i32).expect("pid"), Signal::KILL).expect("kill");
    rewrite(&site, &id, |record| {
        if let Some(mark) = &mut record.process {
            mark.pid = stranger.id();
            mark.started_at_s -= 3600;
        }
    });
    let market = site.open();
    Runtime::new().expect("runtime").block_on(async {
        assert_eq!(
            find(&market, &id).await.expect("listed").state,
            InstanceState::Exited
        );
        market.destroy(&id).await.expect("destroy");
    });
    assert!(
        stranger.try_wait().expect("wait").is_none(),
        "a stranger was killed"
    );
    stranger.kill().expect("kill");
    stranger.wait().expect("wait");
}

/// A process of nobody, or of a rental whose directory is lost.
fn sleeper(label: Option<&RentalLabel>) -> std::process::Child {
    let mut command = Command::new("sleep");
    command.arg("60").stdin(Stdio::null());
    if let Some(label) = label {
        command.env(processes::LABEL_VARIABLE, label.to_string());
    }
    command.spawn().expect("spawn")
}

#[tokio::test]
async fn a_labelled_process_without_a_directory_is_listed_once_and_can_be_destroyed() {
    let site = Site::new();
    let market = site.open();
    let label = site.label("lost");
    let mut parent = sleeper(Some(&label));
    let mut child = sleeper(Some(&label));
    let other = RentalLabel {
        installation: InstallationId::new("another"),
        ..label.clone()
    };
    let mut foreign = sleeper(Some(&other));

    let listed = market.instances().await.expect("listing");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (&listed[0].label, listed[0].state),
        (&label, InstanceState::Exited)
    );
    market.destroy(&listed[0].id).await.expect("destroy");
    parent.wait().expect("wait");
    child.wait().expect("wait");
    assert!(market.instances().await.expect("listing").is_empty());
    assert!(
        foreign.try_wait().expect("wait").is_none(),
        "another installation's was killed"
    );
    foreign.kill().expect("kill");
    foreign.wait().expect("wait");
}

#[tokio::test]
async fn at_the_end_everything_is_ended_and_nothing_begins() {
    let site = Site::new();
    let market = site.open();
    let group = shell("exec sleep 60");
    let offer = market.offers(&group).await.expect("offers").remove(0);
    let running = rent(&market, &group, &site.label("w1")).await;
    let slow = shell_with("exec sleep 60", &[], Duration::from_secs(600));
    rent(&market, &slow, &site.label("w2")).await;
    wait_for_state(&market, &running, InstanceState::Running).await;
    let mut lost = sleeper(Some(&site.label("lost")));

    let begun = Instant::now();
    market.shutdown_all().await;
    assert!(begun.elapsed() < Duration::from_secs(8));
    lost.wait().expect("wait");
    assert!(market.instances().await.expect("listing").is_empty());
    let refused = market.rent(&offer, &group, &site.label("w3")).await;
    assert!(
        matches!(refused, Err(MarketError::Refused(_))),
        "{refused:?}"
    );
    assert!(market.offers(&group).await.expect("offers").is_empty());
}

#[tokio::test]
async fn a_label_is_rented_once_and_only_for_this_installation() {
    let site = Site::new();
    let market = site.open();
    let group = shell("exec sleep 60");
    let offer = market.offers(&group).await.expect("offers").remove(0);
    rent(&market, &group, &site.label("w1")).await;
    let twice = market.rent(&offer, &group, &site.label("w1")).await;
    assert!(matches!(twice, Err(MarketError::Refused(_))), "{twice:?}");
    let foreign = RentalLabel {
        installation: InstallationId::new("another"),
        ..site.label("w2")
    };
    let refused = market.rent(&offer, &group, &foreign).await;
    assert!(
        matches!(refused, Err(MarketError::Refused(_))),
        "{refused:?}"
    );
    market.shutdown_all().await;
}

#[test]
fn a_damaged_record_does_not_keep_the_others_from_being_found() {
    let site = Site::new();
    let (id, _) = killed_with_a_running_worker(&site);
    let place = site.dir.path().join("local/local-broken");
    fs::create_dir(&place).expect("create");
    fs::write(place.join("instance.json"), "{\"label\":").expect("write");
    let market = site.open();
    Runtime::new().expect("runtime").block_on(async {
        assert_eq!(
            find(&market, &id).await.expect("listed").state,
            InstanceState::Running
        );
        market.shutdown_all().await;
    });
}
