//! From rental to end under one gateway.

use super::*;

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
    let refused = market
        .rent(&Order::settled(&offer, None, &group, &site.label("w3")))
        .await;
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
        renters.spawn(async move {
            market
                .rent(&Order::settled(&offer, None, &group, &label))
                .await
                .is_ok()
        });
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
    wait_for_a_called_off_boot(&market).await;
    assert_eq!(
        find(&market, &id).await.expect("listed").state,
        InstanceState::Stopped
    );
    assert!(!Path::new(&site.file("ran")).exists());
}

/// It is news when its time has come. On a slow machine that was before we asked; then this is only late.
async fn wait_for_a_called_off_boot(market: &LocalMarket) {
    let _ = tokio::time::timeout(Duration::ZERO, market.changed()).await;
    let _ = tokio::time::timeout(Duration::from_secs(2), market.changed()).await;
}

#[tokio::test]
async fn a_boot_that_was_called_off_does_not_shorten_the_restart_that_followed() {
    let site = Site::new();
    let market = site.open();
    let group = group(LocalLaunch {
        command: vec!["sleep".into(), "60".into()],
        env: BTreeMap::new(),
        boot_time: Duration::from_millis(200),
        restart_time: Duration::from_secs(600),
    });
    let id = rent(&market, &group, &site.label("w1")).await;
    market.stop(&id).await.expect("stop");
    market.start(&id).await.expect("start");
    wait_for_a_called_off_boot(&market).await;
    let state = find(&market, &id).await.expect("listed").state;
    assert_eq!(state, InstanceState::Loading);
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
    // What our own environment holds besides stands for the secrets.
    assert!(std::env::vars().any(|(name, _)| !may_be_seen(&name)));
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
    for name in env.lines().filter_map(|line| Some(line.split_once('=')?.0)) {
        let given = ["HF_TOKEN", "TIDEGATE_LABEL", "SPT_NOENV"].contains(&name);
        let set_by_the_shell = ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name);
        assert!(
            given || set_by_the_shell || may_be_seen(name),
            "{name} leaked"
        );
    }
    market.shutdown_all().await;
}

fn may_be_seen(name: &str) -> bool {
    let plain = [
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "ZE_AFFINITY_MASK",
    ];
    let devices = name.starts_with("CUDA_") || name.ends_with("_VISIBLE_DEVICES");
    plain.contains(&name) || name.starts_with("LC_") || devices
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
    let refused = market
        .rent(&Order::settled(&offer, None, &group, &site.label("w3")))
        .await;
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
    let twice = market
        .rent(&Order::settled(&offer, None, &group, &site.label("w1")))
        .await;
    assert!(matches!(twice, Err(MarketError::Refused(_))), "{twice:?}");
    let foreign = RentalLabel {
        installation: InstallationId::new("another"),
        ..site.label("w2")
    };
    let refused = market
        .rent(&Order::settled(&offer, None, &group, &foreign))
        .await;
    assert!(
        matches!(refused, Err(MarketError::Refused(_))),
        "{refused:?}"
    );
    market.shutdown_all().await;
}
