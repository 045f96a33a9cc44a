//! What is known of a request before it is sent to a worker.

use serde::{Deserialize, Serialize};

use super::{ClientKey, Outlook, Tokens};

/// The interface a client called; decides the shape of answers and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// Output that four of five such requests do not exceed: what they take of a KV cache.
    pub output_reserved: f64,
    /// Corrects `output_tokens` while the answer grows.
    #[serde(skip)]
    pub outlook: Outlook,
}

/// What is believed of one endpoint's requests, and how well it is known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PredictionView {
    /// Mean of |actual - predicted| / predicted output tokens, of the last requests.
    pub relative_error: Option<f64>,
    /// Above 1 where more is produced than predicted.
    pub actual_to_predicted: Option<f64>,
    pub bytes_per_token: f64,
    /// Clients and their routes with beliefs of their own.
    pub clients_remembered: usize,
    /// Routes, then clients.
    pub rows: Vec<PredictionRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PredictionRow {
    /// `None` for all clients of the route.
    pub client: Option<ClientKey>,
    pub api: Api,
    /// Requests that ask for more than half of this and no more; `None` where they do not say.
    pub max_tokens_up_to: Option<u64>,
    pub requests: u64,
    /// Produced tokens as a share of those asked for.
    pub output_ratio: Option<f64>,
    /// Mean length of an answer.
    pub output_tokens: f64,
    pub bytes_per_token: f64,
}
