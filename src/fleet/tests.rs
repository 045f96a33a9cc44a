//! Claims, waiting and events as the proxy and the scaler use them.

use std::time::Duration;

use super::*;
use crate::domain::*;
use crate::policy::admission::Refusal;
use crate::policy::cost::cost;
use crate::policy::offers::bid::Raise;

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn settings(max_concurrency: Option<u32>, requests_max: usize) -> Endpoint {
    let second = Duration::from_secs(1);
    Endpoint {
        name: EndpointName::new("e"),
        model_names: Vec::new(),
        market: MarketKind::Fixed,
        scaling: ScalingSettings {
            min_load: TokensPerSecond::ZERO,
            target_util: Some(0.9),
            cold_mult: Some(1.0),
            min_cold_load: TokensPerSecond::ZERO,
            cold_workers: 0,
            max_workers: 16,
            inactivity_timeout: Some(second),
            scale_down_delay: second,
            drain_backlog_within: second,
            slo: LatenessAim {
                wait: 10 * second,
                late_share: 0.005,
            },
        },
        routing: RoutingSettings::default(),
        waiting: WaitingSettings {
            requests_max,
            bytes_max: 1 << 20,
            share_max: 1.0,
            wait_max: second,
            wait_max_busy: second,
            events: false,
            events_interval: second,
        },
        retry: RetrySettings {
            attempts_max: 3,
            budget_share: 0.2,
        },
        resume: ResumeSettings {
            mode: ResumeMode::Always,
            times_max: 3,
        },
        hedge: HedgeSettings {
            share: 0.0,
            after_min: second,
        },
        passage: PassageSettings::default(),
        limits: RequestLimits {
            max_new_tokens: 1_000,
        },
        spending: EndpointSpending::default(),
        times: TimeLimits {
            connect: second,
            first_byte: second,
            between_bytes: second,
            boot: second,
            scheduling: Duration::from_secs(60),
            offline: Duration::from_secs(120),
            benchmark: Duration::from_secs(90),
            unresponsive: second,
            silence: second,
            drain: second,
            drain_limit: second,
            probe_interval: second,
            probe: second,
        },
        offers: OfferSettings {
            interruptible: Interruptible::Never,
            race: 0,
            race_below: 0.85,
            horizon: Duration::from_secs(7200),
        },
        benchmark: None,
        groups: vec![WorkerGroup {
            name: GroupName::new("g"),
            engine: EngineKind::Fake,
            source: Source::Fixed {
                workers: Vec::new(),
            },
            speed_prior: SpeedPrior {
                tokens_per_second: TokensPerSecond(100.0),
                concurrency: 8,
            },
            max_concurrency,
            kv_tokens: None,
            image_gb: 0.0,
            model_gb: 0.0,
            usd_per_hour: UsdPerHour::ZERO,
            interruptible: false,
            api_key: None,
        }],
    }
}

fn endpoint(max_concurrency: Option<u32>, workers: usize) -> Arc<EndpointFleet> {
    let fleet = Fleet::new(&[settings(max_concurrency, 3)]);
    let endpoint = fleet.endpoint("e").expect("configured");
    for n in 0..workers {
        let spec = WorkerSpec::new(
            WorkerId::new(format!("w{n}")),
            &endpoint.settings().groups[0],
        );
        endpoint.add_worker(spec, WorkerPhase::Ready, UsdPerHour::ZERO, NOW);
    }
    endpoint
}

fn ticket(client: &str) -> Ticket {
    Ticket {
        client: ClientKey::new(client),
        cost: cost(50.0, 90.0, 5.0),
        body_bytes: 10,
        tried: Vec::new(),
        priority: 0,
        resumed: false,
        prefix: Prefix::default(),
        streamed: true,
    }
}

fn assigned(admission: Admission) -> Claim {
    match admission {
        Admission::Assigned(claim) => claim,
        _ => panic!("a worker was free"),
    }
}

fn held(admission: Admission) -> Held {
    match admission {
        Admission::Held(held) => held,
        _ => panic!("no worker was free"),
    }
}

/// The worker a held request gets; `None` when the room closes.
async fn next_claim(held: &mut Held) -> Option<Claim> {
    loop {
        match held.news().await {
            News::Assigned(claim) => return Some(claim),
            News::Closed => return None,
            News::ReasonChanged => {}
        }
    }
}

