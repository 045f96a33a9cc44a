//! Change without loss: a configuration that is taken while requests run.

use loadtest::harness::{ConfigDir, Gateway, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const TOKEN: &str = "admin-secret-00001";

async fn gateway_with_token(more: &str, flags: &str) -> Gateway {
    let config = ConfigDir::new(&format!("{SERVER}admin_token: {TOKEN}\n")).expect("config");
    config
        .write_endpoint("fake", &local_endpoint(more, flags))
        .expect("an endpoint file");
    Gateway::start(config).await.expect("a gateway")
}

async fn reload(gateway: &Gateway) -> (u16, String) {
    let answer = client()
        .post(format!("{}/reload", gateway.admin_url))
        .bearer_auth(TOKEN)
        .timeout(PATIENCE)
        .send()
        .await
        .expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.text().await.expect("a body"))
}

async fn metrics(gateway: &Gateway) -> String {
    let answer = client()
        .get(format!("{}/metrics", gateway.admin_url))
        .timeout(PATIENCE)
        .send()
        .await
        .expect("an answer");
    answer.text().await.expect("a body")
}

fn max_workers(fleet: &Value) -> Option<u64> {
    fleet["endpoints"][0]["scaling"]["max_workers"].as_u64()
}

#[tokio::test]
async fn a_changed_file_is_taken_without_being_asked_and_a_wrong_one_is_not() {
    let gateway = gateway_with_token("max_workers: 2", "").await;
    let endpoint = |more: &str| local_endpoint(more, "");
    let config = &gateway.config;
    config
        .write_endpoint("fake", &endpoint("max_workers: 3"))
        .expect("written");
    wait_fleet(&gateway, "the new limit", |fleet| {
        max_workers(fleet) == Some(3)
    })
    .await;

    config
        .write_endpoint("fake", &endpoint("max_workers: many"))
        .expect("written");
    let failed = r#"tidegate_reloads_total{outcome="failed"} 1"#;
    assert!(
        wait_until(PATIENCE, || async {
            metrics(&gateway).await.contains(failed)
        })
        .await
    );
    assert_eq!(max_workers(&fleet(&gateway).await), Some(3));
    let log = gateway.child.log();
    assert!(log.contains("fake.yaml:3:14: max_workers"), "{log}");

    // As editors do it: written elsewhere, then renamed.
    let path = config.path().join("endpoints");
    std::fs::write(path.join(".fake.new"), endpoint("max_workers: 4")).expect("written");
    std::fs::rename(path.join(".fake.new"), path.join("fake.yaml")).expect("renamed");
    wait_fleet(&gateway, "the third limit", |fleet| {
        max_workers(fleet) == Some(4)
    })
    .await;
    let text = metrics(&gateway).await;
    assert!(
        text.contains(r#"tidegate_reloads_total{outcome="ok"} 2"#),
        "{text}"
    );
}

#[tokio::test]
async fn an_emptied_file_that_is_written_again_is_no_change() {
    let gateway = gateway_with_token("max_workers: 2", "").await;
    let server = gateway.config.path().join("tidegate.yaml");
    let before = std::fs::read_to_string(&server).expect("readable");
    // Every setting has a default, so an empty file is right by itself; half a write must not open the door.
    for _ in 0..3 {
        std::fs::write(&server, "").expect("truncated");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        std::fs::write(&server, &before).expect("written");
    }
    gateway
        .config
        .write_endpoint("fake", &local_endpoint("max_workers: 3", ""))
        .expect("written");
    wait_fleet(&gateway, "the real change", |fleet| {
        max_workers(fleet) == Some(3)
    })
    .await;
    assert_eq!(reload(&gateway).await.0, 200, "the token still counts");
    let text = metrics(&gateway).await;
    assert!(
        text.contains(r#"tidegate_reloads_total{outcome="ok"} 2"#),
        "{text}"
    );
}

#[tokio::test]
async fn a_reload_changes_live_workers_where_it_can_and_says_where_it_cannot() {
    let gateway = gateway_with_token("min_load: 1\nmax_workers: 1", "--a-ms 20").await;
    let ready = wait_fleet(&gateway, "a worker", |fleet| phases(fleet) == ["ready"]).await;
    let worker = workers(&ready)[0]["id"].clone();
    let changed = local_endpoint("min_load: 1\nmax_workers: 1", "--a-ms 21")
        .replace("max_concurrency: 8", "max_concurrency: 1")
        .replace("usd_per_hour: 0.1", "usd_per_hour: 0.7");
    gateway
        .config
        .write_endpoint("fake", &changed)
        .expect("written");
    gateway
        .config
        .write_server(&format!("{SERVER}admin_token: {TOKEN}\nthreads: 3\n"))
        .expect("written");
    let (status, said) = reload(&gateway).await;
    assert_eq!(status, 200, "{said}");
    assert!(
        said.contains("needs a restart or an upgrade: threads"),
        "{said}"
    );
    assert!(
        said.contains("workers rented from now on: command of fake/cpu"),
        "{said}"
    );
    let seen = wait_fleet(&gateway, "the new price", |fleet| {
        workers(fleet)
            .first()
            .is_some_and(|worker| worker["usd_per_hour"] == json!(0.7))
    })
    .await;
    assert_eq!(workers(&seen)[0]["id"], worker, "the worker of before");

    // One request at a time now: the second waits although the worker took eight before.
    let url = format!("{}/generate", gateway.base_url);
    let first = tokio::spawn(async move { post_json(&url, &generate(50)).await.0 });
    wait_fleet(&gateway, "the first is served", |fleet| {
        in_flight(fleet) == 1
    })
    .await;
    let url = format!("{}/generate", gateway.base_url);
    let second = tokio::spawn(async move { post_json(&url, &generate(1)).await.0 });
    wait_fleet(&gateway, "the second waits", |fleet| waiting(fleet) == 1).await;
    assert_eq!(first.await.expect("an answer"), 200);
    assert_eq!(second.await.expect("an answer"), 200);
}

/// A connection of its own, kept open; one answer is read off it.
struct RawClient(tokio::net::TcpStream);

impl RawClient {
    async fn connect(gateway: &Gateway) -> Self {
        let address = gateway.base_url.trim_start_matches("http://");
        let stream = tokio::net::TcpStream::connect(address).await;
        Self(stream.expect("a connection"))
    }

    /// The whole answer, which has to have a length.
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.0
            .write_all(request.as_bytes())
            .await
            .expect("still open");
        let mut seen = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&seen).to_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.expect("a length").parse().expect("a number");
                if body.len() >= length {
                    return text;
                }
            }
            let read = self.0.read_buf(&mut seen).await.expect("an answer");
            assert!(read > 0, "closed after {text}");
        }
    }
}

