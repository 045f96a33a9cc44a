//! Routes that are no generations: they reach a worker as they are, without what is not its business.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use loadtest::fakes::worker::{Settings, Worker, body_sum};
use loadtest::harness::{ConfigDir, Gateway};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::support::*;

/// Routes that only the stand-in has.
const ROUTES: &str = "routes:\n  - {path: /echo, cost: 2}\n  - {path: /echo/*, methods: [GET, POST]}\n  \
                      - {path: /status/*}\n  - {path: /redirect, methods: [GET]}\n";

/// Of `alice-secret-00001`.
const ALICE: &str = "f2cef0501b699dd13830895d47ef53a2d4bc73a2c7c65269b6624f1c26def114";

async fn one_worker(more: &str) -> (Worker, Gateway) {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], more).await;
    (worker, gateway)
}

async fn send(
    gateway: &Gateway,
    method: Method,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> Response {
    client()
        .request(method, format!("{}{path}", gateway.base_url))
        .timeout(PATIENCE)
        .body(body)
        .send()
        .await
        .expect("an answer")
}

async fn json_of(answer: Response) -> Value {
    answer.json().await.expect("JSON")
}

/// A request that no client library would send.
async fn raw(gateway: &Gateway, first_line: &str) -> String {
    let address = gateway.base_url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("{first_line}\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer));
    read.await.expect("in time").expect("an answer");
    answer
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n % 251) as u8).collect()
}

/// A chunked body of parts.
fn chunked(body: &Bytes, part: usize) -> reqwest::Body {
    let parts: Vec<_> = body
        .chunks(part)
        .map(|part| Ok::<_, std::io::Error>(Bytes::copy_from_slice(part)))
        .collect();
    reqwest::Body::wrap_stream(futures_util::stream::iter(parts))
}

async fn wait_nothing_in_flight(gateway: &Gateway) {
    wait_fleet(gateway, "nothing is in flight", |fleet| {
        in_flight(fleet) == 0
    })
    .await;
}

#[tokio::test]
async fn an_engines_own_routes_are_there_without_being_listed() {
    let (_worker, gateway) = one_worker("model_names: [small]").await;
    for path in ["/info", "/fake/info"] {
        let answer = send(&gateway, Method::GET, path, "").await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(json_of(answer).await["router"], "fake-worker");
    }
    let url = format!("{}/tokenize", gateway.base_url);
    let (status, tokens) = post_json(&url, &json!({"inputs": "one two three"})).await;
    assert_eq!(status, 200);
    assert!(
        tokens.as_array().is_some_and(|it| !it.is_empty()),
        "{tokens}"
    );
    // The worker calls its model `fake`; clients call it what the endpoint does.
    let url = format!("{}/v1/embeddings", gateway.base_url);
    let (status, answer) = post_json(&url, &json!({"model": "small", "input": ["a", "bcd"]})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["data"][1]["embedding"][0], json!(3.0));
    wait_nothing_in_flight(&gateway).await;
}

#[tokio::test]
async fn what_is_not_listed_does_not_pass_unless_everything_may() {
    let (_worker, gateway) = one_worker(ROUTES).await;
    for (method, path, status) in [
        (Method::GET, "/control", 404),
        (Method::GET, "/fake/control", 404),
        (Method::POST, "/info", 405),
        (Method::GET, "/echo/../control", 404),
        (Method::GET, "/nobody/info", 404),
    ] {
        let answer = send(&gateway, method, path, "").await;
        assert_eq!(answer.status(), status, "{path}");
        let allow = answer.headers().get("allow").cloned();
        assert_eq!(allow.is_some(), status == 405, "{path}: {allow:?}");
        assert!(json_of(answer).await["error"]["message"].is_string());
    }
    let climbing = raw(&gateway, "GET /echo/%2e%2E/control HTTP/1.1").await;
    assert!(climbing.starts_with("HTTP/1.1 400"), "{climbing}");
    let (_worker, gateway) = one_worker("all_routes: true").await;
    let answer = send(&gateway, Method::GET, "/fake/control", "").await;
    assert_eq!(answer.status(), 200);
    // These stay the gateway's own.
    let models = json_of(send(&gateway, Method::GET, "/v1/models", "").await).await;
    assert_eq!(models["data"][0]["owned_by"], "tidegate");
    let (_worker, gateway) = one_worker("builtin_routes: false").await;
    assert_eq!(send(&gateway, Method::GET, "/info", "").await.status(), 404);
}