#[test]
fn a_claim_is_worked_off_and_leaves_exactly_nothing() {
    let endpoint = endpoint(None, 1);
    let mut claim = assigned(endpoint.admit(&ticket("a"), NOW));
    assert_eq!(endpoint.outstanding(), Tokens(100.0));
    claim.prefilled();
    assert_eq!(endpoint.outstanding(), Tokens(90.0));
    claim.produced(30);
    assert_eq!(endpoint.outstanding(), Tokens(60.0));
    claim.produced(500);
    assert!(
        endpoint.outstanding().0 > 0.0,
        "a running request is never free of charge"
    );
    drop(claim);
    assert_eq!(endpoint.outstanding(), Tokens(0.0));
    assert_eq!(endpoint.workers()[0].load_view().in_flight(), 0);
}

#[tokio::test]
async fn a_freed_place_goes_to_those_who_wait_and_not_to_a_newcomer() {
    let endpoint = endpoint(Some(1), 1);
    let first = assigned(endpoint.admit(&ticket("a"), NOW));
    let mut second = held(endpoint.admit(&ticket("a"), NOW));
    let _third = held(endpoint.admit(&ticket("b"), NOW));
    drop(first);
    let claim = next_claim(&mut second).await.expect("the freed place");
    assert_eq!(endpoint.waiting().requests, 1);
    let _fourth = held(endpoint.admit(&ticket("c"), NOW));
    drop(claim);
    assert_eq!(endpoint.waiting().requests, 1, "one more was served");
}

#[tokio::test]
async fn a_new_worker_takes_the_next_waiting_request() {
    let endpoint = endpoint(None, 0);
    let mut waiting = held(endpoint.admit(&ticket("a"), NOW));
    let spec = WorkerSpec::new(WorkerId::new("w"), &endpoint.settings().groups[0]);
    let worker = endpoint.add_worker(spec, WorkerPhase::Starting, UsdPerHour::ZERO, NOW);
    endpoint.dispatch();
    assert_eq!(endpoint.waiting().requests, 1);
    worker.set_phase(WorkerPhase::Ready, NOW);
    endpoint.dispatch();
    assert_eq!(
        next_claim(&mut waiting)
            .await
            .expect("a worker")
            .worker()
            .id()
            .as_str(),
        "w"
    );
}

#[test]
fn who_leaves_the_room_frees_its_place_and_one_who_was_served_frees_the_worker() {
    let endpoint = endpoint(Some(1), 1);
    let first = assigned(endpoint.admit(&ticket("a"), NOW));
    drop(held(endpoint.admit(&ticket("a"), NOW)));
    assert_eq!(endpoint.waiting(), WaitingView::default());
    let unread = held(endpoint.admit(&ticket("a"), NOW));
    drop(first);
    assert_eq!(
        endpoint.workers()[0].load_view().in_flight(),
        1,
        "assigned, not picked up yet"
    );
    drop(unread);
    assert_eq!(endpoint.outstanding(), Tokens(0.0));
    assert_eq!(endpoint.workers()[0].load_view().in_flight(), 0);
}

#[test]
fn a_full_room_refuses_and_counts_nothing() {
    let endpoint = endpoint(None, 0);
    let _waiting: Vec<_> = (0..3)
        .map(|_| held(endpoint.admit(&ticket("a"), NOW)))
        .collect();
    assert!(matches!(
        endpoint.admit(&ticket("b"), NOW),
        Admission::Refused { .. }
    ));
    assert_eq!(endpoint.waiting().requests, 3);
}

#[test]
fn a_client_with_its_share_of_the_room_is_refused_and_another_is_not() {
    let mut settings = settings(None, 100);
    settings.waiting.share_max = 0.5;
    let endpoint = Fleet::new(&[settings]).endpoint("e").expect("configured");
    let _flood: Vec<_> = (0..50)
        .map(|_| held(endpoint.admit(&ticket("loud"), NOW)))
        .collect();
    assert!(matches!(
        endpoint.admit(&ticket("loud"), NOW),
        Admission::Refused {
            refusal: Refusal::ClientShare,
            ..
        }
    ));
    let _quiet = held(endpoint.admit(&ticket("quiet"), NOW));
}

