//! Clients that are slow, greedy or sly, over raw sockets: each holds no more than it may, and others are served.

use std::net::SocketAddr;
use std::time::Duration;

use loadtest::fakes::worker::Settings;
use loadtest::harness::{ConfigDir, Gateway, wait_until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::eavesdropper::Eavesdropper;
use crate::support::*;

const GET: &str = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";

async fn gateway(server: &str) -> Gateway {
    let config = ConfigDir::new(&format!("{SERVER}{server}\n")).expect("a configuration");
    let nobody = ["http://127.0.0.1:1".to_owned()];
    config
        .write_endpoint("fake", &fixed_endpoint("fake", &nobody, ""))
        .expect("an endpoint file");
    Gateway::start(config).await.expect("the gateway starts")
}

fn address(gateway: &Gateway) -> SocketAddr {
    let url = gateway.base_url.strip_prefix("http://").expect("a URL");
    url.parse().expect("an address")
}

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(address(gateway))
        .await
        .expect("connected")
}

/// Sends text and reads until the connection ends; what an error cuts off is left out.
async fn ask(gateway: &Gateway, text: &str) -> String {
    let mut stream = connect(gateway).await;
    // The gateway may have turned away before all was sent.
    let _ = stream.write_all(text.as_bytes()).await;
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(ended.is_ok(), "the connection stays open after: {text}");
    text
}

/// One answer with a body of known length; the connection stays.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 65_536];
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.trim().parse().expect("a length"));
            if body.len() >= length {
                return text;
            }
        }
        let read = timeout(PATIENCE, stream.read(&mut bytes)).await;
        let read = read.expect("in time").expect("a whole answer");
        assert_ne!(read, 0, "ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

async fn counted(gateway: &Gateway, rule: &str) -> u64 {
    let url = format!("{}/metrics", gateway.admin_url);
    let metrics = client().get(url).send().await.expect("metrics");
    let line = format!("tidegate_clients_refused_total{{rule=\"{rule}\"}} ");
    let text = metrics.text().await.expect("text");
    text.lines()
        .find_map(|found| found.strip_prefix(&line))
        .map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test]
async fn a_header_that_comes_a_byte_at_a_time_is_not_waited_for() {
    let gateway = gateway("connections: {header_timeout: 0.5}").await;
    let drip = async |mut stream: TcpStream| {
        let (mut reader, mut writer) = stream.split();
        let began = Instant::now();
        let mut answer = Vec::new();
        tokio::select! {
            read = timeout(PATIENCE, reader.read_to_end(&mut answer)) => {
                assert!(read.is_ok(), "never closed");
            }
            () = async {
                for byte in GET.replace("a\r\n\r\n", &"a".repeat(10_000)).as_bytes() {
                    let _ = writer.write_all(&[*byte]).await;
                    sleep(Duration::from_millis(50)).await;
                }
            } => panic!("still reading after 500 s"),
        }
        assert!(began.elapsed() >= Duration::from_millis(400));
        let text = String::from_utf8_lossy(&answer).into_owned();
        // A byte that was on its way may have reset what was written last.
        assert!(text.is_empty() || status(&text) == Some(408), "{text}");
    };
    drip(connect(&gateway).await).await;
    let mut kept = connect(&gateway).await;
    kept.write_all(GET.as_bytes()).await.expect("sent");
    assert_eq!(status(&read_answer(&mut kept).await), Some(200));
    drip(kept).await;
    let silent = read_to_end(&mut connect(&gateway).await).await;
    assert!(
        silent.is_empty() || status(&silent) == Some(408),
        "{silent}"
    );
    assert_eq!(counted(&gateway, "header_timeout").await, 3);
    assert_eq!(status(&ask(&gateway, &close(GET)).await), Some(200));
}

/// The same request, and no other after it.
fn close(request: &str) -> String {
    request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let gateway = gateway("body_timeout: 0.3").await;
    let request = "POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{";
    let answer = ask(&gateway, request).await;
    assert_eq!(status(&answer), Some(408), "{answer}");
}

#[tokio::test]
async fn connections_are_limited_in_all_and_for_each_address() {
    for (limits, rule) in [
        ("connections: {max: 6}", "max_connections"),
        (
            "connections: {max_per_address: 6}",
            "max_connections_per_address",
        ),
    ] {
        let gateway = gateway(limits).await;
        let mut held = Vec::new();
        let refused = loop {
            let mut stream = connect(&gateway).await;
            stream.write_all(GET.as_bytes()).await.expect("sent");
            let answer = read_answer(&mut stream).await;
            if status(&answer) != Some(200) {
                break answer;
            }
            held.push(stream);
            assert!(held.len() <= 6, "{rule}: no limit");
        };
        assert_eq!(status(&refused), Some(503), "{refused}");
        assert!(refused.contains("retry-after"), "{refused}");
        assert!(counted(&gateway, rule).await >= 1);
        // Those that are in are served on.
        let kept = held.last_mut().expect("somebody is in");
        kept.write_all(GET.as_bytes()).await.expect("sent");
        assert_eq!(status(&read_answer(kept).await), Some(200));
        held.clear();
        let room = wait_until(PATIENCE, || async {
            status(&ask(&gateway, &close(GET)).await) == Some(200)
        })
        .await;
        assert!(room, "{rule}: places of those who left are not free");
    }
}

#[tokio::test]
async fn headers_and_uris_are_bounded() {
    let gateway =
        gateway("connections: {max_header_bytes: 4KiB, max_headers: 20, max_uri_bytes: 500}").await;
    let with = |field: &str| format!("GET /health HTTP/1.1\r\nHost: a\r\n{field}\r\n");
    let many: String = (0..30).map(|n| format!("A{n}: b\r\n")).collect();
    let long = format!("A: {}\r\n", "b".repeat(5_000));
    let endless = format!("A: {}\r\n", "b".repeat(2_000_000));
    let uri = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "u".repeat(600));
    for (request, expected) in [
        (with(&many), 431),
        (with(&long), 431),
        (uri, 414),
        (close(GET), 200),
    ] {
        let answer = ask(&gateway, &request).await;
        assert_eq!(status(&answer), Some(expected), "{answer}");
    }
    // So much that it is cut off while it comes; the answer may be lost with it.
    let answer = ask(&gateway, &with(&endless)).await;
    assert!(
        answer.is_empty() || status(&answer) == Some(431),
        "{answer}"
    );
    assert_eq!(counted(&gateway, "max_header_bytes").await, 2);
}

