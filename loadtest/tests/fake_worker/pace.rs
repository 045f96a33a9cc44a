//! The engine's pace and places: the law of speed, the queue, who leaves, and many at once.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use loadtest::fakes::worker::{Settings, SpeedLaw};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::net::TcpStream;

use crate::client::*;

/// Every iteration takes so long that a request of many tokens does not end within a test.
const UNHURRIED: SpeedLaw = SpeedLaw {
    a_ms: 20.0,
    ..SpeedLaw::TINY
};

/// Without the KV term the time of all iterations follows from three counts, whoever shared which iteration.
#[tokio::test]
async fn iterations_take_what_the_law_says_and_tokens_never_come_early() {
    let law = SpeedLaw {
        a_ms: 4.0,
        c_ms: 0.5,
        k_ms: 0.0,
        prefill_tps: 50_000.0,
        ..SpeedLaw::TINY
    };
    let time_scale = 10.0;
    let worker = start(Settings {
        law,
        time_scale,
        ..Settings::default()
    })
    .await;
    let begun = Instant::now();
    let prompt = " word".repeat(500);
    let requests = (0..12).map(|_| {
        let (url, body) = (worker.url(), generate(&prompt, 60));
        async move { stream(&url, "/generate_stream", &body).await.tokens() }
    });
    assert_eq!(join_all(requests).await, vec![60; 12]);
    let elapsed_s = begun.elapsed().as_secs_f64();
    let figures = worker.figures();
    assert_eq!((figures.tokens, figures.prompt_tokens), (12 * 60, 12 * 500));
    assert!(figures.iterations >= 60);
    let by_law = 0.004 * figures.iterations as f64 + 0.0005 * 720.0 + 6000.0 / 50_000.0;
    assert!(
        (figures.busy_s - by_law).abs() < 1e-6,
        "{} s, not {by_law} s",
        figures.busy_s
    );
    let least = figures.busy_s / time_scale;
    assert!(elapsed_s >= least, "{elapsed_s} s for work of {least} s");
}

#[tokio::test]
async fn tokens_faster_than_the_clock_come_several_at_once() {
    let law = SpeedLaw {
        a_ms: 0.05,
        c_ms: 0.0,
        k_ms: 0.0,
        ..SpeedLaw::TINY
    };
    let worker = start_at(law).await;
    let response = post(&worker.url(), "/generate_stream", &generate("Hi", 4000)).await;
    let mut body = response.bytes_stream();
    let (mut pieces, mut tokens) = (0, 0);
    while let Some(piece) = body.next().await {
        pieces += 1;
        tokens += String::from_utf8_lossy(&piece.unwrap())
            .matches("data:")
            .count();
    }
    assert_eq!(tokens, 4000);
    assert!(pieces < 1000, "{pieces} pieces");
    assert_eq!(worker.figures().iterations, 4000);
}

#[tokio::test]
async fn requests_beyond_the_batch_wait_and_are_served() {
    let law = SpeedLaw {
        max_batch: 2,
        ..UNHURRIED
    };
    let worker = start_at(law).await;
    let requests = (0..5).map(|_| {
        let url = worker.url();
        async move { answer(&url, "/generate", &generate("Hi", 5)).await }
    });
    let served = tokio::spawn(join_all(requests.collect::<Vec<_>>()));
    wait_until(&worker, "two run and three wait", |f| {
        (f.running, f.waiting) == (2, 3)
    })
    .await;
    assert_eq!(served.await.unwrap().len(), 5);
    assert_eq!((worker.figures().running, worker.figures().waiting), (0, 0));
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let worker = start_at(UNHURRIED).await;
    let (url, body) = (worker.url(), generate("Hi", 100_000));
    let mut streamed = post(&url, "/generate_stream", &body).await.bytes_stream();
    streamed.next().await.unwrap().unwrap();
    let unstreamed = tokio::spawn(async move { post(&url, "/generate", &body).await });
    wait_until(&worker, "both run", |f| f.running == 2).await;
    drop(streamed);
    wait_until(&worker, "the stream's place is free", |f| f.running == 1).await;
    unstreamed.abort();
    wait_until(&worker, "both places are free", |f| {
        f.running == 0 && f.kv_tokens == 0
    })
    .await;
}

#[tokio::test]
async fn a_slowed_engine_takes_longer_for_the_same_iterations() {
    let law = SpeedLaw {
        c_ms: 0.0,
        k_ms: 0.0,
        prefill_tps: 1e12,
        ..SpeedLaw::TINY
    };
    let worker = start_at(law).await;
    answer(&worker.url(), "/generate", &generate("Hi", 20)).await;
    let usual_s = worker.figures().busy_s;
    answer(&worker.url(), "/control", &json!({ "slow": 3.0 })).await;
    answer(&worker.url(), "/generate", &generate("Hi", 20)).await;
    let slowed_s = worker.figures().busy_s - usual_s;
    assert!(
        (slowed_s / usual_s - 3.0).abs() < 1e-6,
        "{usual_s} s, then {slowed_s} s"
    );
}

#[tokio::test]
async fn a_loading_worker_is_unavailable_and_then_healthy() {
    let load_time = Duration::from_secs(3);
    let worker = start(Settings {
        load_time,
        time_scale: 10.0,
        ..Settings::default()
    })
    .await;
    let health = || async {
        client()
            .get(worker.url() + "/health")
            .send()
            .await
            .unwrap()
            .status()
    };
    let begun = Instant::now();
    if health().await != 503 {
        assert!(begun.elapsed() > load_time / 10, "healthy too early");
    }
    while health().await != 200 {
        assert!(begun.elapsed() < DEADLINE, "never healthy");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        post(&worker.url(), "/generate", &generate("Hi", 2))
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_stopped_worker_breaks_its_streams_and_frees_its_port() {
    let worker = start_at(UNHURRIED).await;
    let mut pieces = post(&worker.url(), "/generate_stream", &generate("Hi", 100_000))
        .await
        .bytes_stream();
    pieces.next().await.unwrap().unwrap();
    worker.stop();
    let rest: Vec<_> = tokio::time::timeout(DEADLINE, pieces.collect())
        .await
        .unwrap();
    assert!(rest.last().unwrap().is_err());
    let deadline = Instant::now() + DEADLINE;
    while TcpStream::connect(worker.address()).await.is_ok() {
        assert!(Instant::now() < deadline, "the port is still served");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_streams_at_once_complete() {
    const STREAMS: usize = 2000;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let law = SpeedLaw {
        a_ms: 50.0,
        c_ms: 0.0,
        ..SpeedLaw::TINY
    };
    let worker = start_at(law).await;
    // Nobody may be done before the last has come, however busy the machine is.
    answer(&worker.url(), "/control", &json!({ "slow": 20 })).await;
    let (client, url) = (client(), worker.url() + "/generate_stream");
    let one = |_| {
        let request = client.post(&url).json(&generate("Hi", 60));
        async move { read_stream(request.send().await.unwrap()).await }
    };
    let streams: Vec<_> = (0..STREAMS).map(|nth| tokio::spawn(one(nth))).collect();
    wait_until(&worker, "all run at once", |f| f.running == STREAMS).await;
    answer(&worker.url(), "/control", &json!({ "slow": 1 })).await;
    for streamed in join_all(streams).await {
        let streamed = streamed.unwrap();
        assert!(streamed.is_done() && !streamed.broken);
        assert_eq!(streamed.events.len(), 60);
    }
    assert_eq!(worker.figures().tokens, 60 * STREAMS as u64);
}