#[tokio::test]
async fn a_stream_that_is_continued_enters_a_full_room_and_is_served_first() {
    let endpoint = endpoint(Some(1), 1);
    let running = assigned(endpoint.admit(&ticket("a"), NOW));
    let _waiting: Vec<_> = (0..3)
        .map(|_| held(endpoint.admit(&ticket("a"), NOW)))
        .collect();
    let resumed = Ticket {
        resumed: true,
        ..ticket("b")
    };
    let mut resumed = held(endpoint.admit(&resumed, NOW));
    drop(running);
    let _continues = next_claim(&mut resumed).await.expect("the freed place");
    assert_eq!(endpoint.waiting().requests, 3);
}

#[tokio::test]
async fn who_waits_hears_when_a_worker_is_ready_but_busy_and_when_none_is() {
    let endpoint = endpoint(Some(1), 0);
    let mut first = held(endpoint.admit(&ticket("a"), NOW));
    let mut second = held(endpoint.admit(&ticket("a"), NOW));
    assert_eq!(second.reason(), WaitReason::NoneReady);
    let spec = WorkerSpec::new(WorkerId::new("w"), &endpoint.settings().groups[0]);
    let worker = endpoint.add_worker(spec, WorkerPhase::Ready, UsdPerHour::ZERO, NOW);
    endpoint.dispatch();
    let _running = next_claim(&mut first).await.expect("the new worker");
    assert!(matches!(second.news().await, News::ReasonChanged));
    assert_eq!(second.reason(), WaitReason::AllBusy);
    worker.set_phase(WorkerPhase::Unhealthy { failed_probes: 1 }, NOW);
    endpoint.dispatch();
    assert!(matches!(second.news().await, News::ReasonChanged));
    assert_eq!(second.reason(), WaitReason::NoneReady);
}

#[test]
fn the_expected_wait_follows_what_is_ahead_what_starts_and_how_long_starts_took() {
    let endpoint = endpoint(None, 0);
    let spec = |id: &str| WorkerSpec::new(WorkerId::new(id), &endpoint.settings().groups[0]);
    let first = endpoint.add_worker(spec("a"), WorkerPhase::Starting, UsdPerHour::ZERO, NOW);
    endpoint.came_up(&first, Duration::from_secs(40));
    let waiting: Vec<_> = (0..3)
        .map(|_| held(endpoint.admit(&ticket("a"), NOW)))
        .collect();
    // 100 tokens each at 100 tokens a second, from 40 s on.
    let later = NOW + Duration::from_secs(10);
    let expected: Vec<_> = waiting
        .iter()
        .map(|held| held.standing(later).expect("it waits"))
        .map(|standing| (standing.place, standing.of, standing.expected))
        .collect();
    let s = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(expected, [(1, 3, s(30)), (2, 3, s(31)), (3, 3, s(32))]);
    assert_eq!(endpoint.retry_after(later), Duration::from_secs(33));
    endpoint.add_worker(spec("b"), WorkerPhase::Starting, UsdPerHour::ZERO, NOW);
    assert_eq!(endpoint.retry_after(later), Duration::from_secs(32));
}

#[tokio::test]
async fn a_worker_that_just_came_up_is_not_stampeded_by_those_who_waited_for_it() {
    let mut settings = settings(None, 1_000);
    settings.groups[0].source = Source::Local(LocalLaunch {
        command: Vec::new(),
        env: std::collections::BTreeMap::new(),
        boot_time: Duration::ZERO,
        restart_time: Duration::ZERO,
    });
    let endpoint = Fleet::new(&[settings]).endpoint("e").expect("configured");
    let mut waiting: Vec<_> = (0..30)
        .map(|_| held(endpoint.admit(&ticket("a"), NOW)))
        .collect();
    let spec = WorkerSpec::new(WorkerId::new("w"), &endpoint.settings().groups[0]);
    let worker = endpoint.add_worker(spec, WorkerPhase::Starting, UsdPerHour::ZERO, NOW);
    worker.set_phase(WorkerPhase::Ready, NOW);
    endpoint.dispatch();
    let in_flight = || worker.load_view().in_flight();
    assert_eq!(in_flight(), 8);
    let mut first = next_claim(&mut waiting[0]).await.expect("the worker");
    first.prefilled();
    first.produced(3);
    assert_eq!(in_flight(), 9, "one began to be answered, one more comes");
    let second = next_claim(&mut waiting[1]).await.expect("the worker");
    drop(second);
    assert_eq!(in_flight(), 10, "one is over: its place, and one more");
    drop(first);
    assert_eq!(in_flight(), 10, "it was counted before");
    worker.set_phase(WorkerPhase::Stopped, NOW);
    worker.set_phase(WorkerPhase::Starting, NOW);
    worker.set_phase(WorkerPhase::Ready, NOW);
    endpoint.dispatch();
    drop(waiting);
    assert_eq!(in_flight(), 0);
    assert_eq!(endpoint.outstanding(), Tokens(0.0));
}

