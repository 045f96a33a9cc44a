//! What is known of a request before it is sent to a worker.

use serde::{Deserialize, Serialize};

use super::{ClientKey, Tokens};

/// The interface a client called; decides the shape of answers and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// TGI `POST /generate`: one object.
    Generate,
    /// TGI `POST /generate_stream`: always a stream.
    GenerateStream,
    /// TGI `POST /`: `stream` selects; unstreamed answers are a list of one.
    TgiRoot,
    /// OpenAI `POST /v1/completions`.
    Completions,
    /// OpenAI `POST /v1/chat/completions`.
    ChatCompletions,
}

impl Api {
    pub const ALL: [Api; 5] = [
        Api::Generate,
        Api::GenerateStream,
        Api::TgiRoot,
        Api::Completions,
        Api::ChatCompletions,
    ];

    pub fn is_tgi(self) -> bool {
        matches!(self, Api::Generate | Api::GenerateStream | Api::TgiRoot)
    }

    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Api::Generate => "generate",
            Api::GenerateStream => "generate_stream",
            Api::TgiRoot => "tgi_root",
            Api::Completions => "completions",
            Api::ChatCompletions => "chat_completions",
        }
    }
}

/// The features of a request that a cost prediction may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestShape {
    pub api: Api,
    pub client: ClientKey,
    pub streamed: bool,
    /// Bytes of prompt text.
    pub prompt_bytes: usize,
    /// What the request asks for at most, all choices together.
    pub max_new_tokens: Option<u32>,
}

/// The work a request is expected to make, and its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictedCost {
    pub prompt_tokens: f64,
    pub output_tokens: f64,
    /// Output-equivalent: `output_tokens + prompt_tokens / kappa`.
    pub total: Tokens,
}
