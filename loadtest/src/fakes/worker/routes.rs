//! The worker's HTTP surface: from a request to a settled text, a place in the engine and an answer.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::answer::{Answer, Dialect};
use super::connection::Breaker;
use super::engine::{Engine, Job, Ticket};
use super::fault::{Control, Fault, Order};
use super::openai::{self, OpenAi};
use super::others;
use super::plan::{FaultPlan, length_of_user};
use super::text::{Context, Limits, Script};
use super::tgi::{self, Tgi};
use super::{CONTEXT_TOKENS_MAX, Settings};

const BODY_BYTES_MAX: usize = 64 << 20;

/// What all requests share.
pub struct Shared {
    pub settings: Settings,
    pub engine: Engine,
    pub control: Control,
    pub loaded_at: Instant,
    pub next_id: AtomicU64,
}

type Worker = State<Arc<Shared>>;

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(
            "/",
            post(|worker, call| generate(worker, call, TgiRoute::Root)),
        )
        .route(
            "/generate",
            post(|worker, call| generate(worker, call, TgiRoute::Generate)),
        )
        .route(
            "/generate_stream",
            post(|worker, call| generate(worker, call, TgiRoute::Stream)),
        )
        .route(
            "/v1/completions",
            post(|worker, call| complete(worker, call, false)),
        )
        .route(
            "/v1/chat/completions",
            post(|worker, call| complete(worker, call, true)),
        )
        .route("/v1/models", get(models))
        .route("/info", get(info))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/control", get(show_control).post(give_order))
        .merge(others::router())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// A request for text before its body is understood.
struct Call {
    headers: HeaderMap,
    breaker: Breaker,
    body: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let headers = request.headers().clone();
        let breaker = match request.extensions().get::<ConnectInfo<Breaker>>() {
            Some(ConnectInfo(breaker)) => breaker.clone(),
            None => Breaker::default(),
        };
        let body = Bytes::from_request(request, state).await;
        body.map(|body| Self {
            headers,
            breaker,
            body,
        })
        .map_err(IntoResponse::into_response)
    }
}

impl Call {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("cannot read the request: {error}"))
    }

    /// The header comes before the body, the body before standing orders.
    fn fault(&self, user: Option<&str>, shared: &Shared) -> Result<Option<Fault>, String> {
        let once_dir = shared.settings.once_dir.as_deref();
        if let Some(header) = self.headers.get("x-fault") {
            let text = header.to_str().map_err(|error| error.to_string())?;
            return text.parse::<FaultPlan>()?.take(once_dir);
        }
        match user.and_then(FaultPlan::of_user) {
            Some(plan) => plan?.take(once_dir),
            None => Ok(shared.control.take_fault()),
        }
    }
}

/// What a request asks for, whatever interface it came by.
struct Wish<'a> {
    context: Context,
    limits: Limits,
    fault: Option<Fault>,
    user: &'a str,
}

impl Shared {
    fn is_loading(&self) -> bool {
        Instant::now() < self.loaded_at
    }

    fn context_tokens(&self) -> u64 {
        let configured = self.settings.context_tokens.unwrap_or(CONTEXT_TOKENS_MAX);
        u64::from(configured).min(self.settings.law.kv_tokens)
    }

    fn read(&self, prompt: &str) -> Context {
        Context::new(self.settings.window).read(prompt)
    }

