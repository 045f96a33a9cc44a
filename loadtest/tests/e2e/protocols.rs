//! HTTP/1.1, HTTP/2 with and without TLS, and the certificate, by clients nobody here wrote.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use loadtest::fakes::worker::{Settings, Worker};
use loadtest::harness::{ConfigDir, Gateway, free_port, tidegate_binary, wait_until};
use reqwest::{Certificate, Client, ClientBuilder, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::*;

const TOKEN: &str = "an-admin-token-0001";

/// A gateway with a TLS listener, and what its clients have to trust.
struct Secured {
    gateway: Gateway,
    _worker: Worker,
    port: u16,
    folder: tempfile::TempDir,
}

impl Secured {
    async fn start(more: &str) -> Self {
        let worker = fake_worker(Settings::default()).await;
        let folder = tempfile::tempdir().expect("a directory");
        write_certificate(folder.path());
        let port = free_port().expect("a port");
        let config = ConfigDir::new(&format!(
            "{SERVER}admin_token: '${{TOKEN}}'\ntls: {{listen: '127.0.0.1:{port}', cert: '{0}/cert.pem', key: '{0}/key.pem'}}\n{more}\n",
            folder.path().display()
        ))
        .expect("a configuration");
        let endpoint = fixed_endpoint("fake", &[worker.url()], "");
        config
            .write_endpoint("fake", &endpoint)
            .expect("an endpoint file");
        let mut command = Command::new(tidegate_binary().expect("tidegate is built"));
        command.env("TOKEN", TOKEN);
        let gateway = Gateway::start_with(command, config)
            .await
            .expect("the gateway starts");
        wait_fleet(&gateway, "the worker is ready", |fleet| {
            phases(fleet) == ["ready"]
        })
        .await;
        Self {
            gateway,
            _worker: worker,
            port,
            folder,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    fn certificate(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("cert.pem")).expect("a certificate")
    }

    /// A client that trusts the certificate of this moment and nothing else.
    fn client(&self, more: impl Fn(ClientBuilder) -> ClientBuilder) -> Client {
        let trusted = Certificate::from_pem(&self.certificate()).expect("a certificate");
        // Installs the TLS provider.
        let _ = client();
        more(
            Client::builder()
                .no_proxy()
                .tls_certs_only([trusted])
                .timeout(PATIENCE),
        )
        .build()
        .expect("a client")
    }

    async fn reload(&self) -> u16 {
        let asked = client()
            .post(format!("{}/reload", self.gateway.admin_url))
            .bearer_auth(TOKEN);
        asked.send().await.expect("an answer").status().as_u16()
    }
}

fn write_certificate(folder: &Path) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    fs::write(folder.join("cert.pem"), made.cert.pem()).expect("written");
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
}

fn address(gateway: &Gateway) -> SocketAddr {
    let url = gateway.base_url.strip_prefix("http://").expect("a URL");
    url.parse().expect("an address")
}

/// A stream of 20 tokens, whole, over the expected version.
async fn check_stream(client: &Client, url: &str, version: Version) {
    let answer = client
        .post(url)
        .json(&chat(20, true))
        .send()
        .await
        .expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    let events = events(answer).await.expect("a whole stream");
    assert!(events.len() > 20, "{} events", events.len());
    assert_eq!(
        events.last().map(|event| event.data.as_str()),
        Some("[DONE]")
    );
}

#[tokio::test]
async fn tls_clients_get_the_version_they_negotiate() {
    let secured = Secured::start("").await;
    let url = secured.url("/v1/chat/completions");
    check_stream(&secured.client(|builder| builder), &url, Version::HTTP_2).await;
    check_stream(
        &secured.client(ClientBuilder::http1_only),
        &url,
        Version::HTTP_11,
    )
    .await;
    let nobody = Client::builder().no_proxy().build().expect("a client");
    let refused = nobody.get(secured.url("/health")).send().await;
    assert!(refused.is_err(), "a stranger's certificate was trusted");
}

#[tokio::test]
async fn the_plain_listener_speaks_http_1_and_http_2() {
    let worker = fake_worker(Settings::default()).await;
    let gateway = fixed_gateway(&[&worker], "").await;
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    let http2 = Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    check_stream(&http2, &url, Version::HTTP_2).await;
    check_stream(&client(), &url, Version::HTTP_11).await;
    // Many at once on one connection.
    let streams = (0..20).map(|_| check_stream(&http2, &url, Version::HTTP_2));
    futures_util::future::join_all(streams).await;
    // A request shorter than what HTTP/2 begins with.
    let mut short = TcpStream::connect(address(&gateway))
        .await
        .expect("connected");
    short
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = String::new();
    let read = timeout(PATIENCE, short.read_to_string(&mut answer)).await;
    read.expect("in time").expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 405") || answer.starts_with("HTTP/1.0 405"),
        "{answer}"
    );
}

#[tokio::test]
async fn curl_speaks_every_version_over_tls() {
    let secured = Secured::start("").await;
    if Command::new("curl").arg("--version").output().is_err() {
        println!("curl is not installed: not tried");
        return;
    }
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            flag,
            "-w",
            " %{http_code} %{http_version}",
            "--max-time",
            "30",
        ])
        .arg("--cacert")
        .arg(secured.folder.path().join("cert.pem"))
        .args([
            "-H",
            "content-type: application/json",
            "-d",
            &generate(3).to_string(),
        ])
        .arg(secured.url("/generate"));
        let output = tokio::task::spawn_blocking(move || curl.output())
            .await
            .expect("run")
            .expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.ends_with(&format!(" 200 {version}")), "{text}");
        assert!(text.contains("generated_text"), "{text}");
    }
}

