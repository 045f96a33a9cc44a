//! What in a request makes it impossible to go on with its stream on another worker.

use serde_json::Value;

use super::call::Call;
use super::json::JsonObject;
use crate::domain::{Api, EngineKind, Obstacle};

/// `None`: nothing in the request does. What only the answer shows (tool calls, reasoning) is seen later.
pub(super) fn of_call(engine: EngineKind, call: &Call) -> Option<Obstacle> {
    if call.choices > 1 {
        return Some(Obstacle::Choices);
    }
    match &call.generate {
        Some(parameters) => parameters.obstacle().or_else(|| {
            let counted = parameters
                .frequency_penalty
                .is_some_and(|penalty| penalty != 0.0);
            (engine == EngineKind::Vllm && counted).then_some(Obstacle::Penalties)
        }),
        None => of_openai(engine, call),
    }
}

fn of_openai(engine: EngineKind, call: &Call) -> Option<Obstacle> {
    let body = &call.body;
    let seed = body.raw("seed").is_some() && samples(body);
    let found = [
        (has_logprobs(body), Obstacle::Logprobs),
        (bound_to_grammar(body), Obstacle::Grammar),
        (must_call_tool(body), Obstacle::ToolCalls),
        (seed, Obstacle::Seed),
        (output_penalties(engine, body), Obstacle::Penalties),
        (odd_prompt(call), Obstacle::PromptForm),
        (prefilled(call), Obstacle::Prefilled),
        (wants_more_than_text(body), Obstacle::Modality),
    ];
    found
        .into_iter()
        .find_map(|(is_so, obstacle)| is_so.then_some(obstacle))
}

/// Whether tokens are drawn by chance. Without a temperature every engine here draws.
pub(super) fn samples(body: &JsonObject) -> bool {
    let temperature: Option<f64> = body.get("temperature").ok().flatten();
    let top_k: Option<i64> = body.get("top_k").ok().flatten();
    temperature.is_none_or(|temperature| temperature > 0.0) && top_k != Some(1)
}

fn value(body: &JsonObject, name: &str) -> Value {
    body.get(name).ok().flatten().unwrap_or_default()
}

/// `logprobs: 0` of a completion asks for the chosen tokens' own.
fn has_logprobs(body: &JsonObject) -> bool {
    let asked = |name: &str| !matches!(value(body, name), Value::Null | Value::Bool(false));
    asked("logprobs") || asked("prompt_logprobs") || asked("n_probs")
}

fn bound_to_grammar(body: &JsonObject) -> bool {
    const FIELDS: [&str; 8] = [
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "structured_outputs",
        "grammar",
        "json_schema",
        "regex",
    ];
    let format = value(body, "response_format");
    let bound_format = !format.is_null() && format["type"] != "text";
    bound_format || FIELDS.iter().any(|name| body.raw(name).is_some())
}

fn must_call_tool(body: &JsonObject) -> bool {
    match value(body, "tool_choice") {
        Value::Null => false,
        Value::String(choice) => choice != "auto" && choice != "none",
        _ => true,
    }
}

/// vLLM counts presence and frequency over what it made itself, so a second worker would begin at nothing.
/// The others look at the prompt too, which then holds what the first one made.
fn output_penalties(engine: EngineKind, body: &JsonObject) -> bool {
    let set = |name: &str| {
        body.get::<f64>(name)
            .ok()
            .flatten()
            .is_some_and(|penalty| penalty != 0.0)
    };
    engine == EngineKind::Vllm && (set("presence_penalty") || set("frequency_penalty"))
}

fn odd_prompt(call: &Call) -> bool {
    let body = &call.body;
    let changed = ["suffix", "truncate_prompt_tokens", "prompt_embeds"]
        .iter()
        .any(|name| body.raw(name).is_some());
    let echo = value(body, "echo") == Value::Bool(true);
    let cut_in_text = value(body, "include_stop_str_in_output") == Value::Bool(true);
    let not_text = call.api == Api::Completions && prompt_text(body).is_none();
    changed || echo || cut_in_text || not_text
}