    /// Settles the text and takes a place in the engine.
    fn take_up(&self, wish: Wish) -> Result<(Script, Ticket), String> {
        let Wish {
            context,
            mut limits,
            fault,
            user,
        } = wish;
        if let Some(length) = length_of_user(user) {
            limits.max_tokens = length?;
        }
        let (prompt_tokens, room) = (context.tokens, self.context_tokens());
        if u64::from(prompt_tokens) + u64::from(limits.max_tokens) > room {
            return Err(format!(
                "{prompt_tokens} prompt tokens and {} new ones do not fit into {room}",
                limits.max_tokens
            ));
        }
        let script = Script::compose(context, &limits);
        let job = Job {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            prompt_tokens,
            length: script.length(),
            reserve: limits.max_tokens,
            stall_after: fault.and_then(Fault::stall_after),
            slowness: fault.map_or(1.0, Fault::slowness),
        };
        if self.settings.log {
            let (id, length) = (job.id, job.length);
            eprintln!("request {id}: {prompt_tokens} tokens in, {length} out, fault {fault:?}");
        }
        Ok((script, self.engine.submit(job, user)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TgiRoute {
    Root,
    Generate,
    Stream,
}

async fn generate(State(shared): Worker, call: Call, route: TgiRoute) -> Response {
    if shared.is_loading() {
        return loading();
    }
    match prepare_tgi(&shared, &call, route) {
        Ok(Prepared::Refused(status)) => tgi::error(status, "generation", "failed on purpose"),
        Ok(Prepared::Accepted { answer, streamed }) => answer.respond(streamed).await,
        Err(message) => tgi::invalid(&message),
    }
}

async fn complete(State(shared): Worker, call: Call, chat: bool) -> Response {
    if shared.is_loading() {
        return loading();
    }
    match prepare_openai(&shared, &call, chat) {
        Ok(Prepared::Refused(status)) => {
            openai::error(status, "InternalServerError", "failed on purpose")
        }
        Ok(Prepared::Accepted { answer, streamed }) => answer.respond(streamed).await,
        Err(message) => openai::invalid(&message),
    }
}

enum Prepared<D> {
    Accepted {
        answer: Box<Answer<D>>,
        streamed: bool,
    },
    Refused(StatusCode),
}

fn prepare_tgi(shared: &Shared, call: &Call, route: TgiRoute) -> Result<Prepared<Tgi>, String> {
    let request: tgi::Request = call.parse()?;
    let parameters = request.parameters.unwrap_or_default();
    if request.inputs.is_empty() {
        return Err("`inputs` must not be empty".into());
    }
    let max_tokens = parameters.max_new_tokens()?;
    let user = parameters.user.as_deref().or(request.user.as_deref());
    let fault = call.fault(user, shared)?;
    if let Some(status) = refusal(fault) {
        return Ok(Prepared::Refused(status));
    }
    let mut context = shared.read(&request.inputs);
    if let Some(most) = parameters
        .truncate
        .and_then(|most| u32::try_from(most).ok())
    {
        context.tokens = context.tokens.min(most);
    }
    let stop = parameters.stop.clone().unwrap_or_default();
    let limits = Limits {
        max_tokens,
        stop,
        eos_every: shared.settings.eos_every,
    };
    let prompt_tokens = context.tokens;
    let (script, ticket) = shared.take_up(Wish {
        context,
        limits,
        fault,
        user: user.unwrap_or_default(),
    })?;
    let streamed = match route {
        TgiRoute::Root => request.stream == Some(true),
        TgiRoute::Generate => false,
        TgiRoute::Stream => true,
    };
    let dialect = Tgi::new(
        route == TgiRoute::Root,
        prompt_tokens,
        request.inputs,
        &parameters,
    );
    Ok(accepted(dialect, script, ticket, fault, call, streamed))
}

fn prepare_openai(shared: &Shared, call: &Call, chat: bool) -> Result<Prepared<OpenAi>, String> {
    let mut request: openai::Request = call.parse()?;
    let prompt = if chat {
        request.conversation()?
    } else {
        request.prompt()?
    };
    let max_tokens = request.max_tokens()?;
    let fault = call.fault(request.user.as_deref(), shared)?;
    if let Some(status) = refusal(fault) {
        return Ok(Prepared::Refused(status));
    }
    let eos_every = shared
        .settings
        .eos_every
        .filter(|_| request.ignore_eos != Some(true));
    let limits = Limits {
        max_tokens,
        stop: request.stop(),
        eos_every,
    };
    let context = shared.read(&prompt);
    let prompt_tokens = context.tokens;
    let (script, ticket) = shared.take_up(Wish {
        context,
        limits,
        fault,
        user: request.user.as_deref().unwrap_or_default(),
    })?;
    request
        .model
        .get_or_insert_with(|| shared.settings.model.clone());
    let streamed = request.stream == Some(true);
    let number = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let dialect = OpenAi::new(chat, number, unix_seconds(), prompt_tokens, request);
    Ok(accepted(dialect, script, ticket, fault, call, streamed))
}

fn accepted<D: Dialect>(
    dialect: D,
    script: Script,
    ticket: Ticket,
    fault: Option<Fault>,
    call: &Call,
    streamed: bool,
) -> Prepared<D> {
    let answer = Answer {
        dialect,
        script,
        ticket,
        fault,
        breaker: call.breaker.clone(),
    };
    Prepared::Accepted {
        answer: Box::new(answer),
        streamed,
    }
}

fn refusal(fault: Option<Fault>) -> Option<StatusCode> {
    match fault {
        Some(Fault::Status(status)) => StatusCode::from_u16(status).ok(),
        _ => None,
    }
}

fn loading() -> Response {
    openai::error(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable_error",
        "loading the model",
    )
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

async fn health(State(shared): Worker) -> Response {
    if let Some(status) = shared
        .control
        .health()
        .and_then(|s| StatusCode::from_u16(s).ok())
    {
        return (status, Json(json!({ "status": "ordered" }))).into_response();
    }
    if shared.is_loading() {
        return loading();
    }
    Json(json!({ "status": "ok" })).into_response()
}

async fn info(State(shared): Worker) -> Response {
    let room = shared.context_tokens();
    let info = json!({
        "model_id": shared.settings.model, "model_sha": null, "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": shared.settings.law.max_batch, "max_best_of": 1,
        "max_stop_sequences": null, "max_input_tokens": room.saturating_sub(1),
        "max_total_tokens": room, "version": env!("CARGO_PKG_VERSION"), "router": "fake-worker",
    });
    Json(info).into_response()
}

async fn models(State(shared): Worker) -> Response {
    let model = json!({
        "id": shared.settings.model, "object": "model", "created": unix_seconds(),
        "owned_by": "fake-worker", "max_model_len": shared.context_tokens(),
    });
    Json(json!({ "object": "list", "data": [model] })).into_response()
}

async fn metrics(State(shared): Worker) -> Response {
    let figures = shared.engine.figures();
    let mut text = String::new();
    let mut line = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    };
    line(
        "fake_requests_running",
        "gauge",
        "Requests in the batch.",
        figures.running as f64,
    );
    line(
        "fake_requests_waiting",
        "gauge",
        "Requests before the batch.",
        figures.waiting as f64,
    );
    line(
        "fake_kv_tokens",
        "gauge",
        "Tokens held in the KV cache.",
        figures.kv_tokens as f64,
    );
    line(
        "fake_tokens_total",
        "counter",
        "Tokens emitted.",
        figures.tokens as f64,
    );
    line(
        "fake_prompt_tokens_total",
        "counter",
        "Prompt tokens worked through.",
        figures.prompt_tokens as f64,
    );
    line(
        "fake_iterations_total",
        "counter",
        "Engine iterations.",
        figures.iterations as f64,
    );
    line(
        "fake_busy_seconds_total",
        "counter",
        "Unscaled time of all iterations.",
        figures.busy_s,
    );
    ([("content-type", "text/plain; version=0.0.4")], text).into_response()
}

async fn show_control(State(shared): Worker) -> Response {
    Json(shared.control.show()).into_response()
}

async fn give_order(State(shared): Worker, body: Bytes) -> Response {
    let order = serde_json::from_slice::<Order>(&body).map_err(|error| error.to_string());
    match order.and_then(|order| shared.control.give(order)) {
        Ok(slowness) => {
            shared.engine.slow_down(slowness);
            Json(shared.control.show()).into_response()
        }
        Err(message) => {
            (StatusCode::BAD_REQUEST, Json(json!({ "error": message }))).into_response()
        }
    }
}