#[tokio::test]
async fn a_request_reaches_the_worker_as_it_is_but_for_what_is_not_its_business() {
    let worker = fake_worker(Settings::default()).await;
    let server = format!("{SERVER}api_keys: [{{name: alice, sha256: {ALICE}}}]\n");
    let config = ConfigDir::new(&server).expect("config");
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &[worker.url()], ROUTES))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("a gateway");
    let url = format!("{}/fake/echo/a%20b?x=1&y=%2F", gateway.base_url);
    assert_eq!(
        client().get(&url).send().await.expect("an answer").status(),
        401
    );
    let answer = client()
        .get(&url)
        .bearer_auth("alice-secret-00001")
        .header("x-tidegate-endpoint", "fake")
        .header("x-mine", "stays")
        .header("connection", "x-hop")
        .header("x-hop", "goes")
        .timeout(PATIENCE)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    assert_eq!(headers["x-plain"], "passes");
    for private in ["x-tidegate-secret", "alt-svc", "x-hop"] {
        assert!(!headers.contains_key(private), "{private}: {headers:?}");
    }
    let seen = json_of(answer).await;
    assert_eq!(
        (&seen["path"], &seen["query"]),
        (&json!("/echo/a%20b"), &json!("x=1&y=%2F"))
    );
    let headers = &seen["headers"];
    assert_eq!(headers["x-mine"], "stays");
    assert_eq!(headers["host"], json!(worker.address().to_string()));
    for gone in [
        "authorization",
        "x-tidegate-endpoint",
        "x-hop",
        "connection",
    ] {
        assert_eq!(headers[gone], Value::Null, "{gone}: {seen}");
    }
    assert!(!seen.to_string().contains("alice-secret"), "{seen}");
}

#[tokio::test]
async fn bodies_of_every_size_and_framing_arrive_whole() {
    let (_worker, gateway) = one_worker(ROUTES).await;
    for length in [0, 1, 50_000, 65_536, 65_537, 70_000, 131_072, 1_000_000] {
        let body = bytes(length);
        let framings = [
            ("known", reqwest::Body::from(body.clone())),
            ("small chunks", chunked(&body, 1_000)),
            ("large chunks", chunked(&body, 60_000)),
        ];
        for (framing, sent) in framings {
            let answer = send(&gateway, Method::POST, "/echo", sent).await;
            assert_eq!(answer.status(), 200, "{length} {framing}");
            let seen = json_of(answer).await;
            assert_eq!(seen["body_bytes"], json!(length), "{length} {framing}");
            assert_eq!(
                seen["body_sum"],
                json!(body_sum(&body)),
                "{length} {framing}"
            );
        }
    }
    wait_nothing_in_flight(&gateway).await;
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_however_they_are_framed() {
    let worker = fake_worker(Settings::default()).await;
    let config = ConfigDir::new(&format!("{SERVER}max_body_bytes: 100KiB\n")).expect("config");
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &[worker.url()], ROUTES))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("a gateway");
    wait_fleet(&gateway, "a worker", |fleet| phases(fleet) == ["ready"]).await;
    let body = bytes(300_000);
    let known = send(&gateway, Method::POST, "/echo", body.clone()).await;
    assert_eq!(known.status(), 413);
    let unknown = send(&gateway, Method::POST, "/echo", chunked(&body, 10_000)).await;
    assert_eq!(unknown.status(), 413);
    assert_eq!(json_of(unknown).await["error"]["code"], "body_too_large");
    wait_nothing_in_flight(&gateway).await;
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable() {
    let (_worker, gateway) = one_worker(ROUTES).await;
    let client = client();
    for (method, path, status) in [
        (Method::HEAD, "/echo", 200),
        (Method::GET, "/status/204", 204),
        (Method::GET, "/status/304", 304),
        (Method::GET, "/status/418", 418),
        (Method::GET, "/status/503", 503),
    ] {
        for _ in 0..2 {
            let url = format!("{}{path}", gateway.base_url);
            let answer = client.request(method.clone(), url).timeout(PATIENCE).send();
            let answer = answer.await.expect("an answer");
            assert_eq!(answer.status(), status, "{method} {path}");
            let body = answer.text().await.expect("a whole body");
            let empty = method == Method::HEAD || status < 400;
            assert_eq!(body.is_empty(), empty, "{method} {path}: {body}");
        }
    }
}

#[tokio::test]
async fn redirects_of_a_worker_lead_back_through_the_gateway() {
    let (_worker, gateway) = one_worker(ROUTES).await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client");
    for (path, location) in [
        ("/redirect", "/echo?moved"),
        ("/fake/redirect", "/fake/echo?moved"),
    ] {
        let url = format!("{}{path}", gateway.base_url);
        let answer = client.get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), 302);
        assert_eq!(answer.headers()["location"], location);
    }
}

