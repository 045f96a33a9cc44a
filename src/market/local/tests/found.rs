//! What a gateway finds of the one before it.

use super::*;

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
