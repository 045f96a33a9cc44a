//! What inference engines speak: their routes, what a request becomes for each of them, and how their answers are
//! read, counted and, where the client called another API, translated. No sockets: bytes in, bytes out.

mod answer;
mod call;
mod errors;
mod fake;
mod generate;
mod json;
mod llamacpp;
mod obstacle;
mod openai;
mod openai_chunk;
mod prefix;
mod prompt;
mod resume;
mod routes;
mod seam;
mod sse;
#[cfg(test)]
mod tests;
mod tgi;
mod transcript;
mod translate;
mod vllm;

use bytes::Bytes;

pub use answer::{AnswerReader, Ending, ReadError, Step};
pub use call::{BadRequest, Call, peek_model, read_call};
pub use errors::{
    ErrorKind, error_body, message_of, status_for, stream_error_event, translate_error,
};
pub use json::{JsonError, JsonObject};
pub use resume::{can_go_on, end_at_limit, is_at_limit, resume};
pub use routes::builtin_routes;
pub use sse::{EVENT_BYTES_MAX, EventSplitter, EventTooLong, Events, event_data};
pub use transcript::Transcript;

use crate::domain::{Api, EngineKind};

/// A call as one engine is asked it, and the reader of what it answers.
#[derive(Debug)]
pub struct Exchange {
    pub path: &'static str,
    pub body: Bytes,
    pub answer: AnswerReader,
}

/// Answers 200 once the engine can serve.
pub fn health_path(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Tgi | EngineKind::Vllm | EngineKind::LlamaCpp | EngineKind::Fake => "/health",
    }
}

/// Lists what the engine serves, if it has such a route.
pub fn models_path(engine: EngineKind) -> Option<&'static str> {
    match engine {
        EngineKind::Tgi => None,
        EngineKind::Vllm | EngineKind::LlamaCpp | EngineKind::Fake => Some("/v1/models"),
    }
}

pub fn engine_name(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Tgi => "tgi",
        EngineKind::Vllm => "vllm",
        EngineKind::LlamaCpp => "llamacpp",
        EngineKind::Fake => "fake",
    }
}

/// Whether `exchange` may refuse a valid call of this interface: only where it has to translate.
pub fn may_refuse(engine: EngineKind, api: Api) -> bool {
    match engine {
        EngineKind::Tgi | EngineKind::Fake => false,
        EngineKind::Vllm | EngineKind::LlamaCpp => api.is_tgi(),
    }
}

/// What to send to a worker for this call. `served_model` is the name the worker's engine knows its model by.
/// Fails if the engine cannot do what is asked; the error is the client's to see.
pub fn exchange(
    engine: EngineKind,
    call: &Call,
    served_model: Option<&str>,
) -> Result<Exchange, BadRequest> {
    let mut exchange = first_exchange(engine, call, served_model)?;
    // Whoever goes on with it keeps to the first one's.
    exchange.answer.transcript.budget = resume::budget(engine, call);
    Ok(exchange)
}

fn first_exchange(
    engine: EngineKind,
    call: &Call,
    served_model: Option<&str>,
) -> Result<Exchange, BadRequest> {
    let Some(parameters) = &call.generate else {
        return openai::exchange(engine, call, served_model);
    };
    match engine {
        EngineKind::Tgi => Ok(tgi::exchange(engine, call)),
        EngineKind::Fake => Ok(fake::exchange(call)),
        EngineKind::LlamaCpp => {
            translate::exchange(&llamacpp::LlamaCpp, engine, call, parameters, None)
        }
        EngineKind::Vllm => {
            translate::exchange(&vllm::Vllm, engine, call, parameters, served_model)
        }
    }
}