#[test]
fn a_doubted_worker_takes_nothing_until_its_phase_says_so() {
    let endpoint = endpoint(None, 1);
    let worker = Arc::clone(&endpoint.workers()[0]);
    endpoint.doubt(&worker);
    endpoint.doubt(&worker);
    assert_eq!(
        endpoint.take_events(),
        [(worker.id().clone(), WorkerEvent::ProbeFailed)]
    );
    let waiting = held(endpoint.admit(&ticket("a"), NOW));
    worker.set_phase(WorkerPhase::Ready, NOW);
    endpoint.dispatch();
    assert_eq!(endpoint.waiting().requests, 0);
    drop(waiting);
}

#[test]
fn workers_tried_by_all_who_wait_do_not_block_the_queue() {
    let endpoint = endpoint(Some(1), 2);
    let one = assigned(endpoint.admit(&ticket("a"), NOW));
    let other = assigned(endpoint.admit(&ticket("a"), NOW));
    let picky = Ticket {
        tried: vec![one.worker().id().clone()],
        ..ticket("a")
    };
    let _picky = held(endpoint.admit(&picky, NOW));
    let _next = held(endpoint.admit(&ticket("a"), NOW));
    drop(one);
    assert_eq!(endpoint.waiting().requests, 1, "the second in line took it");
    drop(other);
    assert_eq!(endpoint.waiting().requests, 0);
}

#[test]
fn who_tried_every_ready_worker_is_told_so_even_when_others_wait() {
    let endpoint = endpoint(Some(1), 1);
    let first = assigned(endpoint.admit(&ticket("a"), NOW));
    let _waiting = held(endpoint.admit(&ticket("b"), NOW));
    let tried = Ticket {
        tried: vec![first.worker().id().clone()],
        ..ticket("a")
    };
    assert!(matches!(endpoint.admit(&tried, NOW), Admission::AllTried));
    assert_eq!(endpoint.waiting().requests, 1);
}