#[tokio::test]
async fn an_expectation_is_met_or_refused() {
    let gateway = gateway("").await;
    let post = |expect: &str| {
        format!(
            "POST /generate HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: {expect}\r\nContent-Length: 2\r\n\r\n"
        )
    };
    let mut stream = connect(&gateway).await;
    stream
        .write_all(post("100-continue").as_bytes())
        .await
        .expect("sent");
    let go_on = read_answer(&mut stream).await;
    assert_eq!(status(&go_on), Some(100), "{go_on}");
    stream.write_all(b"{}").await.expect("sent");
    let answer = read_to_end(&mut stream).await;
    assert_eq!(status(&answer), Some(422), "{answer}");
    let answer = ask(&gateway, &post("the-unexpected")).await;
    assert_eq!(status(&answer), Some(417), "{answer}");
}

/// Each is understood in two ways by two servers somewhere. None may be answered as a request, and none may hide
/// a second request that is.
#[tokio::test]
async fn requests_that_two_servers_could_read_differently_are_refused() {
    let gateway = gateway("").await;
    let hidden = "GET /health HTTP/1.1\r\nHost: hidden\r\n\r\n";
    let chunked = format!("0\r\n\r\n{hidden}");
    let post =
        |fields: &str, body: &str| format!("POST /generate HTTP/1.1\r\n{fields}\r\n\r\n{body}");
    for (what, request) in [
        (
            "equal lengths twice",
            post("Host: a\r\nContent-Length: 2\r\nContent-Length: 2", "{}"),
        ),
        (
            "a list of lengths",
            post("Host: a\r\nContent-Length: 2, 2", "{}"),
        ),
        (
            "two lengths",
            post("Host: a\r\nContent-Length: 2\r\nContent-Length: 3", "{}"),
        ),
        (
            "a length with a sign",
            post("Host: a\r\nContent-Length: +2", "{}"),
        ),
        (
            "a hexadecimal length",
            post("Host: a\r\nContent-Length: 0x2", "{}"),
        ),
        ("no host", post("Content-Length: 2", "{}")),
        (
            "two hosts",
            post("Host: a\r\nHost: b\r\nContent-Length: 2", "{}"),
        ),
        (
            "bare line feeds",
            "GET /health HTTP/1.1\nHost: a\n\n".to_owned(),
        ),
        (
            "one bare line feed",
            post("Host: a\r\nA: b\nContent-Length: 2", "{}"),
        ),
        (
            "a folded line",
            post("Host: a\r\nA: b\r\n c\r\nContent-Length: 2", "{}"),
        ),
        (
            "a blank before the colon",
            post("Host: a\r\nContent-Length : 2", "{}"),
        ),
        (
            "an unknown coding",
            post("Host: a\r\nTransfer-Encoding: gzip", &chunked),
        ),
        (
            "chunked, then another coding",
            post("Host: a\r\nTransfer-Encoding: chunked, identity", &chunked),
        ),
        (
            "chunked twice",
            post(
                "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                &chunked,
            ),
        ),
        (
            "chunked in HTTP/1.0",
            format!("POST /generate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        ),
        (
            "a null in a field",
            post("Host: a\r\nA: b\0c\r\nContent-Length: 2", "{}"),
        ),
        (
            "another host in the URI",
            "GET http://b/health HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            "a tunnel",
            "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n".to_owned(),
        ),
    ] {
        let answer = ask(&gateway, &request).await;
        let refused = status(&answer).is_some_and(|status| (400..=405).contains(&status));
        assert!(refused, "{what}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{what}: {answer:?}");
    }
    // Lengths of both kinds: the chunks count, and nothing after them is a request.
    let both = format!(
        "Host: a\r\nContent-Length: {}\r\nTransfer-Encoding: chunked",
        chunked.len()
    );
    let answer = ask(&gateway, &post(&both, &chunked)).await;
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer:?}");
    assert_eq!(
        status(&ask(&gateway, &close(GET)).await),
        Some(200),
        "still served"
    );
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_not_endlessly() {
    let gateway = gateway("connections: {max_requests: 3, idle_timeout: 1}").await;
    let mut stream = connect(&gateway).await;
    for left in [2, 1, 0] {
        stream.write_all(GET.as_bytes()).await.expect("sent");
        let answer = read_answer(&mut stream).await.to_ascii_lowercase();
        assert_eq!(answer.contains("connection: close"), left == 0, "{answer}");
    }
    assert_eq!(read_to_end(&mut stream).await, "");
    let mut idle = connect(&gateway).await;
    idle.write_all(GET.as_bytes()).await.expect("sent");
    read_answer(&mut idle).await;
    let began = Instant::now();
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "closed at once"
    );
}

/// The client reads nothing of a long stream: it gets no more than fits into buffers, and its worker is free again.
#[tokio::test]
async fn a_client_that_does_not_read_frees_its_worker() {
    let law = loadtest::fakes::worker::SpeedLaw::TINY;
    let settings = Settings {
        law: loadtest::fakes::worker::SpeedLaw {
            a_ms: 0.02,
            c_ms: 0.0,
            ..law
        },
        context_tokens: Some(1_000_000),
        ..Settings::default()
    };
    let worker = fake_worker(settings).await;
    let server = format!("{SERVER}connections: {{write_timeout: 1, send_buffer: 16KiB}}\n");
    let gateway = fixed_gateway_with(&server, &[&worker], "max_new_tokens: 1000000").await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut stream = socket.connect(address(&gateway)).await.expect("connected");
    let body = json!({"inputs": "a", "parameters": {"max_new_tokens": 900_000}}).to_string();
    let request = format!(
        "POST /generate_stream HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    wait_fleet(&gateway, "the worker generates", |fleet| {
        in_flight(fleet) == 1
    })
    .await;
    wait_fleet(&gateway, "the worker is given up on", |fleet| {
        in_flight(fleet) == 0
    })
    .await;
    let idle = wait_until(PATIENCE, || async { worker.figures().running == 0 }).await;
    assert!(idle, "the worker generates for nobody");
    let mut held = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut held))
        .await
        .expect("closed");
    assert!(
        !held.is_empty() && held.len() < 1 << 20,
        "{} bytes were held",
        held.len()
    );
}

