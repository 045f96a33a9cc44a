//! Measuring a new worker before it serves: one request alone, then as many at once as its group is stated for, over
//! the connection that will carry its requests. The result is the beginning of its live speed estimate.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::domain::{Api, BenchmarkResult, BenchmarkSettings, RequestLimits, TokensPerSecond};
use crate::engines::{self, AnswerReader, Exchange, JsonObject};
use crate::fleet::{Contact, Worker};
use crate::telemetry::now;

/// The part of the time that the request alone may take.
const ALONE_SHARE: u32 = 3;
/// Fewer tokens in all tell nothing.
const TOKENS_MIN: u64 = 8;
/// A made-up prompt has about three words for every four tokens.
const WORDS_PER_TOKEN: f64 = 0.75;
const WORDS: [&str; 12] = [
    "river", "engine", "morning", "copper", "signal", "harbour", "window", "garden", "letter",
    "shadow", "market", "bridge",
];

/// What one stream brought after its first token, and for how long.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    tokens: u64,
    flowing: Duration,
    first_token: Option<Duration>,
    failed: bool,
}

/// `None` where the worker answered too little to be measured.
pub(super) async fn run(
    client: &reqwest::Client,
    worker: &Worker,
    contact: &Contact,
    settings: &BenchmarkSettings,
) -> Option<BenchmarkResult> {
    let begun = Instant::now();
    let deadline = begun + settings.length;
    let asker = Asker {
        client,
        worker,
        contact,
        settings,
    };
    let concurrency = settings
        .concurrency
        .unwrap_or(worker.spec.speed_prior.concurrency)
        .max(1);
    let first = asker.exchange(0)?;
    let alone = stream(
        asker.request(&first),
        first,
        begun + settings.length / ALONE_SHARE,
    )
    .await;
    let streams = asker.all_at_once(concurrency, deadline).await?;

    let sum = |of: fn(&Stream) -> f64| streams.iter().map(of).sum::<f64>();
    let tokens: u64 = streams.iter().map(|stream| stream.tokens).sum();
    let flowing_s = sum(|stream| stream.flowing.as_secs_f64());
    let failed = streams.iter().filter(|stream| stream.failed).count();
    if tokens < TOKENS_MIN || flowing_s <= 0.0 || failed * 2 > streams.len() {
        return None;
    }
    let each = tokens as f64 / flowing_s;
    Some(BenchmarkResult {
        at: now(),
        tokens_per_second: TokensPerSecond(each * f64::from(concurrency)),
        concurrency,
        tokens_per_second_alone: rate(&alone).map(TokensPerSecond),
        first_token_s: alone.first_token.map(|time| time.as_secs_f64()),
        output_tokens: tokens + alone.tokens,
        failed_requests: failed as u32 + u32::from(alone.failed),
        took_s: begun.elapsed().as_secs_f64(),
    })
}

fn rate(stream: &Stream) -> Option<f64> {
    let flowing_s = stream.flowing.as_secs_f64();
    (stream.tokens >= TOKENS_MIN && flowing_s > 0.0).then(|| stream.tokens as f64 / flowing_s)
}

struct Asker<'a> {
    client: &'a reqwest::Client,
    worker: &'a Worker,
    contact: &'a Contact,
    settings: &'a BenchmarkSettings,
}

impl Asker<'_> {
    async fn all_at_once(&self, concurrency: u32, deadline: Instant) -> Option<Vec<Stream>> {
        let mut asked = JoinSet::new();
        for n in 0..concurrency {
            let exchange = self.exchange(1 + n)?;
            asked.spawn(stream(self.request(&exchange), exchange, deadline));
        }
        Some(asked.join_all().await)
    }

    /// The `n`th request in the language of the worker's engine; each has another beginning, so that no prefix cache
    /// answers for the GPU.
    fn exchange(&self, n: u32) -> Option<Exchange> {
        let own = &self.settings.prompts;
        let prompt = match own.get(n as usize % own.len().max(1)) {
            Some(prompt) => prompt.clone(),
            None => made_up(self.worker.id().as_str(), n, self.settings.prompt_tokens),
        };
        let output = self.settings.output_tokens;
        let body = serde_json::json!({
            "inputs": prompt,
            "parameters": {"max_new_tokens": output},
        });
        let limits = RequestLimits {
            max_new_tokens: output,
        };
        let body = JsonObject::parse(Bytes::from(body.to_string())).ok()?;
        let call = engines::read_call(Api::GenerateStream, body, &limits).ok()?;
        let model = self.contact.served_model.as_deref();
        engines::exchange(self.worker.spec.engine, &call, model).ok()
    }

    fn request(&self, exchange: &Exchange) -> reqwest::RequestBuilder {
        let url = format!("http://{}{}", self.contact.address, exchange.path);
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .body(exchange.body.clone());
        match &self.contact.api_key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }
}

fn made_up(worker: &str, n: u32, tokens: u32) -> String {
    let words = (f64::from(tokens) * WORDS_PER_TOKEN) as usize;
    let mut prompt =
        format!("{n} {worker}: write a very long story with all of these words in it.");
    for i in 0..words {
        prompt.push(' ');
        prompt.push_str(WORDS[(i * 7 + n as usize) % WORDS.len()]);
    }
    prompt
}

/// Reads one answer until it ends or the time is over; what had come by then counts.
async fn stream(
    request: reqwest::RequestBuilder,
    mut exchange: Exchange,
    deadline: Instant,
) -> Stream {
    let mut seen = Stream::default();
    let asked = Instant::now();
    let read = read(request, &mut exchange.answer, asked, &mut seen);
    if timeout_at(deadline, read).await == Ok(None) {
        seen.failed = true;
    }
    if seen.first_token.is_none() {
        seen.failed = true;
    }
    seen
}

async fn read(
    request: reqwest::RequestBuilder,
    answer: &mut AnswerReader,
    asked: Instant,
    seen: &mut Stream,
) -> Option<()> {
    let mut response = request.send().await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    while let Some(chunk) = response.chunk().await.ok()? {
        let steps = answer.push(chunk).ok()?;
        let tokens: u64 = steps.iter().map(|step| u64::from(step.tokens)).sum();
        let at = asked.elapsed();
        match seen.first_token {
            // What comes with the first token was made before it.
            None if tokens > 0 => seen.first_token = Some(at),
            None => {}
            Some(first) if tokens > 0 => {
                seen.tokens += tokens;
                seen.flowing = at - first;
            }
            Some(_) => {}
        }
        if answer.is_over() {
            break;
        }
    }
    answer.finish().engine_error.is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_prompts_begin_differently_and_are_about_as_long_as_asked() {
        let (one, other) = (made_up("w", 1, 400), made_up("w", 2, 400));
        assert_ne!(one[..3], other[..3]);
        let words = one.split(' ').count();
        assert!((300..330).contains(&words), "{words}");
    }
}
