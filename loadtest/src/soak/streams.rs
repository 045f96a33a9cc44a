//! Thousands of slow streams at once: all complete, and what each costs the gateway in memory.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::interval;

use super::ask::Route;
use super::report::Section;
use super::stage::{fixed_endpoint, gateway_over};
use crate::harness::{FakeWorker, Gateway, http_client_without_pool};
use crate::replay::sse::SseReader;

/// Most a stream may cost the gateway.
const KB_PER_STREAM_MAX: f64 = 40.0;

/// Thousands of slow streams at once
#[derive(Args, Clone, Debug)]
pub struct StreamsOptions {
    #[arg(long, default_value_t = 9_000)]
    pub count: usize,
    /// Tokens of each, one a second
    #[arg(long, default_value_t = 90)]
    pub tokens: u32,
    /// New streams a second
    #[arg(long, default_value_t = 300)]
    pub per_second: u64,
    #[arg(long, default_value_t = 4)]
    pub workers: usize,
    /// Milliseconds between two tokens
    #[arg(long, default_value_t = 1_000)]
    pub token_ms: u32,
}

impl Default for StreamsOptions {
    fn default() -> Self {
        Self {
            count: 9_000,
            tokens: 90,
            per_second: 300,
            workers: 4,
            token_ms: 1_000,
        }
    }
}

#[derive(Default)]
pub struct Findings {
    options: StreamsOptions,
    pub complete: usize,
    failures: Vec<String>,
    pub open_max: usize,
    idle_kb: u64,
    full_kb: u64,
    after_kb: u64,
    took: Duration,
}

pub async fn run(options: &StreamsOptions) -> Result<Findings> {
    let folder = tempfile::tempdir()?;
    let token_ms = options.token_ms.to_string();
    let mut workers = Vec::new();
    for _ in 0..options.workers {
        let flags = ["--a-ms", &token_ms, "--c-ms", "0", "--k-ms", "0"];
        workers.push(FakeWorker::start(&flags, folder.path()).await?);
    }
    let urls: Vec<String> = workers.iter().map(|worker| worker.url.clone()).collect();
    let endpoint = fixed_endpoint(&urls, "max_queue_time: 86400\n");
    let gateway = gateway_over(&endpoint, "", urls.len()).await?;
    // Whatever is set up once is set up by now.
    let open = Arc::new(AtomicUsize::new(0));
    let few: Vec<Result<()>> = crowd(&gateway, 20, options.per_second, 2, &open).await?.0;
    few.into_iter()
        .collect::<Result<Vec<()>>>()
        .context("the first few")?;
    let mut findings = Findings {
        options: options.clone(),
        idle_kb: resident_kb(&gateway)?,
        ..Findings::default()
    };
    let began = Instant::now();
    let (ends, open_max, full_kb) = crowd(
        &gateway,
        options.count,
        options.per_second,
        options.tokens,
        &open,
    )
    .await?;
    findings.took = began.elapsed();
    (findings.open_max, findings.full_kb) = (open_max, full_kb);
    findings.after_kb = resident_kb(&gateway)?;
    for end in ends {
        match end {
            Ok(()) => findings.complete += 1,
            Err(error) => findings.failures.push(format!("{error:#}")),
        }
    }
    Ok(findings)
}

/// Opens streams at a pace and hears all of them to their ends; also most open at once, and the gateway's memory then.
async fn crowd(
    gateway: &Gateway,
    count: usize,
    per_second: u64,
    tokens: u32,
    open: &Arc<AtomicUsize>,
) -> Result<(Vec<Result<()>>, usize, u64)> {
    let client = http_client_without_pool()?;
    let mut clients = JoinSet::new();
    let mut pace = interval(Duration::from_secs_f64(1.0 / per_second.max(1) as f64));
    for nth in 0..count {
        pace.tick().await;
        let route = Route::STREAMED[nth % Route::STREAMED.len()];
        let body = route.body("a river", tokens).to_string();
        let request = client
            .post(format!("{}{}", gateway.base_url, route.path()))
            .header("content-type", "application/json")
            .body(body);
        let open = Arc::clone(open);
        clients.spawn(async move { hear(request, tokens, &open).await });
    }
    let (mut ends, mut open_max, mut full_kb) = (Vec::new(), 0, 0);
    let mut looks = interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            end = clients.join_next() => match end {
                Some(end) => ends.push(end.context("a client of the test panicked")?),
                None => return Ok((ends, open_max, full_kb)),
            },
            _ = looks.tick() => {
                let now = open.load(Ordering::Relaxed);
                if now >= open_max {
                    (open_max, full_kb) = (now, full_kb.max(resident_kb(gateway)?));
                }
            }
        }
    }
}

/// Counts itself as open from the first event to the last.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps no more than the last event.
async fn hear(request: reqwest::RequestBuilder, tokens: u32, open: &AtomicUsize) -> Result<()> {
    let answer = request.send().await?.error_for_status()?;
    let mut pieces = answer.bytes_stream();
    let mut reader = SseReader::default();
    let (mut heard, mut last, mut counted) = (0, String::new(), None);
    while let Some(piece) = pieces.next().await {
        for event in reader.push(&piece?).ok().context("a line without end")? {
            counted.get_or_insert_with(|| Open::new(open));
            ensure!(!event.contains("\"error\""), "{event}");
            heard += 1;
            last = event;
        }
    }
    if last != "[DONE]" && !last.contains("\"generated_text\":\"") {
        bail!("ends with {last:?} after {heard} events");
    }
    ensure!(heard >= tokens, "{heard} events for {tokens} tokens");
    Ok(())
}

/// Of the gateway's process.
fn resident_kb(gateway: &Gateway) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.child.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .context("no resident size in /proc")
}

impl Findings {
    pub fn kb_per_stream(&self) -> f64 {
        self.full_kb.saturating_sub(self.idle_kb) as f64 / self.open_max.max(1) as f64
    }

    pub fn section(&self) -> Section {
        let options = &self.options;
        let mut text = format!(
            "{} streams of {} tokens, one every {} ms, over {} stand-in workers; {} were open at once, {} complete. {:.0} s.\n\n",
            options.count,
            options.tokens,
            options.token_ms,
            options.workers,
            self.open_max,
            self.complete,
            self.took.as_secs_f64(),
        );
        let _ = write!(
            text,
            "| resident memory of the gateway | KB |\n|---|---|\n| before | {} |\n| with all streams open | {} |\n\
             | after | {} |\n| **for each stream** | **{:.1}** (aim 25, limit {KB_PER_STREAM_MAX}) |\n",
            self.idle_kb,
            self.full_kb,
            self.after_kb,
            self.kb_per_stream(),
        );
        let mut complaints = Vec::new();
        if self.complete < options.count {
            let shown: Vec<&String> = self.failures.iter().take(5).collect();
            complaints.push(format!("{} streams failed: {shown:?}", self.failures.len()));
        }
        if self.open_max < options.count {
            complaints.push(format!("only {} streams were open at once", self.open_max));
        }
        if self.kb_per_stream() > KB_PER_STREAM_MAX {
            complaints.push(format!("{:.1} KB for each stream", self.kb_per_stream()));
        }
        Section {
            title: "Slow streams at once".to_owned(),
            command: format!(
                "loadtest soak streams --count {} --tokens {} --per-second {} --workers {} --token-ms {}",
                options.count,
                options.tokens,
                options.per_second,
                options.workers,
                options.token_ms
            ),
            text,
            complaints,
        }
    }
}
