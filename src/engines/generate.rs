//! The `parameters` of TGI's routes, read once for checking and for translation to other engines.

use super::call::{BadRequest, integer, read};
use super::json::JsonObject;
use crate::domain::{Obstacle, RequestLimits};

/// What TGI generates when a request does not say how much.
const DEFAULT_NEW_TOKENS: u32 = 100;
const BEST_OF_MAX: u64 = 128;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct GenerateParameters {
    pub max_new_tokens: Option<u32>,
    /// What a translated request asks for: `max_new_tokens` or the default within the limit.
    pub new_tokens: u32,
    pub best_of: u32,
    pub do_sample: bool,
    pub temperature: Option<f64>,
    pub top_k: Option<u32>,
    pub top_p: Option<f64>,
    pub typical_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub stop: Vec<String>,
    pub seed: Option<u64>,
    pub details: bool,
    pub return_full_text: bool,
    /// Set parameters that only TGI itself can serve.
    only_tgi: Vec<&'static str>,
}

impl GenerateParameters {
    pub fn read(body: &JsonObject, limits: &RequestLimits) -> Result<Self, BadRequest> {
        let object = match body.raw("parameters") {
            Some(raw) => JsonObject::parse(raw.clone()).map_err(|_| {
                BadRequest::about("parameters", "must be an object without doubles")
            })?,
            None => JsonObject::default(),
        };
        let max_new_tokens = integer(
            &object,
            "max_new_tokens",
            1,
            u64::from(limits.max_new_tokens),
        )?;
        Ok(Self {
            max_new_tokens,
            new_tokens: max_new_tokens.unwrap_or(DEFAULT_NEW_TOKENS.min(limits.max_new_tokens)),
            best_of: integer(&object, "best_of", 1, BEST_OF_MAX)?.unwrap_or(1),
            do_sample: flag(&object, "do_sample")?,
            temperature: number(&object, "temperature")?,
            top_k: count(&object, "top_k")?,
            top_p: number(&object, "top_p")?,
            typical_p: number(&object, "typical_p")?,
            repetition_penalty: number(&object, "repetition_penalty")?,
            frequency_penalty: number(&object, "frequency_penalty")?,
            stop: read(&object, "stop", "must be a list of strings")?.unwrap_or_default(),
            seed: read(&object, "seed", "must be an integer of at least 0")?,
            details: flag(&object, "details")?,
            return_full_text: flag(&object, "return_full_text")?,
            only_tgi: only_tgi(&object)?,
        })
    }

    /// Whether TGI draws tokens rather than taking the likeliest: asked for, or implied by any setting that
    /// changes the distribution (`NextTokenChooser` in TGI's server/text_generation_server/utils/tokens.py).
    pub fn samples(&self) -> bool {
        self.do_sample
            || self
                .temperature
                .is_some_and(|temperature| temperature != 1.0)
            || self.top_k.is_some_and(|top_k| top_k > 0)
            || self.top_p.is_some_and(|top_p| top_p < 1.0)
            || self.typical_p.is_some_and(|typical_p| typical_p < 1.0)
    }

    /// The temperature for engines that are greedy at 0.
    pub fn temperature_or_greedy(&self) -> f64 {
        if self.samples() {
            self.temperature.unwrap_or(1.0)
        } else {
            0.0
        }
    }

    /// What makes it impossible to go on with the stream on another worker.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let only = |param: &str| self.only_tgi.contains(&param);
        if only("grammar") {
            Some(Obstacle::Grammar)
        } else if only("truncate") {
            Some(Obstacle::PromptForm)
        } else if self.seed.is_some() && self.samples() {
            Some(Obstacle::Seed)
        } else {
            None
        }
    }

    /// Refuses what only TGI can do, naming the parameter.
    pub fn refuse_only_tgi(&self, engine: &str) -> Result<(), BadRequest> {
        let best_of = (self.best_of > 1).then_some("best_of");
        match self.only_tgi.first().copied().or(best_of) {
            Some(param) => Err(cannot_serve(param, engine)),
            None => Ok(()),
        }
    }
}

pub(super) fn cannot_serve(param: &'static str, engine: &str) -> BadRequest {
    BadRequest::about(
        param,
        format_args!("cannot be served by the engine of this endpoint ({engine})"),
    )
}

fn only_tgi(object: &JsonObject) -> Result<Vec<&'static str>, BadRequest> {
    let mut found = Vec::new();
    for param in ["watermark", "decoder_input_details"] {
        if flag(object, param)? {
            found.push(param);
        }
    }
    for param in ["truncate", "top_n_tokens"] {
        if count(object, param)?.is_some_and(|value| value > 0) {
            found.push(param);
        }
    }
    found.extend(
        ["grammar", "adapter_id"]
            .into_iter()
            .filter(|param| object.raw(param).is_some()),
    );
    Ok(found)
}

fn flag(object: &JsonObject, param: &'static str) -> Result<bool, BadRequest> {
    Ok(read(object, param, "must be true or false")?.unwrap_or(false))
}

fn number(object: &JsonObject, param: &'static str) -> Result<Option<f64>, BadRequest> {
    read(object, param, "must be a number")
}

fn count(object: &JsonObject, param: &'static str) -> Result<Option<u32>, BadRequest> {
    integer(object, param, 0, i32::MAX as u64)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    fn parameters(parameters: Value) -> GenerateParameters {
        let body = Bytes::from(json!({ "parameters": parameters }).to_string());
        let limits = RequestLimits {
            max_new_tokens: 1000,
        };
        GenerateParameters::read(&JsonObject::parse(body).unwrap(), &limits).unwrap()
    }

    #[test]
    fn a_request_samples_exactly_when_tgi_would() {
        let check = |set: Value, temperature: f64| {
            assert_eq!(
                parameters(set.clone()).temperature_or_greedy(),
                temperature,
                "{set}"
            );
        };
        check(json!({}), 0.0);
        check(json!({"do_sample": false, "temperature": 1.0}), 0.0);
        check(json!({"do_sample": true}), 1.0);
        check(json!({"temperature": 0.3}), 0.3);
        check(json!({"top_k": 5}), 1.0);
        check(json!({"top_p": 0.9}), 1.0);
    }

    #[test]
    fn without_max_new_tokens_a_hundred_are_made_unless_the_limit_is_lower() {
        assert_eq!(parameters(json!({})).new_tokens, 100);
        assert_eq!(parameters(json!({"max_new_tokens": 7})).new_tokens, 7);
        let limits = RequestLimits { max_new_tokens: 50 };
        let low = GenerateParameters::read(&JsonObject::default(), &limits).unwrap();
        assert_eq!((low.max_new_tokens, low.new_tokens), (None, 50));
    }

    #[test]
    fn what_only_tgi_can_do_is_refused_by_name() {
        let check = |name: &'static str, value: Value| {
            let error = parameters(json!({name: value}))
                .refuse_only_tgi("vllm")
                .unwrap_err();
            assert_eq!(error.param, Some(name));
            assert!(error.message.contains("vllm"));
        };
        check("best_of", json!(2));
        check("watermark", json!(true));
        check("truncate", json!(100));
        check("top_n_tokens", json!(3));
        check("decoder_input_details", json!(true));
        check("grammar", json!({"type": "regex", "value": "a+"}));
        check("adapter_id", json!("lora"));
        let harmless =
            json!({"watermark": false, "grammar": null, "top_n_tokens": 0, "best_of": 1});
        assert!(parameters(harmless).refuse_only_tgi("vllm").is_ok());
    }
}