#[tokio::test]
async fn an_endpoint_is_named_by_path_by_header_or_by_the_model_in_a_body() {
    let (one, two) = (
        fake_worker(Settings::default()).await,
        fake_worker(Settings::default()).await,
    );
    let config = ConfigDir::new(SERVER).expect("config");
    for (name, worker) in [("one", &one), ("two", &two)] {
        config
            .write_endpoint(name, &fixed_endpoint(name, &[worker.url()], ROUTES))
            .expect("an endpoint file");
    }
    let gateway = Gateway::start(config).await.expect("a gateway");
    let host = |worker: &Worker| json!(worker.address().to_string());
    let asked = |path: &'static str, endpoint: Option<&'static str>, body: Value| {
        let mut call = client()
            .post(format!("{}{path}", gateway.base_url))
            .json(&body);
        if let Some(endpoint) = endpoint {
            call = call.header("x-tidegate-endpoint", endpoint);
        }
        async { call.timeout(PATIENCE).send().await.expect("an answer") }
    };
    for (path, endpoint, model, expect) in [
        ("/one/echo", None, "two", &one),
        ("/echo", Some("two"), "one", &two),
        ("/echo", None, "one", &one),
        ("/echo", None, "two", &two),
    ] {
        let answer = asked(path, endpoint, json!({"model": model})).await;
        let seen = json_of(answer).await;
        assert_eq!(
            seen["headers"]["host"],
            host(expect),
            "{path} {endpoint:?} {model}"
        );
    }
    for (endpoint, body) in [
        (None, json!({})),
        (None, json!({"model": "three"})),
        (Some("three"), json!({})),
    ] {
        let answer = asked("/echo", endpoint, body).await;
        assert_eq!(answer.status(), 404);
        let text = json_of(answer).await.to_string();
        assert!(text.contains("one") && text.contains("two"), "{text}");
    }
}

#[tokio::test]
async fn a_websocket_runs_both_ways_and_holds_its_worker_until_it_closes() {
    let (_worker, gateway) = one_worker("").await;
    let url = format!("{}/fake/ws", gateway.base_url.replace("http", "ws"));
    let (mut socket, answer) = tokio_tungstenite::connect_async(&url)
        .await
        .expect("a websocket");
    assert_eq!(answer.status(), 101);
    for n in 0..20 {
        let text = format!("message {n} {}", "x".repeat(n * 1_000));
        socket
            .send(Message::text(text.clone()))
            .await
            .expect("sent");
        let back = socket.next().await.expect("open").expect("a message");
        assert_eq!(back, Message::text(text));
    }
    let binary = Message::binary(bytes(200_000));
    socket.send(binary.clone()).await.expect("sent");
    assert_eq!(
        socket.next().await.expect("open").expect("a message"),
        binary
    );
    assert_eq!(in_flight(&fleet(&gateway).await), 1);
    socket.send(Message::text("close")).await.expect("sent");
    let end = socket.next().await.expect("a close").expect("a message");
    assert!(end.is_close(), "{end}");
    drop(socket);
    wait_nothing_in_flight(&gateway).await;
    // A client that just leaves frees the worker too, and one whose worker leaves is told by the end.
    let (socket, _) = tokio_tungstenite::connect_async(&url)
        .await
        .expect("a websocket");
    wait_fleet(&gateway, "it is held", |fleet| in_flight(fleet) == 1).await;
    drop(socket);
    wait_nothing_in_flight(&gateway).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(&url)
        .await
        .expect("a websocket");
    socket.send(Message::text("break")).await.expect("sent");
    let end = tokio::time::timeout(PATIENCE, socket.next())
        .await
        .expect("an end");
    assert!(end.is_none_or(|end| end.is_err()), "still open");
    wait_nothing_in_flight(&gateway).await;
}

#[tokio::test]
async fn a_websocket_on_which_nothing_comes_is_closed_in_time() {
    let (_worker, gateway) = one_worker("websocket_idle: 0.3").await;
    let url = format!("{}/ws", gateway.base_url.replace("http", "ws"));
    let (mut socket, _) = tokio_tungstenite::connect_async(&url)
        .await
        .expect("a websocket");
    let end = tokio::time::timeout(PATIENCE, socket.next())
        .await
        .expect("an end");
    assert!(end.is_none_or(|end| end.is_err()), "still open");
    wait_nothing_in_flight(&gateway).await;
}

#[tokio::test]
async fn upgrades_are_for_routes_that_say_so() {
    let (_worker, gateway) = one_worker(ROUTES).await;
    let url = format!("{}/echo", gateway.base_url.replace("http", "ws"));
    let request = url.into_client_request().expect("a request");
    let error = tokio_tungstenite::connect_async(request)
        .await
        .expect_err("no websocket");
    assert!(error.to_string().contains("200"), "{error}");
}

