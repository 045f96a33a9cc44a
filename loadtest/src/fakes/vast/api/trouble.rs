//! What happens to an answer on its way.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fastrand::Rng;
use futures_util::stream;

use super::answer::Answer;
use crate::fakes::vast::chance::between;
use crate::fakes::vast::clock::Clock;
use crate::fakes::worker::connection::Breaker;

const HTML: &str = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>\n\
                    <body><center><h1>502 Bad Gateway</h1></center></body></html>\n";

#[derive(Clone, Debug)]
pub enum Trouble {
    None,
    /// 503 with JSON.
    Unavailable,
    /// 502, or 200, with a page.
    Html(StatusCode),
    /// 504 without a body.
    GatewayTimeout,
    /// The connection ends.
    Closed,
    /// Nothing for so long, then the connection ends.
    Hangs(Duration),
    Late(Duration),
    /// Half of the JSON.
    Half,
}

impl Trouble {
    pub fn down(rng: &mut Rng, clock: &Clock) -> Self {
        match rng.u8(..6) {
            0 => Trouble::Unavailable,
            1 => Trouble::Html(StatusCode::BAD_GATEWAY),
            2 => Trouble::Html(StatusCode::OK),
            3 => Trouble::Closed,
            4 => Trouble::Half,
            _ => Trouble::Hangs(clock.real(120.0)),
        }
    }

    /// What is done is not told.
    pub fn lost(rng: &mut Rng, clock: &Clock) -> Self {
        match rng.u8(..4) {
            0 => Trouble::Closed,
            1 => Trouble::GatewayTimeout,
            2 => Trouble::Half,
            _ => Trouble::Hangs(clock.real(120.0)),
        }
    }

    pub fn slow(rng: &mut Rng, clock: &Clock) -> Self {
        Trouble::Late(clock.real(between(rng, 2.0, 90.0)))
    }

    /// The call does not get as far as to take effect.
    pub fn prevents(&self) -> bool {
        matches!(
            self,
            Trouble::Unavailable | Trouble::Html(_) | Trouble::Closed | Trouble::Hangs(_)
        )
    }

    pub fn lets_through(&self) -> bool {
        matches!(self, Trouble::None | Trouble::Late(_))
    }

    pub async fn send(self, answer: Answer, breaker: &Breaker) -> Response {
        match self {
            Trouble::None => answer.into_response(),
            Trouble::Unavailable => Answer::unavailable().into_response(),
            Trouble::Html(status) => {
                (status, [("content-type", "text/html")], HTML).into_response()
            }
            Trouble::GatewayTimeout => StatusCode::GATEWAY_TIMEOUT.into_response(),
            Trouble::Half => answer.halved(),
            Trouble::Late(delay) => {
                tokio::time::sleep(delay).await;
                answer.into_response()
            }
            Trouble::Closed => broken(breaker).await,
            Trouble::Hangs(delay) => {
                tokio::time::sleep(delay).await;
                broken(breaker).await
            }
        }
    }
}

/// No byte of an answer: the connection ends first.
async fn broken(breaker: &Breaker) -> Response {
    let error = breaker.close().await;
    Body::from_stream(stream::iter([Err::<String, _>(error)])).into_response()
}