#[tokio::test]
async fn on_sigterm_readiness_goes_first_and_kept_connections_are_served_to_the_end() {
    let config = ConfigDir::new(&format!("{SERVER}stop_delay: 1.5\n")).expect("config");
    config
        .write_endpoint(
            "fake",
            &local_endpoint("min_load: 1\nmax_workers: 1", "--a-ms 50"),
        )
        .expect("an endpoint file");
    let mut gateway = Gateway::start(config).await.expect("a gateway");
    wait_fleet(&gateway, "a worker", |fleet| phases(fleet) == ["ready"]).await;
    let mut kept = RawClient::connect(&gateway).await;
    let mut kept_longer = RawClient::connect(&gateway).await;
    for connection in [&mut kept, &mut kept_longer] {
        let answer = connection.ask("GET", "/health", "").await;
        assert!(
            answer.contains("200 ok") && answer.contains("keep-alive"),
            "{answer}"
        );
    }
    let url = format!("{}/generate_stream", gateway.base_url);
    let long = tokio::spawn(async move { events(post(&url, &generate(70)).await).await });
    wait_fleet(&gateway, "the stream runs", |fleet| in_flight(fleet) == 1).await;

    gateway
        .child
        .signal(rustix::process::Signal::TERM)
        .expect("SIGTERM");
    let readyz = format!("{}/readyz", gateway.admin_url);
    assert!(
        wait_until(PATIENCE, || async {
            let answer = client().get(&readyz).send().await.expect("it still serves");
            answer.status() == 503
        })
        .await
    );
    // Still listening, on new connections and on old ones, each for one more request.
    let mut new = RawClient::connect(&gateway).await;
    let body = generate(1).to_string();
    for connection in [&mut new, &mut kept] {
        let answer = connection.ask("POST", "/generate", &body).await;
        assert!(answer.contains("200 ok"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    // Then not listening any more, but a request on a kept connection is no failed request.
    let address = gateway.base_url.trim_start_matches("http://").to_owned();
    assert!(
        wait_until(PATIENCE, || async {
            tokio::net::TcpStream::connect(&address).await.is_err()
        })
        .await
    );
    let answer = kept_longer.ask("POST", "/generate", &body).await;
    assert!(
        answer.contains("200 ok") && answer.contains("connection: close"),
        "{answer}"
    );
    let streamed = long.await.expect("joined").expect("whole");
    assert!(streamed.last().expect("events").json()["generated_text"].is_string());
    let status = gateway.child.wait_for_exit(PATIENCE).await.expect("an end");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn an_idle_gateway_ends_at_once_and_a_second_signal_does_not_wait() {
    let config = ConfigDir::new("scaler_interval: 0.1\ngrace_period: 60\n").expect("config");
    let worker = fake_worker(loadtest::fakes::worker::Settings::default()).await;
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &[worker.url()], ""))
        .expect("an endpoint file");
    let mut gateway = Gateway::start(config).await.expect("a gateway");
    // An idle kept connection holds nothing up.
    let mut kept = RawClient::connect(&gateway).await;
    kept.ask("GET", "/health", "").await;
    let asked = tokio::time::Instant::now();
    let status = gateway.child.stop(PATIENCE).await.expect("an end");
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed().as_secs() < 15, "{:?}", asked.elapsed());

    let config = ConfigDir::new("scaler_interval: 0.1\ngrace_period: 60\n").expect("config");
    config
        .write_endpoint(
            "fake",
            &fixed_endpoint("fake", &["http://127.0.0.1:9".to_owned()], ""),
        )
        .expect("an endpoint file");
    let mut gateway = Gateway::start(config).await.expect("a gateway");
    let url = format!("{}/generate", gateway.base_url);
    let held = tokio::spawn(async move { client().post(url).json(&generate(1)).send().await });
    wait_fleet(&gateway, "held", |fleet| waiting(fleet) == 1).await;
    gateway
        .child
        .signal(rustix::process::Signal::TERM)
        .expect("SIGTERM");
    assert!(
        wait_until(PATIENCE, || async {
            gateway.child.log().contains("a second signal")
        })
        .await
    );
    let status = gateway.child.stop(PATIENCE).await.expect("an end");
    assert_eq!(status.code(), Some(130));
    assert!(held.await.expect("joined").is_err());
}

#[tokio::test]
async fn a_request_still_held_when_the_grace_period_is_over_is_told_so() {
    let config = ConfigDir::new("scaler_interval: 0.1\ngrace_period: 0.5\n").expect("config");
    config
        .write_endpoint(
            "fake",
            &fixed_endpoint("fake", &["http://127.0.0.1:9".to_owned()], ""),
        )
        .expect("an endpoint file");
    let mut gateway = Gateway::start(config).await.expect("a gateway");
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    let held = tokio::spawn(async move { post_json(&url, &chat(1, false)).await });
    wait_fleet(&gateway, "held", |fleet| waiting(fleet) == 1).await;
    let status = gateway.child.stop(PATIENCE).await.expect("an end");
    assert_eq!(status.code(), Some(0));
    let (status, body) = held.await.expect("an answer");
    assert_eq!(status, 503, "{body}");
    assert!(body["error"]["message"].is_string(), "{body}");
}

#[tokio::test]
async fn a_stream_longer_than_the_grace_period_ends_with_the_error_event_of_its_interface() {
    let config = ConfigDir::new("scaler_interval: 0.1\ngrace_period: 0.5\n").expect("config");
    config
        .write_endpoint(
            "fake",
            &local_endpoint("min_load: 1\nmax_workers: 1", "--a-ms 100"),
        )
        .expect("an endpoint file");
    let mut gateway = Gateway::start(config).await.expect("a gateway");
    wait_fleet(&gateway, "a worker", |fleet| phases(fleet) == ["ready"]).await;
    let openai = format!("{}/v1/chat/completions", gateway.base_url);
    let tgi = format!("{}/generate_stream", gateway.base_url);
    let whole = format!("{}/generate", gateway.base_url);
    let openai = tokio::spawn(async move { events(post(&openai, &chat(2_000, true)).await).await });
    let tgi = tokio::spawn(async move { events(post(&tgi, &generate(2_000)).await).await });
    let whole = tokio::spawn(async move { post_json(&whole, &generate(2_000)).await });
    wait_fleet(&gateway, "they run", |fleet| in_flight(fleet) == 3).await;
    let status = gateway.child.stop(PATIENCE).await.expect("an end");
    assert_eq!(status.code(), Some(0), "{}", gateway.child.log_tail());
    let events = openai.await.expect("joined").expect("not cut");
    let last = events.last().expect("events").json();
    assert!(last["error"]["message"].is_string(), "{last}");
    let events = tgi.await.expect("joined").expect("not cut");
    let last = events.last().expect("events").json();
    assert!(last["error"].is_string(), "{last}");
    let (status, body) = whole.await.expect("answered");
    assert!(
        status >= 500 && body["error"].is_string(),
        "{status} {body}"
    );
}
