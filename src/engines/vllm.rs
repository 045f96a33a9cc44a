//! vLLM's `/v1/completions`, which TGI's routes are translated to.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{BadRequest, Call};
use super::errors::error_message;
use super::generate::{GenerateParameters, cannot_serve};
use super::openai_chunk::Usage;
use super::transcript::Transcript;
use super::translate::{Dialect, Finish, Said, Token, Whole};

#[derive(Debug)]
pub(super) struct Vllm;

impl Dialect for Vllm {
    fn name(&self) -> &'static str {
        "vllm"
    }

    fn path(&self) -> &'static str {
        "/v1/completions"
    }

    /// What TGI leaves off unless asked is set to be without effect: vLLM takes defaults from the model's files.
    fn request(&self, call: &Call, parameters: &GenerateParameters) -> Result<Value, BadRequest> {
        if parameters
            .typical_p
            .is_some_and(|typical_p| typical_p < 1.0)
        {
            return Err(cannot_serve("typical_p", self.name()));
        }
        let mut fields = json!({
            "max_tokens": parameters.new_tokens,
            "temperature": parameters.temperature_or_greedy(),
            "top_k": parameters.top_k.filter(|top_k| *top_k > 0).map_or(-1, i64::from),
            "top_p": parameters.top_p.unwrap_or(1.0),
            "min_p": 0.0,
            "repetition_penalty": parameters.repetition_penalty.unwrap_or(1.0),
            "frequency_penalty": parameters.frequency_penalty.unwrap_or(0.0),
            "stop": parameters.stop,
            // TGI leaves the stop sequence in the text.
            "include_stop_str_in_output": true,
            "return_token_ids": true,
            "stream": call.streamed,
        });
        if let Some(seed) = parameters.seed {
            fields["seed"] = (seed & i64::MAX as u64).into();
        }
        if call.streamed {
            fields["stream_options"] = json!({ "include_usage": true });
        } else if parameters.details {
            fields["logprobs"] = 0.into();
        }
        Ok(fields)
    }

    fn prompt_after(&self, _prompt: &[u8], transcript: &Transcript) -> Option<Bytes> {
        let prompt = transcript.prompt_ids.as_deref()?;
        let given = transcript.ids.as_deref()?;
        serde_json::to_vec(&[prompt, given].concat())
            .ok()
            .map(Bytes::from)
    }

    fn read_event(&self, data: &[u8]) -> Option<Said> {
        if data == b"[DONE]" {
            return Some(Said {
                done: true,
                ..Said::default()
            });
        }
        let event: Completion = serde_json::from_slice(data).ok()?;
        let mut said = Said {
            error: event.error(),
            ..Said::default()
        };
        if let Some(usage) = event.usage {
            said.usage = usage.completion_tokens;
            said.prompt_tokens = usage.prompt_tokens;
        }
        let Some(choice) = event.choices.into_iter().next() else {
            said.done = said.usage.is_some();
            return Some(said);
        };
        match choice.finish() {
            Ok(finish) => said.finish = finish,
            Err(reason) => said.error = Some(format!("the engine ended the answer: {reason}")),
        }
        said.tokens = match &choice.token_ids {
            Some(ids) => u32::try_from(ids.len()).unwrap_or(u32::MAX),
            None => u32::from(!choice.text.is_empty()),
        };
        said.ids = choice.token_ids.unwrap_or_default();
        said.prompt_ids = choice.prompt_token_ids;
        said.text = choice.text;
        Some(said)
    }

    fn read_answer(&self, body: &[u8]) -> Option<Whole> {
        let answer: Completion = serde_json::from_slice(body).ok()?;
        let choice = answer.choices.into_iter().next()?;
        let finish = choice.finish().ok()??;
        let usage = answer.usage.unwrap_or_default();
        let tokens = choice.tokens();
        Some(Whole {
            finish,
            output_tokens: usage
                .completion_tokens
                .or(u32::try_from(tokens.len()).ok())?,
            prompt_tokens: usage.prompt_tokens,
            tokens,
            text: choice.text,
        })
    }
}

/// A stream's event or a whole answer.
#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    object: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Completion {
    /// Older versions put the error's fields at the top.
    fn error(&self) -> Option<String> {
        let old = (self.object.as_deref() == Some("error")).then_some(&self.message);
        match (&self.error, old) {
            (Some(error), _) => error_message(&json!({ "error": error })),
            (None, Some(message)) => Some(message.clone().unwrap_or_default()),
            (None, None) => None,
        }
    }
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: String,
    #[serde(default)]
    token_ids: Option<Vec<i64>>,
    /// In the first chunk.
    #[serde(default)]
    prompt_token_ids: Option<Vec<i64>>,
    #[serde(default)]
    finish_reason: Option<String>,
    /// The stop sequence, or the id of a token that ends the text.
    #[serde(default)]
    stop_reason: Option<Value>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
}

impl Choice {
    /// The reason itself where TGI knows none like it.
    fn finish(&self) -> Result<Option<Finish>, &str> {
        match self.finish_reason.as_deref() {
            None => Ok(None),
            Some("length") => Ok(Some(Finish::Length)),
            Some("stop") if self.stop_reason.as_ref().is_some_and(Value::is_string) => {
                Ok(Some(Finish::StopSequence))
            }
            Some("stop") => Ok(Some(Finish::EosToken)),
            Some(other) => Err(other),
        }
    }

    fn tokens(&self) -> Vec<Token> {
        let Some(logprobs) = &self.logprobs else {
            return Vec::new();
        };
        let ids = self
            .token_ids
            .iter()
            .flatten()
            .copied()
            .chain(std::iter::repeat(0));
        let logprob = |at: usize| logprobs.token_logprobs.get(at).copied().flatten();
        let texts = logprobs.tokens.iter().enumerate().zip(ids);
        texts
            .map(|((at, text), id)| Token {
                id,
                text: text.clone(),
                logprob: logprob(at),
                special: text.is_empty(),
            })
            .collect()
    }
}

#[derive(Deserialize)]
struct Logprobs {
    #[serde(default)]
    tokens: Vec<String>,
    #[serde(default)]
    token_logprobs: Vec<Option<f64>>,
}