#[tokio::test]
async fn a_reload_takes_a_new_certificate_and_refuses_a_broken_one() {
    let secured = Secured::start("").await;
    let old = secured.client(|builder| builder);
    let health = secured.url("/health");
    assert_eq!(
        old.get(&health).send().await.expect("an answer").status(),
        200
    );
    write_certificate(secured.folder.path());
    assert_eq!(secured.reload().await, 200);
    let new = secured.client(|builder| builder);
    assert_eq!(
        new.get(&health).send().await.expect("an answer").status(),
        200
    );
    let kept = old.get(&health).send().await;
    assert!(
        kept.is_ok_and(|answer| answer.status() == 200),
        "an open connection was cut"
    );
    let mut key = fs::File::create(secured.folder.path().join("key.pem")).expect("a file");
    key.write_all(b"not a key").expect("written");
    assert_eq!(secured.reload().await, 422);
    let again = new.get(&health).send().await.expect("an answer");
    assert_eq!(again.status(), 200, "the certificate there was is gone");
}

#[tokio::test]
async fn a_handshake_is_not_waited_for_and_nothing_else_is_served_there() {
    let secured = Secured::start("connections: {header_timeout: 0.5}").await;
    for bytes in [
        &b""[..],
        b"\x16\x03\x01",
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", secured.port))
            .await
            .expect("connected");
        stream.write_all(bytes).await.expect("sent");
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "still open after {bytes:?}");
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("HTTP/"), "{text}");
    }
}

#[tokio::test]
async fn an_idle_connection_of_http_2_is_closed_and_a_busy_one_is_not() {
    let worker = fake_worker(Settings::default()).await;
    let server = format!("{SERVER}connections: {{http2_idle_timeout: 0.3, idle_timeout: 0.5}}\n");
    let config = ConfigDir::new(&server).expect("a configuration");
    let endpoint = fixed_endpoint("fake", &[worker.url()], "");
    config
        .write_endpoint("fake", &endpoint)
        .expect("an endpoint file");
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    wait_fleet(&gateway, "the worker is ready", |fleet| {
        phases(fleet) == ["ready"]
    })
    .await;
    // The preface and empty settings, then nothing.
    let mut stream = TcpStream::connect(address(&gateway))
        .await
        .expect("connected");
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(begin).await.expect("sent");
    let mut frames = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut frames)).await;
    assert!(
        ended.is_ok() && frames.len() > 9,
        "an idle connection stays"
    );
    // A stream that takes longer than an idle connection may.
    let http2 = Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    let mut body = chat(10, true);
    body["user"] = serde_json::json!("fault:slow=100");
    let answer = http2
        .post(&url)
        .json(&body)
        .timeout(PATIENCE)
        .send()
        .await
        .expect("an answer");
    let events = events(answer).await.expect("a whole stream");
    assert_eq!(
        events.last().map(|event| event.data.as_str()),
        Some("[DONE]")
    );
    let closed = wait_until(Duration::from_secs(10), || async {
        let metrics = client()
            .get(format!("{}/metrics", gateway.admin_url))
            .send()
            .await;
        let text = metrics.expect("metrics").text().await.expect("text");
        text.lines().any(|line| line == "tidegate_connections 0")
    })
    .await;
    assert!(closed, "connections are counted that are gone");
}

#[tokio::test]
async fn a_client_of_http_2_that_does_not_read_frees_its_worker() {
    let worker = fake_worker(Settings::default()).await;
    let server = format!("{SERVER}connections: {{write_timeout: 1}}\n");
    let gateway = fixed_gateway_with(&server, &[&worker], "").await;
    let http2 = Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(4_096)
        .build()
        .expect("a client");
    let url = format!("{}/v1/chat/completions", gateway.base_url);
    let answer = http2.post(&url).json(&chat(50_000, true)).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200);
    wait_fleet(&gateway, "the worker is given up on", |fleet| {
        in_flight(fleet) == 0
    })
    .await;
    let idle = wait_until(PATIENCE, || async { worker.figures().running == 0 }).await;
    assert!(idle, "the worker generates for nobody");
    drop(answer);
}

#[tokio::test]
async fn no_request_fails_while_the_certificate_changes() {
    let secured = Secured::start("").await;
    // Trusts whoever is there: what is asked here is only whether requests fail.
    let careless = |builder: ClientBuilder| {
        builder
            .tls_danger_accept_invalid_certs(true)
            .pool_max_idle_per_host(0)
    };
    let client = secured.client(careless);
    let url = secured.url("/generate");
    let load = async {
        let mut served = 0;
        for _ in 0..60 {
            let answers = (0..3).map(|_| client.post(&url).json(&generate(3)).send());
            for answer in futures_util::future::join_all(answers).await {
                assert_eq!(answer.expect("an answer").status(), 200);
                served += 1;
            }
        }
        served
    };
    let change = async {
        for _ in 0..10 {
            write_certificate(secured.folder.path());
            assert_eq!(secured.reload().await, 200);
        }
    };
    let (served, ()) = tokio::join!(load, change);
    assert_eq!(served, 180);
}