#[tokio::test]
async fn removing_an_endpoint_tells_those_who_wait_and_admits_nobody() {
    let fleet = Fleet::new(&[settings(None, 3)]);
    let endpoint = fleet.endpoint("e").expect("configured");
    let mut waiting = held(endpoint.admit(&ticket("a"), NOW));
    fleet.replace_settings(&[]);
    assert!(next_claim(&mut waiting).await.is_none());
    assert!(matches!(
        endpoint.admit(&ticket("a"), NOW),
        Admission::Closed
    ));
    assert_eq!(endpoint.waiting(), WaitingView::default());
    assert!(fleet.endpoint("e").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_rushing_requests_are_all_served_within_the_concurrency_of_the_workers() {
    let fleet = Fleet::new(&[settings(Some(3), 10_000)]);
    let endpoint = fleet.endpoint("e").expect("configured");
    for n in 0..4 {
        let spec = WorkerSpec::new(
            WorkerId::new(format!("w{n}")),
            &endpoint.settings().groups[0],
        );
        endpoint.add_worker(spec, WorkerPhase::Ready, UsdPerHour::ZERO, NOW);
    }
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..1_000 {
        let endpoint = Arc::clone(&endpoint);
        requests.spawn(async move {
            let mut claim = match endpoint.admit(&ticket(&format!("c{}", n % 7)), NOW) {
                Admission::Assigned(claim) => claim,
                Admission::Held(mut held) => next_claim(&mut held).await.expect("a worker"),
                _ => panic!("refused"),
            };
            assert!(claim.worker().load_view().in_flight() <= 3);
            claim.prefilled();
            claim.produced(n % 200);
            tokio::task::yield_now().await;
        });
    }
    let all = async {
        while let Some(done) = requests.join_next().await {
            done.expect("served")
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .expect("nobody waits for ever");
    assert_eq!(endpoint.outstanding(), Tokens(0.0));
    assert_eq!(endpoint.waiting(), WaitingView::default());
}

#[test]
fn a_worker_that_fails_its_requests_gets_none_until_its_time_is_over() {
    let endpoint = endpoint(None, 4);
    let failing = Arc::clone(&endpoint.workers()[0]);
    for _ in 0..5 {
        endpoint.note_outcome(failing.id(), RequestOutcome::Failed);
    }
    let ejected = endpoint.review(NOW).ejected;
    assert_eq!(ejected.len(), 1);
    assert_eq!(failing.weight(), 0.0);
    // It is back before another could help: the scaler still counts on it, as long as it is not given up.
    let view = failing.view();
    assert!(view.ejected_until.is_some_and(|until| until > NOW));
    assert_eq!(view.dependable, Some(failing.speed()));
    let claims: Vec<_> = (0..12)
        .map(|_| assigned(endpoint.admit(&ticket("a"), NOW)))
        .collect();
    assert!(
        claims
            .iter()
            .all(|claim| claim.worker().id() != failing.id())
    );
    let later = NOW + Duration::from_secs(30);
    endpoint.review(later);
    assert!(failing.weight() > 0.0 && failing.weight() < 0.2);
    for _ in 0..5 {
        endpoint.note_outcome(failing.id(), RequestOutcome::Succeeded);
    }
    endpoint.review(later);
    assert_eq!(failing.weight(), 1.0);
}

#[test]
fn held_requests_go_to_others_while_a_worker_is_ejected() {
    let endpoint = endpoint(Some(1), 4);
    let mut busy: Vec<_> = (0..4)
        .map(|_| assigned(endpoint.admit(&ticket("a"), NOW)))
        .collect();
    let _waiting = held(endpoint.admit(&ticket("b"), NOW));
    let first = busy.remove(0);
    let failing = first.worker().id().clone();
    for _ in 0..5 {
        endpoint.note_outcome(&failing, RequestOutcome::Failed);
    }
    assert_eq!(endpoint.review(NOW).ejected.len(), 1);
    drop(first);
    assert_eq!(endpoint.waiting().requests, 1, "not to the ejected one");
    drop(busy.remove(0));
    assert_eq!(endpoint.waiting().requests, 0);
}

#[test]
fn a_started_worker_gets_a_growing_share() {
    let endpoint = endpoint(None, 1);
    let worker = Arc::clone(&endpoint.workers()[0]);
    worker.set_phase(WorkerPhase::Stopped, NOW);
    worker.set_phase(WorkerPhase::Starting, NOW);
    worker.set_phase(WorkerPhase::Ready, NOW);
    endpoint.review(NOW);
    assert!((worker.weight() - 0.2).abs() < 1e-6);
    endpoint.review(NOW + Duration::from_secs(15));
    assert!((worker.weight() - 0.6).abs() < 1e-6);
    for _ in 0..20 {
        endpoint.note_outcome(worker.id(), RequestOutcome::Succeeded);
    }
    endpoint.review(NOW + Duration::from_secs(15));
    assert_eq!(worker.weight(), 1.0);
}

#[test]
fn the_worker_that_read_a_prompt_gets_its_like_and_forgets_with_a_restart() {
    let endpoint = endpoint(None, 2);
    let workers = endpoint.workers();
    for (port, worker) in (1..).zip(workers.iter()) {
        worker.set_address(Some(([127, 0, 0, 1], port).into()), None);
    }
    let long = |n: u64| Ticket {
        prefix: Prefix::new(vec![PrefixBlock {
            hash: n,
            bytes: 4_000,
        }]),
        cost: crate::policy::cost::cost(1_000.0, 50.0, 5.0),
        ..ticket("a")
    };
    let small = assigned(endpoint.admit(&ticket("a"), NOW));
    let first = assigned(endpoint.admit(&long(7), NOW));
    let home = first.worker().id().clone();
    assert_ne!(*small.worker().id(), home);
    drop((small, first));
    let goes_to = |prompt| {
        assigned(endpoint.admit(&long(prompt), NOW))
            .worker()
            .id()
            .clone()
    };
    assert_eq!(goes_to(7), home);
    assert_ne!(goes_to(8), home, "the first of equals");
    let worker = endpoint.worker(&home).expect("known");
    worker.set_address(Some(([127, 0, 0, 1], 99).into()), None);
    assert_ne!(goes_to(7), home, "it holds nothing after a restart");
}

#[tokio::test]
async fn a_flood_is_held_back_until_the_worker_has_read_what_it_has() {
    let endpoint = endpoint(None, 1);
    let long = |client: &str| Ticket {
        cost: cost(500.0, 90.0, 5.0),
        ..ticket(client)
    };
    let _loud = endpoint.present(&ClientKey::new("loud"));
    let mut first = assigned(endpoint.admit(&long("loud"), NOW));
    let second = assigned(endpoint.admit(&long("loud"), NOW));
    drop(second);
    let _quiet = endpoint.present(&ClientKey::new("quiet"));
    let mut flood = held(endpoint.admit(&long("loud"), NOW));
    let mut quiet = held(endpoint.admit(&long("quiet"), NOW));
    first.prefilled();
    let claim = next_claim(&mut flood).await.expect("its turn came first");
    drop(claim);
    assert!(next_claim(&mut quiet).await.is_some());
}

#[test]
fn an_answer_without_a_visible_first_token_keeps_nobody_waiting() {
    let endpoint = endpoint(None, 1);
    let whole = Ticket {
        cost: cost(500.0, 90.0, 5.0),
        streamed: false,
        ..ticket("loud")
    };
    let _present = [
        endpoint.present(&ClientKey::new("loud")),
        endpoint.present(&ClientKey::new("quiet")),
    ];
    let _first = assigned(endpoint.admit(&whole, NOW));
    let _second = assigned(endpoint.admit(&ticket("quiet"), NOW));
}

#[tokio::test]
async fn a_flood_leaves_the_last_place_to_who_has_less_and_takes_it_when_alone() {
    let endpoint = endpoint(Some(50), 2);
    let loud = ticket("loud");
    let _loud = endpoint.present(&loud.client);
    let quiet = endpoint.present(&ClientKey::new("quiet"));
    // A first token came of each, so that no prompt stands before the next.
    let mut flood = Vec::new();
    for _ in 0..98 {
        let mut claim = assigned(endpoint.admit(&loud, NOW));
        claim.prefilled();
        flood.push(claim);
    }
    let mut beyond = held(endpoint.admit(&loud, NOW));
    let mut found = held(endpoint.admit(&ticket("quiet"), NOW));
    let claim = next_claim(&mut found).await.expect("a place was left");
    drop(claim);
    drop(found);
    drop(quiet);
    assert!(next_claim(&mut beyond).await.is_some());
}

#[test]
fn what_starts_are_like_is_believed_until_it_is_seen() {
    let endpoint = endpoint(None, 0);
    let settings = endpoint.settings();
    let group = &settings.groups[0];
    let believed = endpoint.starts_of(group);
    assert_eq!((believed.cold, believed.restart_fails), (None, 0.15));
    let spec = WorkerSpec::new(WorkerId::new("a"), group);
    let worker = endpoint.add_worker(spec, WorkerPhase::Starting, UsdPerHour::ZERO, NOW);
    endpoint.came_up(&worker, Duration::from_secs(40));
    endpoint.restart_failed(&worker);
    let seen = endpoint.starts_of(group);
    assert_eq!(seen.cold, Some(Duration::from_secs(40)));
    assert!(seen.restart_fails > 0.2, "{seen:?}");
}

#[test]
fn a_start_that_was_not_seen_from_its_order_teaches_nothing_of_starts() {
    let endpoint = endpoint(None, 0);
    let settings = endpoint.settings();
    let group = &settings.groups[0];
    let believed = endpoint.starts_of(group);
    let spec = WorkerSpec::new(WorkerId::new("a"), group);
    let worker = endpoint.add_worker(spec, WorkerPhase::Starting, UsdPerHour::ZERO, NOW);
    worker.origin.found_starting();
    endpoint.came_up(&worker, Duration::from_secs(1));
    worker.origin.starts_by(WorkerEvent::BidRaised);
    endpoint.came_up(&worker, Duration::from_secs(1));
    assert_eq!(endpoint.starts_of(group), believed);
    worker.origin.starts_by(WorkerEvent::RestartOrdered);
    endpoint.came_up(&worker, Duration::from_secs(9));
    assert_ne!(endpoint.starts_of(group), believed);
}

#[test]
fn of_two_raises_of_a_bid_the_later_one_is_known() {
    let raise = |at: Timestamp, to: f64| Raise {
        at,
        from: UsdPerHour(0.30),
        to: UsdPerHour(to),
        least: None,
    };
    let origin = Origin::default();
    origin.recall_raised(raise(NOW, 0.33));
    assert_eq!(origin.raised(), Some(raise(NOW, 0.33)));
    let later = NOW + Duration::from_secs(60);
    origin.set_raised(raise(later, 0.36));
    origin.recall_raised(raise(NOW, 0.33));
    assert_eq!(origin.raised(), Some(raise(later, 0.36)));
}