/// The prompt of a completion, if it is one text.
pub(super) fn prompt_text(body: &JsonObject) -> Option<String> {
    match value(body, "prompt") {
        Value::String(text) => Some(text),
        Value::Array(mut texts) if texts.len() == 1 => match texts.pop() {
            Some(Value::String(text)) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn prefilled(call: &Call) -> bool {
    if call.api != Api::ChatCompletions {
        return false;
    }
    let own_form = ["continue_final_message", "add_generation_prompt"]
        .iter()
        .any(|name| call.body.raw(name).is_some());
    let messages = value(&call.body, "messages");
    let last = messages.as_array().and_then(|messages| messages.last());
    own_form || last.is_some_and(|message| message["role"] == "assistant")
}

fn wants_more_than_text(body: &JsonObject) -> bool {
    let modalities = value(body, "modalities");
    let more = modalities
        .as_array()
        .is_some_and(|list| list.iter().any(|modality| modality != "text"));
    more || body.raw("audio").is_some()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::domain::RequestLimits;
    use crate::engines::read_call;

    #[track_caller]
    fn check(api: Api, mut body: Value, more: Value, expect: Option<Obstacle>) {
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        let object = JsonObject::parse(Bytes::from(body.to_string())).unwrap();
        let limits = RequestLimits {
            max_new_tokens: 4096,
        };
        let call = read_call(api, object, &limits).unwrap();
        assert_eq!(of_call(EngineKind::Vllm, &call), expect, "{body}");
    }

    fn completion(more: Value, expect: Option<Obstacle>) {
        check(
            Api::Completions,
            json!({"prompt": "a", "stream": true}),
            more,
            expect,
        );
    }

    fn chat(more: Value, expect: Option<Obstacle>) {
        let body = json!({"messages": [{"role": "user", "content": "a"}], "stream": true});
        check(Api::ChatCompletions, body, more, expect);
    }

    #[test]
    fn plain_requests_can_be_gone_on_with() {
        completion(json!({}), None);
        completion(
            json!({"prompt": ["a"], "logprobs": null, "seed": 1, "temperature": 0}),
            None,
        );
        chat(json!({"logprobs": false, "tool_choice": "auto"}), None);
        chat(json!({"response_format": {"type": "text"}, "n": 1}), None);
        check(
            Api::GenerateStream,
            json!({"inputs": "a", "parameters": {"do_sample": true}}),
            json!({}),
            None,
        );
    }

    #[test]
    fn what_another_worker_cannot_know_is_named() {
        completion(json!({"n": 2}), Some(Obstacle::Choices));
        completion(json!({"logprobs": 0}), Some(Obstacle::Logprobs));
        completion(json!({"prompt": [1, 2]}), Some(Obstacle::PromptForm));
        completion(json!({"echo": true}), Some(Obstacle::PromptForm));
        completion(json!({"seed": 1}), Some(Obstacle::Seed));
        completion(json!({"presence_penalty": 0.5}), Some(Obstacle::Penalties));
        completion(json!({"guided_regex": "a+"}), Some(Obstacle::Grammar));
        chat(json!({"logprobs": true}), Some(Obstacle::Logprobs));
        chat(
            json!({"response_format": {"type": "json_object"}}),
            Some(Obstacle::Grammar),
        );
        chat(
            json!({"tool_choice": "required"}),
            Some(Obstacle::ToolCalls),
        );
        chat(
            json!({"messages": [{"role": "assistant", "content": "So"}]}),
            Some(Obstacle::Prefilled),
        );
        chat(
            json!({"modalities": ["text", "audio"]}),
            Some(Obstacle::Modality),
        );
        let generate = |parameters: Value, expect| {
            let body = json!({"inputs": "a", "parameters": parameters});
            check(Api::GenerateStream, body, json!({}), Some(expect));
        };
        generate(json!({"seed": 1, "do_sample": true}), Obstacle::Seed);
        generate(json!({"truncate": 5}), Obstacle::PromptForm);
        generate(
            json!({"grammar": {"type": "regex", "value": "a"}}),
            Obstacle::Grammar,
        );
    }
}
