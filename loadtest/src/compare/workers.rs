//! The stand-in engines behind the proxies: they answer what a prompt orders, at once and with next to no work of their
//! own, so that what is measured is the proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::case::{Answer, Order};
use super::stamp::{self, Stamp};
use super::wire::{Framing, Head, Kind, Wire};
use crate::harness::wait_until;

const WHOLE: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":0,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":" seven stones lie under the quiet river and turn north"},"finish_reason":"length"}],"usage":{"prompt_tokens":200,"completion_tokens":10,"total_tokens":210}}"#;
const MODELS: &str =
    r#"{"object":"list","data":[{"id":"bench","object":"model","created":0,"owned_by":"bench"}]}"#;
const DONE: &str = "data: [DONE]\n\n";
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
     transfer-encoding: chunked\r\n\r\n";
const LAST_CHUNK: &str = "0\r\n\r\n";

/// Where an order is found: it begins the first message. Longer bodies are read and not kept.
const KEPT_BYTES: usize = 4 << 10;

/// Engines in this process; they end with their handle.
pub(super) struct Workers {
    pub ports: Vec<u16>,
    open: Arc<AtomicUsize>,
    serving: Vec<AbortHandle>,
}

impl Workers {
    pub async fn start(count: usize) -> Result<Self> {
        let open = Arc::new(AtomicUsize::new(0));
        let (mut ports, mut serving) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            ports.push(listener.local_addr()?.port());
            let accepting = tokio::spawn(accept(listener, Arc::clone(&open)));
            serving.push(accepting.abort_handle());
        }
        Ok(Self {
            ports,
            open,
            serving,
        })
    }

    /// Waits until no stream is open: the next measurement starts with nothing, and the proxy has let go of left streams.
    pub async fn wait_idle(&self, limit: Duration) -> Result<()> {
        let idle = || std::future::ready(self.open.load(Relaxed) == 0);
        ensure!(
            wait_until(limit, idle).await,
            "{} streams are open at the workers {limit:?} after all clients left",
            self.open.load(Relaxed)
        );
        Ok(())
    }

    pub fn open_streams(&self) -> usize {
        self.open.load(Relaxed)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.serving.iter().for_each(AbortHandle::abort);
    }
}

async fn accept(listener: TcpListener, open: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            if let Ok(wire) = Wire::new(stream) {
                // Proxies end connections in every way there is; a measurement counts what its clients got.
                let _ = serve(wire, open).await;
            }
        });
    }
}

async fn serve(mut wire: Wire, open: Arc<AtomicUsize>) -> Result<()> {
    while let Some(head) = wire.head(Kind::Request).await? {
        if head.expects_continue {
            wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let order = read_order(&mut wire, head.framing).await?;
        match order {
            Some(Order(Answer::Stream { tokens, gap })) => {
                stream(&mut wire, tokens, gap, &open).await?;
            }
            Some(Order(Answer::Whole)) => wire.write(object("200 OK", WHOLE).as_bytes()).await?,
            None => wire.write(plain_answer(&head).as_bytes()).await?,
        }
        if head.closes {
            break;
        }
    }
    Ok(())
}

async fn read_order(wire: &mut Wire, framing: Framing) -> Result<Option<Order>> {
    let mut kept = Vec::new();
    wire.body(framing, |piece| {
        let room = KEPT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..room.min(piece.len())]);
    })
    .await?;
    Ok(Order::read(&kept))
}

/// What routers ask of an engine by themselves.
fn plain_answer(head: &Head) -> String {
    match head.method_and_path.as_str() {
        "GET /v1/models" => object("200 OK", MODELS),
        "GET /health" => object("200 OK", "{}"),
        _ => object("404 Not Found", "{}"),
    }
}

fn object(status: &str, json: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    )
}

/// Counts a stream as open until it is dropped.
struct OpenStream<'c>(&'c AtomicUsize);

impl<'c> OpenStream<'c> {
    fn new(open: &'c AtomicUsize) -> Self {
        open.fetch_add(1, Relaxed);
        Self(open)
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

async fn stream(wire: &mut Wire, tokens: u32, gap: Duration, open: &AtomicUsize) -> Result<()> {
    let _open = OpenStream::new(open);
    let mut out = STREAM_HEAD.to_owned();
    let begin = Instant::now();
    for token in 0..tokens {
        push_chunk(&mut out, &stamp::event(Stamp::now()));
        if gap.is_zero() {
            continue;
        }
        wire.write(out.as_bytes()).await?;
        out.clear();
        if token + 1 < tokens {
            tokio::select! {
                () = sleep_until(begin + gap * (token + 1)) => {}
                // Nobody listens any more: no event is made for nobody.
                () = wire.closed() => return Ok(()),
            }
        }
    }
    push_chunk(&mut out, DONE);
    out.push_str(LAST_CHUNK);
    wire.write(out.as_bytes()).await?;
    Ok(())
}

fn push_chunk(out: &mut String, data: &str) {
    use std::fmt::Write;
    // Writing to a string cannot fail.
    let _ = write!(out, "{:x}\r\n{data}\r\n", data.len());
}
