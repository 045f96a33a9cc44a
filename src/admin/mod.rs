//! The admin port: metrics, health, the fleet, plans and why, reload.

mod books;
mod control;
mod fleet_view;
mod queries;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use self::books::{Explanation, explain};
pub use self::control::{ControlPath, NoLogs};
pub use self::queries::no_logs;
use crate::domain::Timestamp;
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::telemetry::{DecisionLog, Metrics, now};

/// What a reload did, or every mistake found.
pub type ReloadResult = Result<Reloaded, String>;

/// A configuration that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The names of those now configured.
    pub endpoints: Vec<String>,
    /// Settings that differ from those the gateway was started with and wait for the next start.
    pub at_next_start: Vec<&'static str>,
    /// Changes that the workers of now do not see.
    pub for_new_workers: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reloaded: {}", self.endpoints.join(", "))?;
        if !self.at_next_start.is_empty() {
            let keys = self.at_next_start.join(", ");
            write!(f, "\nneeds a restart or an upgrade: {keys}")?;
        }
        if !self.for_new_workers.is_empty() {
            let what = self.for_new_workers.join(", ");
            write!(f, "\nfor workers rented from now on: {what}")?;
        }
        Ok(())
    }
}

pub struct Admin {
    pub fleet: Arc<Fleet>,
    pub metrics: Arc<Metrics>,
    pub decisions: Arc<DecisionLog>,
    pub ledger: Arc<Ledger>,
    /// Needed by calls that change something; without one they are refused.
    pub token: Arc<ArcSwapOption<AdminToken>>,
    pub reload: Box<dyn Fn() -> ReloadResult + Send + Sync>,
    pub control: Box<dyn ControlPath>,
}

/// The admin token as it is kept: its hash.
pub struct AdminToken([u8; 32]);

impl AdminToken {
    pub fn new(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    fn opens(&self, authorization: &[u8]) -> bool {
        let Some((scheme, secret)) = authorization.split_at_checked(7) else {
            return false;
        };
        let hash: [u8; 32] = Sha256::digest(secret.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(self.0.ct_eq(&hash))
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const READ_ONLY: &str = "/metrics /healthz /readyz /fleet /decisions /plan /offers /spend /rentals /why/WORKER \
                         /logs/WORKER";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let authorization = session.get_header_bytes("authorization");
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/metrics") => self.metrics(),
            (&Method::GET, "/healthz") => answer(200, TEXT, "ok\n"),
            // Zero workers is ready: requests are held while the scaler starts one.
            (&Method::GET, "/readyz") if self.fleet.is_leaving() => answer(503, TEXT, "leaving\n"),
            (&Method::GET, "/readyz") => answer(200, TEXT, "ready\n"),
            (&Method::GET, "/fleet") => json(&fleet_view::of(&self.fleet, now())),
            (&Method::GET, "/decisions") => answer(200, JSON, self.decisions.recent_json()),
            (&Method::POST, "/reload") => self.guarded(authorization, || self.reload()),
            (_, "/reload") => answer(405, TEXT, "POST only\n"),
            (&Method::GET, path) => match self.query(path, head.uri.query().unwrap_or("")).await {
                Some(response) => response,
                None => answer(404, TEXT, format!("{READ_ONLY}, POST /reload\n")),
            },
            _ => answer(405, TEXT, format!("GET {READ_ONLY}, POST /reload\n")),
        }
    }
}

impl Admin {
    fn metrics(&self) -> Response<Vec<u8>> {
        fleet_view::set_gauges(&self.fleet, &self.metrics.fleet, now());
        match self.metrics.render() {
            Ok(body) => answer(200, METRICS, body),
            Err(error) => answer(500, TEXT, format!("{error}\n")),
        }
    }

    fn guarded(
        &self,
        authorization: &[u8],
        call: impl FnOnce() -> Response<Vec<u8>>,
    ) -> Response<Vec<u8>> {
        match &*self.token.load() {
            None => answer(
                403,
                TEXT,
                "no admin_token is configured: calls that change something are off\n",
            ),
            Some(token) if !token.opens(authorization) => {
                answer(401, TEXT, "Authorization: Bearer ADMIN_TOKEN is needed\n")
            }
            Some(_) => call(),
        }
    }

    fn reload(&self) -> Response<Vec<u8>> {
        match (self.reload)() {
            Ok(reloaded) => answer(200, TEXT, format!("{reloaded}\n")),
            Err(mistakes) => answer(
                422,
                TEXT,
                format!("{mistakes}\nthe old configuration stays\n"),
            ),
        }
    }
}

/// What `/fleet` answers.
pub fn fleet_json(fleet: &Fleet, now: Timestamp) -> serde_json::Value {
    serde_json::to_value(fleet_view::of(fleet, now)).unwrap_or_default()
}

fn json(value: &impl serde::Serialize) -> Response<Vec<u8>> {
    match serde_json::to_vec(value) {
        Ok(body) => answer(200, JSON, body),
        Err(error) => answer(500, TEXT, format!("{error}\n")),
    }
}

fn answer(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response<Vec<u8>> {
    let body = body.into();
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
    response
}