#[tokio::test]
async fn a_stop_waits_for_a_websocket_within_the_grace_period() {
    let (_worker, mut gateway) = one_worker("").await;
    let url = format!("{}/ws", gateway.base_url.replace("http", "ws"));
    let (mut socket, _) = tokio_tungstenite::connect_async(&url)
        .await
        .expect("a websocket");
    gateway
        .child
        .signal(rustix::process::Signal::TERM)
        .expect("signalled");
    for n in 0..5 {
        let text = Message::text(format!("still here {n}"));
        socket.send(text.clone()).await.expect("sent");
        let back = socket.next().await.expect("open").expect("a message");
        assert_eq!(back, text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    socket.close(None).await.expect("closed");
    let ended = gateway
        .child
        .wait_for_exit(PATIENCE)
        .await
        .expect("it ends");
    assert!(ended.success(), "{ended}");
}

/// Accepts and breaks every connection, but answers probes.
async fn broken_worker() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4_096];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                if head.starts_with("GET /health") || head.starts_with("GET /v1/models") {
                    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                    let _ = stream.write_all(ok).await;
                }
            });
        }
    });
    url
}

async fn beside_a_broken_one(more: &str) -> (Worker, Gateway) {
    let worker = fake_worker(Settings::default()).await;
    let urls = [broken_worker().await, worker.url()];
    let config = ConfigDir::new(SERVER).expect("config");
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &urls, more))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("a gateway");
    wait_fleet(&gateway, "both are ready", |fleet| {
        phases(fleet) == ["ready", "ready"]
    })
    .await;
    (worker, gateway)
}

#[tokio::test]
async fn another_worker_answers_for_one_that_broke_off_where_that_is_safe() {
    let routes = "routes:\n  - {path: /echo}\n  - {path: /echo/*, repeatable: true}\n";
    let (_worker, gateway) = beside_a_broken_one(routes).await;
    // Two at a time, so that one of them begins with the worker that breaks off.
    for n in 0..3 {
        let get = || send(&gateway, Method::GET, "/echo", "");
        let (one, other) = tokio::join!(get(), get());
        assert_eq!(
            (one.status(), other.status()),
            (StatusCode::OK, StatusCode::OK),
            "GET {n}"
        );
        // Larger than what Pingora would repeat by itself.
        let body = bytes(200_000);
        let post = || send(&gateway, Method::POST, "/echo/again", body.clone());
        let (one, other) = tokio::join!(post(), post());
        for answer in [one, other] {
            assert_eq!(answer.status(), 200, "repeatable POST {n}");
            assert_eq!(json_of(answer).await["body_sum"], json!(body_sum(&body)));
        }
    }
    let mut refused = 0;
    for _ in 0..3 {
        let post = || send(&gateway, Method::POST, "/echo", "x");
        let (one, other) = tokio::join!(post(), post());
        for answer in [one, other] {
            match answer.status().as_u16() {
                200 => {}
                502 => {
                    refused += 1;
                    assert_eq!(json_of(answer).await["error"]["code"], "upstream_failed");
                }
                other => panic!("{other}"),
            }
        }
    }
    assert!(refused > 0, "a POST that is not repeatable was sent twice");
    wait_nothing_in_flight(&gateway).await;
}

#[tokio::test]
async fn a_dead_worker_is_replaced_before_anything_is_sent() {
    let (one, two) = (
        fake_worker(Settings::default()).await,
        fake_worker(Settings::default()).await,
    );
    let gateway = fixed_gateway(&[&one, &two], &format!("{ROUTES}timeouts: {{probe: 5}}")).await;
    one.stop();
    for n in 0..10 {
        let body = chunked(&bytes(150_000), 10_000);
        let answer = send(&gateway, Method::POST, "/echo", body).await;
        assert_eq!(answer.status(), 200, "{n}");
        let seen = json_of(answer).await;
        assert_eq!(seen["body_sum"], json!(body_sum(&bytes(150_000))));
    }
    wait_nothing_in_flight(&gateway).await;
}

#[tokio::test]
async fn a_passed_request_waits_for_a_worker_as_any_other() {
    let gateway = local_gateway("inactivity_timeout: -1", "").await;
    let answer = send(&gateway, Method::GET, "/info", "").await;
    assert_eq!(answer.status(), 200);
    let config = ConfigDir::new(SERVER).expect("config");
    let nobody = "max_wait_time: 0.2";
    let url = "http://127.0.0.1:9".to_owned();
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &[url], nobody))
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("a gateway");
    let answer = send(&gateway, Method::GET, "/info", "").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(json_of(answer).await["error"]["code"], "unavailable");
}

#[tokio::test]
async fn one_connection_serves_request_after_request() {
    let (_worker, gateway) = one_worker(ROUTES).await;
    let address = gateway.base_url.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.expect("a connection");
    for n in 0..5 {
        let request = format!("GET /echo?n={n} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        let mut part = [0; 4_096];
        while !answer.contains("body_sum") || !answer.trim_end().ends_with('}') {
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut part));
            let read = read.await.expect("in time").expect("read");
            assert!(read > 0, "closed after {answer}");
            answer.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(&format!("n={n}")), "{answer}");
    }
}
