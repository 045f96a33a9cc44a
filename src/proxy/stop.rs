//! Why a request ends without an answer of a worker, and what its client is told.

use bytes::Bytes;

use super::admit::NotAdmitted;
use super::client::ClientLeft;
use super::read_request::BodyError;
use super::respond::Refusal;
use crate::domain::{Api, WaitReason};
use crate::engines::{BadRequest, ErrorKind, message_of};
use crate::policy::retry::AttemptFailure;

/// How a request ended; the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    ClientError,
    /// Over a limit of its key.
    Limited,
    ClientLeft,
    /// Refused or timed out without a worker.
    NoWorker,
    /// Every attempt failed before the first byte.
    UpstreamFailed,
    /// Ended by an error event after the first byte.
    CutShort,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ClientError => "client_error",
            Outcome::Limited => "limited",
            Outcome::ClientLeft => "client_left",
            Outcome::NoWorker => "no_worker",
            Outcome::UpstreamFailed => "upstream_failed",
            Outcome::CutShort => "cut_short",
        }
    }
}

/// Why a request ends without an answer of a worker.
pub(super) enum Stop {
    Refused(Refusal, Outcome),
    /// A worker's own error, passed on.
    Answer {
        status: u16,
        body: Bytes,
    },
    ClientLeft,
    /// The client has a part of a stream, and nobody goes on with it.
    Broken {
        why: String,
        /// The engine's own word for it.
        event: Option<Bytes>,
    },
    /// The client reads a stream and was told there.
    Told(Outcome),
}

impl Stop {
    /// For requests that a worker sends away; seen only if nobody else can take them.
    pub(super) fn worker_taken(api: Api) -> Self {
        upstream_stop(
            api,
            AttemptFailure::Taken,
            "its worker was taken out of service",
        )
    }

    /// The same for a client that is reading a stream: what its error event says.
    pub(super) fn as_event(&self) -> Option<(ErrorKind, String)> {
        match self {
            Stop::Refused(refusal, _) => Some((refusal.kind, refusal.message.clone())),
            Stop::Answer { body, .. } => {
                let why = message_of(body).unwrap_or_else(|| "the worker failed".to_owned());
                Some((ErrorKind::UpstreamFailed, why))
            }
            Stop::Broken { why, .. } => Some((ErrorKind::UpstreamFailed, why.clone())),
            Stop::ClientLeft | Stop::Told(_) => None,
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Stop::Refused(_, outcome) => *outcome,
            Stop::Answer { status, .. } if *status < 500 => Outcome::ClientError,
            Stop::Answer { .. } => Outcome::UpstreamFailed,
            Stop::Broken { .. } => Outcome::CutShort,
            Stop::Told(outcome) => *outcome,
            Stop::ClientLeft => Outcome::ClientLeft,
        }
    }
}

impl From<ClientLeft> for Stop {
    fn from(_: ClientLeft) -> Self {
        Stop::ClientLeft
    }
}

pub(super) fn bad_request(api: impl Into<Option<Api>>, error: &BadRequest) -> Stop {
    let mut refusal = Refusal::new(api.into(), ErrorKind::BadRequest, error.message.clone());
    refusal.param = error.param;
    Stop::Refused(refusal, Outcome::ClientError)
}

pub(super) fn body_stop(api: impl Into<Option<Api>>, error: BodyError) -> Stop {
    let (kind, message) = match error {
        BodyError::TooLarge { bytes_max } => (
            ErrorKind::BodyTooLarge,
            format!("the body is larger than {bytes_max} bytes"),
        ),
        BodyError::TooSlow { limit } => (
            ErrorKind::RequestTimeout,
            format!("the body did not arrive within {} s", limit.as_secs_f64()),
        ),
        BodyError::Broken => return Stop::ClientLeft,
    };
    Stop::Refused(
        Refusal::new(api.into(), kind, message),
        Outcome::ClientError,
    )
}

pub(super) fn upstream_stop(
    api: impl Into<Option<Api>>,
    failure: AttemptFailure,
    why: &str,
) -> Stop {
    let kind = match failure {
        AttemptFailure::TimedOut => ErrorKind::UpstreamTimeout,
        _ => ErrorKind::UpstreamFailed,
    };
    let message = format!("no answer: {why}");
    Stop::Refused(
        Refusal::new(api.into(), kind, message),
        Outcome::UpstreamFailed,
    )
}

/// `last` is what the last worker said, if one was asked.
pub(super) fn not_admitted(
    api: impl Into<Option<Api>>,
    not: NotAdmitted,
    last: Option<Stop>,
) -> Stop {
    let api = api.into();
    let refuse = |kind, message: String| Refusal::new(api, kind, message);
    let refusal = match not {
        NotAdmitted::ClientLeft => return Stop::ClientLeft,
        NotAdmitted::AllTried => {
            return last.unwrap_or_else(|| {
                upstream_stop(api, AttemptFailure::Broken, "every worker was tried")
            });
        }
        NotAdmitted::RoomFull {
            retry_after,
            refusal,
        } => refuse(ErrorKind::Overloaded, refusal.in_words().to_owned()).retry_after(retry_after),
        NotAdmitted::WaitedTooLong { .. } if last.is_some() => {
            return last.unwrap_or(Stop::ClientLeft);
        }
        NotAdmitted::WaitedTooLong {
            reason,
            waited,
            retry_after,
        } => {
            let missed = match reason {
                WaitReason::NoneReady => "no worker was ready",
                WaitReason::AllBusy => "no worker became free",
            };
            let message = format!("{missed} within {:.1} s", waited.as_secs_f64());
            refuse(ErrorKind::Unavailable, message).retry_after(retry_after)
        }
        NotAdmitted::Closed => refuse(
            ErrorKind::Unavailable,
            "the endpoint or the gateway is going away".into(),
        ),
    };
    Stop::Refused(refusal, Outcome::NoWorker)
}
