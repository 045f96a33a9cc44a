//! Going on with a stream on another worker after the first one broke off.

use serde::{Deserialize, Serialize};

/// Which broken streams are gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResumeMode {
    /// All that can be, sampled ones included: what follows is drawn from the same distribution.
    Always,
    /// Only those whose tokens are not drawn by chance.
    Deterministic,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResumeSettings {
    pub mode: ResumeMode,
    /// Workers one stream may lose after its first byte.
    pub times_max: u32,
}

/// What makes it impossible to go on with a stream as if nothing had happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// Several answers at once: `n`, `best_of`, several prompts.
    Choices,
    /// Log probabilities were asked for.
    Logprobs,
    /// The text is bound to a grammar or schema, whose state is lost.
    Grammar,
    /// A tool call has begun, or must.
    ToolCalls,
    /// The model has been thinking, which is not in the text.
    Reasoning,
    /// A seed promises one particular sample.
    Seed,
    /// Penalties that the engine counts over its own output only.
    Penalties,
    /// The prompt is repeated, cut, or followed by a suffix; or it is not text.
    PromptForm,
    /// The client has the model go on with a message of its own.
    Prefilled,
    /// Audio, images: more than text.
    Modality,
    /// Longer than is kept.
    TooLong,
    /// The stream held what could not be read, so its text is not known.
    NotUnderstood,
}

impl Obstacle {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Obstacle::Choices => "choices",
            Obstacle::Logprobs => "logprobs",
            Obstacle::Grammar => "grammar",
            Obstacle::ToolCalls => "tool_calls",
            Obstacle::Reasoning => "reasoning",
            Obstacle::Seed => "seed",
            Obstacle::Penalties => "penalties",
            Obstacle::PromptForm => "prompt_form",
            Obstacle::Prefilled => "prefilled",
            Obstacle::Modality => "modality",
            Obstacle::TooLong => "too_long",
            Obstacle::NotUnderstood => "not_understood",
        }
    }
}