#[tokio::test]
async fn headers_for_one_hop_are_not_passed_on() {
    let answered = "x-hop: worker\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\nconnection: x-hop\r\n";
    let worker = Eavesdropper::start(answered).await;
    let config = ConfigDir::new(SERVER).expect("a configuration");
    let endpoint = fixed_endpoint(
        "fake",
        std::slice::from_ref(&worker.url),
        "all_routes: true",
    );
    config
        .write_endpoint("fake", &endpoint)
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    wait_fleet(&gateway, "the worker is ready", |fleet| {
        phases(fleet) == ["ready"]
    })
    .await;
    for (method, path) in [("GET", "/anything"), ("POST", "/v1/completions")] {
        let body = match method {
            "POST" => json!({"model": "fake", "prompt": "hi", "max_tokens": 2}).to_string(),
            _ => String::new(),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: x-client-hop, close\r\nX-Client-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
             Proxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = ask(&gateway, &request).await.to_ascii_lowercase();
        assert_eq!(status(&answer.to_ascii_uppercase()), Some(200), "{answer}");
        for name in ["x-hop", "keep-alive", "proxy-authenticate"] {
            assert!(
                !answer.contains(&format!("\r\n{name}:")),
                "{path}: {answer}"
            );
        }
        let heard = worker.heard().to_ascii_lowercase();
        assert!(heard.contains(path), "{heard}");
        for name in [
            "x-client-hop",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "te",
        ] {
            assert!(
                !heard.contains(&format!("\r\n{name}:")),
                "{path}: {name} in {heard}"
            );
        }
    }
}
