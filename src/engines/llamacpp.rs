//! The llama.cpp server's `/completion`, which TGI's routes are translated to.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{BadRequest, Call};
use super::errors::error_message;
use super::generate::GenerateParameters;
use super::transcript::Transcript;
use super::translate::{Dialect, Finish, Said, Token, Whole};

/// How far back penalties look. TGI's look at everything; llama.cpp's own default of 64 is less than an answer,
/// and its newer servers refuse -1.
const PENALTY_TOKENS: u32 = 4096;

#[derive(Debug)]
pub(super) struct LlamaCpp;

impl Dialect for LlamaCpp {
    fn name(&self) -> &'static str {
        "llamacpp"
    }

    fn path(&self) -> &'static str {
        "/completion"
    }

    /// What TGI leaves off unless asked is set to be without effect: llama.cpp has defaults of its own.
    fn request(&self, call: &Call, parameters: &GenerateParameters) -> Result<Value, BadRequest> {
        let mut fields = json!({
            "n_predict": parameters.new_tokens,
            "temperature": parameters.temperature_or_greedy(),
            "top_k": parameters.top_k.unwrap_or(0),
            "top_p": parameters.top_p.unwrap_or(1.0),
            "min_p": 0.0,
            "typical_p": parameters.typical_p.unwrap_or(1.0),
            "repeat_penalty": parameters.repetition_penalty.unwrap_or(1.0),
            "frequency_penalty": parameters.frequency_penalty.unwrap_or(0.0),
            "stop": parameters.stop,
            "cache_prompt": true,
            "return_tokens": true,
            "stream": call.streamed,
        });
        if parameters.repetition_penalty.is_some() || parameters.frequency_penalty.is_some() {
            fields["repeat_last_n"] = PENALTY_TOKENS.into();
        }
        if let Some(seed) = parameters.seed {
            // The greatest 32-bit number stands for a random seed.
            fields["seed"] = (seed % u64::from(u32::MAX)).into();
        }
        if parameters.details && !call.streamed {
            fields["n_probs"] = 1.into();
        }
        Ok(fields)
    }

    /// A prompt may mix text and token ids.
    fn prompt_after(&self, prompt: &[u8], transcript: &Transcript) -> Option<Bytes> {
        let ids = transcript.ids.as_deref().filter(|ids| !ids.is_empty())?;
        let mut mixed = BytesMut::with_capacity(prompt.len() + 8 * ids.len());
        mixed.extend_from_slice(b"[");
        mixed.extend_from_slice(prompt);
        for id in ids {
            mixed.extend_from_slice(format!(",{id}").as_bytes());
        }
        mixed.extend_from_slice(b"]");
        Some(mixed.freeze())
    }

    fn read_event(&self, data: &[u8]) -> Option<Said> {
        let event: Completion = serde_json::from_slice(data).ok()?;
        if let Some(error) = event.error {
            let error = error_message(&json!({ "error": error })).unwrap_or_default();
            return Some(Said {
                error: Some(error),
                ..Said::default()
            });
        }
        let finish = if event.stop {
            Some(event.finish()?)
        } else {
            None
        };
        Some(Said {
            ids: event.tokens,
            prompt_ids: None,
            tokens: u32::from(!event.content.is_empty()),
            tokens_so_far: event.tokens_predicted,
            usage: event.tokens_predicted.filter(|_| event.stop),
            prompt_tokens: event.tokens_evaluated,
            done: event.stop,
            finish,
            error: None,
            text: event.content + &event.stopping_word,
        })
    }

    fn read_answer(&self, body: &[u8]) -> Option<Whole> {
        let answer: Completion = serde_json::from_slice(body).ok()?;
        let finish = answer.finish()?;
        Some(Whole {
            finish,
            output_tokens: answer.tokens_predicted?,
            prompt_tokens: answer.tokens_evaluated,
            tokens: answer.details_tokens(),
            text: answer.content + &answer.stopping_word,
        })
    }
}

/// A stream's event or a whole answer.
#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    content: String,
    /// Only the last id of an event that holds several tokens.
    #[serde(default)]
    tokens: Vec<i64>,
    #[serde(default)]
    stop: bool,
    /// All so far.
    #[serde(default)]
    tokens_predicted: Option<u32>,
    /// Of the prompt, cached ones included.
    #[serde(default)]
    tokens_evaluated: Option<u32>,
    #[serde(default)]
    stop_type: String,
    /// Cut off the content; TGI leaves it in.
    #[serde(default)]
    stopping_word: String,
    #[serde(default)]
    completion_probabilities: Vec<Probability>,
    #[serde(default)]
    error: Option<Value>,
}

impl Completion {
    fn finish(&self) -> Option<Finish> {
        match self.stop_type.as_str() {
            "limit" => Some(Finish::Length),
            "eos" => Some(Finish::EosToken),
            "word" => Some(Finish::StopSequence),
            _ => None,
        }
    }

    /// llama.cpp leaves out the tokens of the stop sequence; they follow with its text on the first of them.
    fn details_tokens(&self) -> Vec<Token> {
        let known = self.completion_probabilities.iter().map(Probability::token);
        let left_out = self.tokens.iter().skip(self.completion_probabilities.len());
        let texts = std::iter::once(self.stopping_word.as_str()).chain(std::iter::repeat(""));
        let stop = left_out.zip(texts).map(|(id, text)| token(*id, text, None));
        if self.completion_probabilities.is_empty() {
            Vec::new()
        } else {
            known.chain(stop).collect()
        }
    }
}

fn token(id: i64, text: &str, logprob: Option<f64>) -> Token {
    Token {
        id,
        text: text.to_owned(),
        logprob,
        special: text.is_empty(),
    }
}

#[derive(Deserialize)]
struct Probability {
    id: i64,
    #[serde(default)]
    token: String,
    #[serde(default)]
    logprob: Option<f64>,
}

impl Probability {
    fn token(&self) -> Token {
        token(self.id, &self.token, self.logprob)
    }
}
